"""Does our DreamerV3 learn what the official code learns? Both act on a pendulum, at the same size, pace and rates.

    python benchmarks/learning.py --home.jax-python ../jax/bin/python --home.official ../dreamerv3

What they share is in `contenders/online.py`. Finished runs are kept in --out, so an interrupted benchmark goes on; a
contender that is not installed is left out.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from contenders.worker import HERE, AbsentError, Home

SCRIPTS = {
    "ours": ("online_ours", "ours", "float32"),
    "ours-bf16": ("online_ours", "ours", "bfloat16"),
    "official": ("online_official", "peer_official", "float32"),
}
COLUMNS = 5  # of the table, each a share of the steps


@dataclass
class Learning:
    """Returns by environment steps, of several seeds."""

    agents: str = "ours,ours-bf16,official"
    seeds: int = 3
    steps: int = 8000
    home: Home = field(default_factory=Home)
    out: Path = Path("runs/learning")


def returns(name: str, seed: int, options: Learning) -> np.ndarray:
    """Returns (episodes,) of one run, which is played if it has not been."""
    script, home, dtype = SCRIPTS[name]
    file = options.out / f"{name}-{seed}-{options.steps}.jsonl"
    if not file.exists():
        arguments = ["--seed", str(seed), "--steps", str(options.steps), "--dtype", dtype]
        command = [options.home.python(home), str(HERE / f"{script}.py"), *arguments]
        surroundings = os.environ | options.home.environment(home, threads=1)
        part = file.with_suffix(".part")
        with part.open("w") as out, file.with_suffix(".log").open("w") as log:
            subprocess.run(command, stdout=out, stderr=log, env=surroundings, check=True)
        part.rename(file)
        print(f"{name}, seed {seed} done", flush=True)
    return np.array([json.loads(line)["return"] for line in file.read_text().splitlines()])


def row(name: str, found: list[np.ndarray]) -> str:
    """Mean return of each share of the steps: over seeds, and least and greatest of the seeds."""
    parts = np.array([[part.mean() for part in np.array_split(run, COLUMNS)] for run in found])  # (seeds, COLUMNS)
    cells = [f"{p.mean():.0f} [{p.min():.0f}, {p.max():.0f}]" for p in parts.T]
    return f"| {name} | " + " | ".join(cells) + " |"


def main(options: Learning) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.agents.split(","):
        try:
            rows.append(row(name, [returns(name, seed, options) for seed in range(options.seeds)]))
        except AbsentError as reason:
            print(f"{name} left out: {reason}")
    edges = [round(options.steps * i / COLUMNS) for i in range(COLUMNS + 1)]
    titles = [f"steps {a:,} to {b:,}" for a, b in zip(edges, edges[1:], strict=False)]
    print(f"\npendulum, {options.seeds} seeds: mean return of an episode [least, greatest of the seeds]\n")
    print("| agent | " + " | ".join(titles) + " |\n" + "|---" * (COLUMNS + 1) + "|\n" + "\n".join(rows))


if __name__ == "__main__":
    main(tyro.cli(Learning))
