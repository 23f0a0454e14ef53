"""The failure atlas of a policy: how often it fails in dreams and in PyBullet, world by world, and the rank order.

    python benchmarks/atlas.py --run runs/survival/push-box/seed-0/whole

The run is a night's, or an arm's of `survival.py`. Dreams begin where held-out episodes began, are told the world, and
last as long as an episode. Writes RUN/atlas-POLICY.json and .png.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from dreaming.atlas import Atlas, AtlasCell, dreamable, dreamt_failures
from dreaming.evaluate import evaluate
from dreaming.run import BEST, CLONE, LATEST, RunFolder
from dreaming.scenario import load_scenarios, within
from dreaming.selection import SURVIVAL_SEEDS
from dreaming.survival import cells_of, log_ranges
from envs import registry
from envs.workers import Workers
from worldmodel import checkpoint
from worldmodel.lessons import held_out_of
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

FIRST_SEED = SURVIVAL_SEEDS + 1_500_000
POLICIES = {"clone": CLONE, "best": BEST, "latest": LATEST}
IN, OUT = "#0b68b0", "#c2410c"


@dataclass
class Options:
    """Dreamt failure rates beside PyBullet's."""

    run: Path
    policy: Literal["clone", "best", "latest"] = "clone"
    table: str = "nominal,edge-cases"
    """The worlds."""
    count: int = 64
    """Dreams, and episodes in PyBullet, of each world."""


def measured(options: Options) -> Atlas:
    run = RunFolder(options.run)
    config, agent = run.config(), run.load_agent(POLICIES[options.policy])
    task, reader, nominal = config.task, LogReader(run.logs(config)), registry.nominal(config.task)
    held_out = held_out_of(reader, agent.model.context)
    cells, left_out = dreamable(cells_of(load_scenarios(options.table, task), task), agent.model, nominal)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    seeds, ranges = range(FIRST_SEED, FIRST_SEED + options.count), log_ranges(reader, task)
    atlas = Atlas(task, options.policy)
    with Workers(task, 32, processes=0) as workers:
        for number, (scenario, label, physics) in enumerate(cells):
            args = (agent.model, agent.actor, held_out, task, physics, options.count, FIRST_SEED + number)
            dreamt = dreamt_failures(*args)
            (true,) = evaluate(task, agent, [(scenario, label, physics)], seeds, workers)
            in_logs = within(physics, ranges, nominal)
            counts = (len(dreamt), int(dreamt.sum()), true.episodes, true.failures)
            atlas.cells.append(AtlasCell(scenario, label, physics.to_dict(), in_logs, *counts))
            print(f"{scenario} {label}: dreamt {dreamt.mean():.2f}, true {true.failure_rate:.2f}", flush=True)
        print(f"simulator steps: {workers.steps:,}, none learnt from")
    return atlas


def markdown(atlas: Atlas) -> str:
    lines = ["| world | in the logs | dreamt | PyBullet |", "|---|---|---|---|"]
    for cell in atlas.cells:
        rates = [
            f"{rate:.2f} [{low:.2f}, {high:.2f}]"
            for rate, (low, high) in ((cell.dreamt_rate, cell.dreamt_interval), (cell.true_rate, cell.true_interval))
        ]
        lines.append(f"| {cell.scenario} {cell.label} | {'yes' if cell.in_logs else 'no'} | {' | '.join(rates)} |")
    return "\n".join(lines)


def verdict(atlas: Atlas) -> str:
    rho = atlas.rank_correlation()
    if rho is None:
        return "rank correlation: none, as all worlds are alike"
    interval, itself = atlas.scatter()
    around = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    own = "" if itself is None else f"; of PyBullet with itself, as many episodes drawn anew: {itself:.2f}"
    far = np.mean([abs(cell.dreamt_rate - cell.true_rate) for cell in atlas.cells])
    found = f"rank correlation {rho:.2f}{around} over {len(atlas.cells)} worlds{own}"
    return f"{found}; on average the rates lie {far:.2f} apart"


def picture(atlas: Atlas, path: Path) -> None:
    """Dreamt over true rates, with 95% intervals both ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#8a8f99", linewidth=1, linestyle="--", label="as true")
    for colour, in_logs, label in ((IN, True, "within the logs"), (OUT, False, "beyond the logs")):
        cells = [cell for cell in atlas.cells if cell.in_logs == in_logs]
        if not cells:
            continue
        x, y = [cell.true_rate for cell in cells], [cell.dreamt_rate for cell in cells]
        spread = [
            np.abs(np.array([ends for ends in intervals]).T - rates)
            for rates, intervals in (
                (x, [cell.true_interval for cell in cells]),
                (y, [cell.dreamt_interval for cell in cells]),
            )
        ]
        axes.errorbar(
            x, y, xerr=spread[0], yerr=spread[1], fmt="o", color=colour, markersize=5, linewidth=0.8, label=label
        )
    for cell in sorted(atlas.cells, key=lambda c: -abs(c.dreamt_rate - c.true_rate))[:3]:
        axes.annotate(
            f"{cell.scenario}, {cell.label}", (cell.true_rate, cell.dreamt_rate), xytext=(5, 6),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="fails in PyBullet", ylabel="fails in dreams")
    rho = atlas.rank_correlation()
    axes.set_title(f"{atlas.task}, {atlas.policy}: " + ("no order" if rho is None else f"rank correlation {rho:.2f}"))
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(path)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    atlas = measured(options)
    path = options.run / f"atlas-{options.policy}.json"
    checkpoint.write_atomically(path, json.dumps(atlas.to_dict(), indent=1).encode())
    picture(atlas, path.with_suffix(".png"))
    print(f"\n{atlas.task}, {options.policy}, {options.count} dreams and episodes a world\n\n{markdown(atlas)}\n")
    print(verdict(atlas))
    print(f"{path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main(tyro.cli(Options))
