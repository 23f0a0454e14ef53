"""How fast dreams are dreamt and learnt from, where the time goes, and what bounds it.

    python benchmarks/dreaming_speed.py --task rover
    python benchmarks/dreaming_speed.py --device cuda --logs runs/dreaming/rover-logs

A learned step is one imagined step of one dream that actor and critic were trained on. Logs are the demonstrator's; the
model is untrained, but made to expect no falls, as its speed is that of a trained one. On the CPU the time is processor
time, on a GPU that which passes until it is done. Of several bursts the least counts, as what else a machine does only
ever adds to it; the median stands beside it. With --phase-s, a night's dream phase is run, audits and trials of the
policy included, and counted by what its time went to.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from survival import logs, night
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from configs import from_dict, packaged
from dreaming.checks import Checks
from dreaming.learning import DreamLearner
from dreaming.run import NightConfig
from dreaming.scenario import load_scenarios, usual_world
from worldmodel.device import choose_device
from worldmodel.model import ModelConfig
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer

NIGHT_S, YEAR_S = 8 * 3600.0, 365.25 * 24 * 3600.0
AIM = 50_000  # learned steps a second at size 1m on two cores


@dataclass
class Dreaming:
    """Imagined-and-learned steps a second, by size, dreams x steps and precision of the RSSM's products."""

    task: str = "rover"
    cases: str = "laptop:64x32:float32,1m:256x15:float32,1m:512x15:float32,1m:1024x15:float32,1m:1024x15:bfloat16"
    device: str = "cpu"
    threads: int = 1
    bursts: int = 5
    burst_s: float = 1.0
    phase_s: float = 0.0
    """Length of a night's dream phase that is run too, after a model and a clone of a quarter of that each."""
    episodes: int = 40
    logs: Path | None = None
    """Of the task, recorded before: a machine for GPUs need not have PyBullet."""
    out: Path = Path("runs/dreaming")


LEARNING = {
    "dream_physics": "physics, in Python",
    "imagine": "dream: the rest of a step",
    "going_on": "choosing those that go on",
}


# -- what is measured --------------------------------------------------------------------------------------------------


def learner(options: Dreaming, reader: LogReader, size: str, dreams: int, steps: int, compute: Any) -> DreamLearner:
    """As in a night, but for its shape; past the updates that train the critic alone."""
    config = NightConfig.for_task(options.task)
    shape = from_dict(ModelConfig, packaged("sizes", size), f"size {size}")
    device = choose_device(options.device)
    trainer = Trainer(reader, shape, replace(config.trainer, compute=compute), 0, device)
    with torch.no_grad():
        trainer.model.continuation.out.bias.fill_(5.0)
    learns = replace(config.dream.actor_critic, critic_first=0)
    dream = replace(config.dream, dreams=dreams, horizon=steps, actor_critic=learns)
    scenarios = load_scenarios(config.scenario, options.task)
    hz = float(reader.schema["control_hz"])
    return DreamLearner(
        trainer.model,
        trainer.replay,
        options.task,
        usual_world(options.task, trainer.model.context),
        scenarios,
        hz,
        dream,
    )


def bursts(work: Callable[[], Any], options: Dreaming, clock: Callable[[], float]) -> list[float]:
    """Seconds of one call, of several bursts of calls."""
    for _ in range(3):
        work()
    found = []
    for _ in range(options.bursts):
        begun, count = clock(), 0
        while not count or clock() - begun < options.burst_s:
            work()
            count += 1
        found.append((clock() - begun) / count)
    return found


def clock_of(device: torch.device) -> Callable[[], float]:
    def until_done() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return until_done if device.type == "cuda" else time.process_time


def gflop_s(dtype: torch.dtype, device: torch.device, clock: Callable[[], float]) -> float:
    """The most that this machine multiplies, in products of n x n."""
    n = 1024 if device.type == "cpu" else 8192
    x = torch.randn(n, n, device=device, dtype=dtype)
    least = float("inf")
    for _ in range(8):
        begun = clock()
        torch.mm(x, x)
        least = min(least, clock() - begun)
    return 2e-9 * n**3 / least


class Operators(TorchDispatchMode):
    """Counts what PyTorch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class Parts:
    """Seconds that calls took by themselves, without the parts that they called in turn."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.spent, self.inner = clock, defaultdict(float), [0.0]

    def watch(self, holder: Any, name: str, part: str) -> None:
        work = getattr(holder, name)

        def watched(*args, **kwargs):
            begun = self.clock()
            self.inner.append(0.0)
            try:
                return work(*args, **kwargs)
            finally:
                took = self.clock() - begun
                self.spent[part] += took - self.inner.pop()
                self.inner[-1] += took

        setattr(holder, name, watched)

    @contextmanager
    def of(self, dreamer: DreamLearner) -> Iterator[None]:
        """Watches an update's parts."""
        from dreaming import learning

        model, own, before = dreamer.model, dreamer.learner, dict(vars(learning))
        self.watch(dreamer, "dream", "the rest")
        self.watch(dreamer, "_starts", "starts from logs")
        self.watch(dreamer, "draw", "physics, in Python")
        for name, part in LEARNING.items():
            self.watch(learning, name, part)
        self.watch(own.actor, "forward", "actor")
        self.watch(model.rssm, "imagine_step", "RSSM")
        if model.transition is not None:
            self.watch(model.transition, "forward", "transition")
        self.watch(model.decoder, "forward", "decoder")
        for name in ("predict_reward", "predict_continuation"):
            self.watch(model, name, "reward and falls")
        self.watch(own, "losses", "returns, pulls, back through the dream")
        for name in ("critic", "slow_critic"):
            self.watch(getattr(own, name), "forward", "critic")
        self.watch(own.optimizer, "step", "optimiser")
        # Once a GPU has recorded an update, there are no parts to be told apart in it.
        self.watch(dreamer, "_dreamt", "backward" if dreamer.replay.device.type == "cpu" else "recorded")
        try:
            yield
        finally:
            for name in LEARNING:
                setattr(learning, name, before[name])


def parts(dreamer: DreamLearner, clock: Callable[[], float], updates: int = 6) -> dict[str, float]:
    """Share of an update's time by part; the learner is of no use afterwards."""
    found = Parts(clock)
    with found.of(dreamer):
        for _ in range(updates):
            dreamer.dream(0.1)
    total = sum(found.spent.values())
    return {part: spent / total for part, spent in sorted(found.spent.items(), key=lambda pair: -pair[1])}


def measure(options: Dreaming, reader: LogReader, case: str) -> dict[str, Any]:
    size, shape, compute = case.split(":")
    dreams, steps = (int(n) for n in shape.split("x"))
    dreamer = learner(options, reader, size, dreams, steps, compute)
    device = dreamer.replay.device
    clock = clock_of(device)
    # First, as a GPU does the first updates unrecorded; once recorded, it is asked for none of this.
    with FlopCounterMode(display=False) as flops:
        dreamer.dream(0.1)
    with Operators() as operators:
        dreamer.dream(0.1)
    found = bursts(lambda: dreamer.dream(0.1), options, clock)
    wall = bursts(lambda: dreamer.dream(0.1), options, time.perf_counter) if options.threads > 1 else found
    peak = {name: gflop_s(getattr(torch, name), device, clock) for name in ("float32", "bfloat16")}
    learned = dreams * steps
    return {
        "case": case,
        "update_s": found,
        "wall_update_s": wall,
        "steps_s": learned / min(wall),
        "median_steps_s": learned / median(wall),
        "mflop_a_step": 1e-6 * flops.get_total_flops() / learned,
        "operators": operators.count,
        "gflop_s": 1e-9 * flops.get_total_flops() / min(found),
        "peak_gflop_s": peak,
        "gpu_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "parts": parts(dreamer, clock),
    }


# -- a night's dream phase ---------------------------------------------------------------------------------------------


def phase(options: Dreaming, folder: Path) -> dict[str, Any]:
    """Shares of a real dream phase: updates, audits, trials of the policy, the rest; and its learned steps a second."""
    config = replace(NightConfig.for_task(options.task), data=str(folder.resolve()))
    run = options.out / f"{options.task}-night"
    for name in ("learn", "clone"):
        night(config, run, name, options.phase_s / 4)
    found = Parts(time.process_time)
    watched: list[tuple[type, str, str]] = [(DreamLearner, "dream", "updates"), (Checks, "audit", "audits")]
    watched += [(Checks, "select", "trials"), (Checks, "try_policy", "trials")]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
    for owner, name, part in watched:
        found.watch(owner, name, part)
    begun = time.process_time()
    try:
        state = night(config, run, "dream", options.phase_s).state
    finally:
        for owner, name, work in before:
            setattr(owner, name, work)
    total = time.process_time() - begun
    shares = {part: spent / total for part, spent in found.spent.items()}
    return {
        "seconds": total,
        "updates": state.updates,
        "steps_s": state.imagined_steps / total,
        "shares": shares | {"the rest": 1 - sum(shares.values())},
    }


# -- tables ------------------------------------------------------------------------------------------------------------


def dreamt(steps_s: float, hz: float) -> str:
    """Robot time of eight hours' steps."""
    days = NIGHT_S * steps_s / hz / 86400
    return f"{days:.1f} d" if days < 100 else f"{days * 86400 / YEAR_S:.2f} y"


def markdown(reports: list[dict[str, Any]], hz: float) -> str:
    titles = ["case", "update, ms", "steps/s", "median", f"8 h at {hz:g} Hz", "8 h at 60 Hz"]
    titles += ["MFLOP a step", "GFLOP/s", "of the machine's", "operators"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for r in reports:
        peak = r["peak_gflop_s"]["float32"]
        cells = [r["case"], f"{1e3 * min(r['update_s']):.0f}", f"{r['steps_s']:,.0f}", f"{r['median_steps_s']:,.0f}"]
        cells += [dreamt(r["steps_s"], hz), dreamt(r["steps_s"], 60.0), f"{r['mflop_a_step']:.2f}"]
        cells += [f"{r['gflop_s']:.0f}", f"{100 * r['gflop_s'] / peak:.0f}% of {peak:.0f}", f"{r['operators']:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    for r in reports:
        lines.append(f"\n{r['case']}: " + ", ".join(f"{part} {100 * share:.0f}%" for part, share in r["parts"].items()))
    return "\n".join(lines)


def main(options: Dreaming) -> None:
    prepare_cpu()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.logs or options.out / f"{options.task}-logs"
    reader = LogReader(folder) if options.logs else logs(options.task, options.episodes, 0, folder)
    reports = [measure(options, reader, case) for case in options.cases.split(",") if case]
    report: dict[str, Any] = {"device": options.device, "threads": options.threads, "cases": reports}
    print(markdown(reports, float(reader.schema["control_hz"])))
    if options.phase_s:
        report["phase"] = found = phase(options, folder)
        shares = ", ".join(f"{name} {100 * share:.0f}%" for name, share in found["shares"].items())
        print(f"\nDream phase of {found['seconds']:.0f} s: {found['updates']} updates, {found['steps_s']:,.0f} learned")
        print(f"steps a second, all included; {shares}")
    best = max((r["steps_s"] for r in reports if r["case"].startswith("1m:")), default=None)
    if best:
        print(
            f"\nAt size 1m {best:,.0f} learned steps a second: {100 * best / AIM:.0f}% of the aim, {AIM:,} on two cores"
        )
    (options.out / f"{options.task}-{options.device}-{options.threads}.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Dreaming))
