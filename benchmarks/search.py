"""Does a search that keeps elites find more failures than uniform draws or a Sobol sequence of as many worlds?

    python benchmarks/search.py
    python benchmarks/search.py --run runs/survival/push-box/seed-0/shared --budget 600

The first, on landscapes whose pockets of failure are known: narrow bumps at random places of a cube, a part of which is
not trusted. A pocket counts as found when an elite fails by at least 80% of its top. The second, on dreams of the clone
of a run, a night's or one that `survival.py` left. *Failing* is the number of cells whose elite fails by a quarter or
more, *QD* the sum over all elites, *worst* the worst elite. Interquartile means over seeds, with 95% bootstrap
intervals.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from configs import UserError
from dreaming.imagined_failure import ImaginedFailure, near_logs
from dreaming.reach import FAILING, Reach, not_learnable, proposals
from dreaming.run import CLONE, RunFolder
from dreaming.scenario import load_scenarios
from dreaming.search import Archive, Axis, Evaluate, Evaluation, Space, random_search, search, sobol_search
from dreaming.statistics import interquartile_mean, stratified_bootstrap
from dreaming.survival import log_ranges
from envs import registry
from worldmodel.lessons import held_out_of
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

METHODS = {"MAP-Elites": search, "random": random_search, "Sobol": sobol_search}


@dataclass
class Search:
    """MAP-Elites against random and Sobol search, at as many evaluations."""

    run: Path | None = None
    """Without it, analytic landscapes."""
    seeds: int = 10
    first_seed: int = 1000
    """The landscapes from 0 on were used to choose how parents are drawn."""
    budget: int = 1000
    factors: int = 3
    pockets: int = 6
    width: float = 0.08
    """Of a pocket, as a standard deviation and a share of each axis."""
    widths: float = 1.0
    """Dreams are trusted so many widths of the logs beyond the logs."""


class Landscape:
    """Bumps of failure, 0.5 to 1 high, in a unit cube; a world is not trusted where the shares add up to too much."""

    def __init__(self, options: Search, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        axis = Axis("slope_deg", 0.0, 1.0, (0.4, 0.6))
        self.space = Space((axis,) * options.factors)
        self.most, self.width = 0.75 * options.factors, options.width
        middles: list[np.ndarray] = []
        while len(middles) < options.pockets:
            middle = rng.uniform(0.05, 0.95, options.factors)
            apart = all(np.linalg.norm(middle - other) > 3 * options.width for other in middles)
            if apart and middle.sum() < self.most - options.width:
                middles.append(middle)
        self.middles, self.tops = np.array(middles), rng.uniform(0.5, 1.0, len(middles))

    def __call__(self, points: np.ndarray) -> Evaluation:
        away = np.linalg.norm(points[:, None] - self.middles, axis=-1) / self.width
        return Evaluation((self.tops * np.exp(-0.5 * away**2)).max(1), points.sum(1) <= self.most)

    def found(self, archive: Archive) -> int:
        """Pockets with an elite near their top."""
        elites = archive.elites[archive.filled]
        near = np.linalg.norm(elites[:, None] - self.middles, axis=-1).argmin(1)
        high = archive.failure[archive.filled] >= 0.8 * self.tops[near]
        return len(set(near[high].tolist()))


def figures(archive: Archive) -> dict[str, float]:
    worst = np.nanmax(archive.failure) if len(archive.filled) else 0.0
    failing = float((archive.failure[archive.filled] >= FAILING).sum())
    return {"cells": 100 * archive.coverage, "failing": failing, "QD": archive.quality, "worst": float(worst)}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    names = list(next(iter(found.values()))[0])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for method, rows in found.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            low, high = stratified_bootstrap([values])
            cells.append(f"{interquartile_mean(values):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def analytic(options: Search) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        landscape = Landscape(options, seed)
        for name, find in METHODS.items():
            archive = find(landscape, landscape.space, options.budget, np.random.default_rng(seed))
            found[name].append({"pockets": landscape.found(archive), **figures(archive)})
    cells = Landscape(options, options.first_seed).space.cells
    print(f"{options.pockets} pockets of width {options.width} in {options.factors} factors, {cells} cells, ", end="")
    print(f"{options.budget} evaluations, {options.seeds} seeds\n\n{table(found)}")


def dreamt(options: Search, run: RunFolder) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    reader, agent = LogReader(run.logs(run.config())), run.load_agent(CLONE)
    model, task, hz = agent.model, reader.schema["task"], float(reader.schema["control_hz"])
    nominal, scenarios = registry.nominal(task), load_scenarios("edge-cases", task)
    held_out = held_out_of(reader, model.context)
    fixed = registry.task_class(task).reset_only
    dreams = ImaginedFailure(model, agent.actor, held_out, nominal, hz)
    whole = Space.of(model.context, log_ranges(reader, task), scenarios, task, without=fixed)
    scan = whole.scan(dreams.over(whole, near_logs(whole, options.widths)))
    print(f"{task}: each factor by itself, from end to end, imagined failure (-: not trusted)")
    for axis, row, sure in zip(whole.axes, *scan, strict=True):
        shown = " ".join(f"{value:.2f}" if yes else "   -" for value, yes in zip(row, sure, strict=True))
        print(f"  {axis.factor:<16} {axis.low:8.3g} to {axis.high:<8.3g} {shown}")
    space = whole.strongest(scan)
    evaluate = dreams.over(space, near_logs(space, options.widths))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    archive: Archive | None = None
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, find in METHODS.items():
            one = find(evaluate, space, options.budget, np.random.default_rng(seed))
            found[name].append(figures(one))
            archive = archive or one  # of MAP-Elites
    print(f"\nover {', '.join(space.names)}: {space.cells} cells, {options.budget} evaluations, {options.seeds} seeds")
    print(f"{dreams.imagined_steps:,} imagined steps\n\n{table(found)}\n")
    outlook(evaluate, space, task, archive)
    print("\n".join(not_learnable(whole, scan, scenarios, model.context, task)))


def outlook(evaluate: Evaluate, space: Space, task: str, archive: Archive | None, rounds: int = 4) -> None:
    """What a night would do with it: reach, and the scenarios that it proposes."""
    reach, rng = Reach(space), np.random.default_rng(0)
    for _ in range(rounds * 2 * len(space.axes)):
        reach.move(evaluate, rng, count=4)
    for name, (low, high) in reach.state_dict()["ends"].items():
        print(f"reach of {name}: {low:.3g} to {high:.3g}")
    for scenario in proposals(archive or Archive(space), reach, task):
        print(f"proposed: {scenario.name} ({scenario.description})")


def main(options: Search) -> None:
    if options.seeds < 1 or options.budget < 1:
        raise UserError("--seeds and --budget must be at least 1")
    if options.run is None:
        analytic(options)
    else:
        dreamt(options, RunFolder(options.run))


if __name__ == "__main__":
    main(tyro.cli(Search))
