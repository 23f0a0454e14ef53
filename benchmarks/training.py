"""How long training takes, ours and the peers in turn on the same work: a step, its parts, memory, the first step.

    python benchmarks/training.py --home.peers-python ../peers/bin/python \\
        --home.jax-python ../jax/bin/python --home.official ../dreamerv3

Every contender (`contenders/`) is a process in its own Python, bound to the same cores. In each round each of them
answers every question, so that what the machine does besides hits all alike; ratios are medians over rounds of what was
measured in the same round. What is not installed is left out. The work is in `contenders/protocol.py`. Peers:

    pip install torch sheeprl==0.8.4 torchrl==0.14.1
    tests/reference/README.md for the official code, which runs on JAX
"""

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import tyro
from contenders.protocol import BATCH, HORIZON, LENGTH, QUESTIONS
from contenders.worker import CONTENDERS, AbsentError, Home, Worker

REPEATS = {"policy": 20}  # asked so often a round; once otherwise


@dataclass
class Training:
    """Time and memory of training, ours and the peers in turn."""

    sizes: str = "1m,12m"
    contenders: str = "ours,ours-bf16,official,sheeprl-tuned,sheeprl-mixed,sheeprl-bf16,torchrl-tuned"
    """`mixed` has weights in float32, `bf16` in bfloat16; `tuned` has allocator and products set as ours are.

    Also to be had: official-bf16, and sheeprl and torchrl as they come.
    """
    threads: int = 1
    """With one, CPU seconds are printed, as waiting for a busy machine is not work; with more, seconds that pass."""
    device: Literal["cpu", "cuda"] = "cpu"
    """With cuda: seconds that pass until the GPU is done, and the GPU's memory."""
    rounds: int = 7
    home: Home = field(default_factory=Home)
    out: Path = Path("runs/training")

    def __post_init__(self) -> None:
        unknown = set(self.contenders.split(",")) - set(CONTENDERS)
        if unknown:
            raise ValueError(f"unknown contenders {', '.join(sorted(unknown))}; known: {', '.join(CONTENDERS)}")


def measure(size: str, options: Training) -> dict[str, dict]:
    """Reports by contender."""
    workers: list[Worker] = []
    try:
        for name in options.contenders.split(","):
            try:
                log = options.out / f"{size}-{name}.log"
                workers.append(Worker(name, size, options.threads, options.home, log, options.device))
                print(f"{size} {name}: first step after {workers[-1].first['wall_s']:.1f} s", flush=True)
            except AbsentError as reason:
                print(f"{size} {name} left out: {reason}", flush=True)
        for turn in range(-1, options.rounds):  # the first turn warms up
            for question in QUESTIONS:
                for i in range(len(workers)):
                    worker = workers[(i + turn) % len(workers)]
                    given = [worker.ask(question) for _ in range(REPEATS.get(question, 1))]
                    worker.answers[question] += given if turn >= 0 else []
    finally:
        for worker in workers:
            worker.close()
    return {worker.name: worker.report() for worker in workers}


def markdown(reports: dict[str, dict], clock: int) -> str:
    """Milliseconds: median (least), and how many times those of ours."""
    titles = ["full step", "world model", f"imagine {BATCH * LENGTH}x{HORIZON}", "policy, batch 1"]
    columns = ["contender", *titles, "steps/s at best", "first step", "peak memory", "parameters"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, report in reports.items():
        row = [name]
        for question, given in report["answers"].items():
            spent = [times[clock] for times in given]
            digits = 2 if question == "policy" else 0
            cell = f"{1e3 * median(spent):.{digits}f} ({1e3 * min(spent):.{digits}f})"
            if "ours" in reports and name != "ours":
                ours = [times[clock] for times in reports["ours"]["answers"][question]]
                cell += f" x{median(theirs / own for theirs, own in zip(spent, ours, strict=True)):.2f}"
            row.append(cell)
        best = min(times[clock] for times in report["answers"]["imagine"])
        row.append(f"{BATCH * LENGTH * HORIZON / best / 1e3:.1f}k")
        row.append(f"{report['first_step_s'][clock]:.1f} s")
        row.append(f"{report['peak_bytes'] / 1e9:.2f} GB")
        row.append(f"{sum(report['parameters'].values()):,}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(options: Training) -> None:
    clock = 1 if options.threads == 1 and options.device == "cpu" else 0  # of a report's pairs
    unit = ("ms that pass", "CPU ms")[clock]
    options.out.mkdir(parents=True, exist_ok=True)
    for size in options.sizes.split(","):
        reports = measure(size, options)
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        settings = {"size": size, "threads": options.threads, "device": options.device}
        document = {**settings, "machine": machine, "contenders": reports}
        name = f"{size}-{options.threads}" if options.device == "cpu" else f"{size}-{options.device}"
        (options.out / f"{name}.json").write_text(json.dumps(document, indent=1))
        print(
            f"\nsize {size}, threads {options.threads}, {options.rounds} rounds, {unit}: median (least), times ours\n"
        )
        print(f"{markdown(reports, clock)}\n", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Training))
