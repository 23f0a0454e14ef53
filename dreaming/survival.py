"""How often policies fail, cell by cell, in rounds of a few seeds until the time is up.

Every policy meets the same worlds with the same seeds. A round counts for all policies or for none: cut off in its
midst, the short episodes, which are the failed ones, would be over-represented.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from configs import UserError
from dreaming.evaluate import Cell, CellResult, evaluate, merge
from dreaming.report import data
from dreaming.scenario import Scenario, load_scenarios, within
from dreaming.selection import SURVIVAL_SEEDS
from envs import registry
from envs.physics import FACTORS, Physics, PhysicsRange
from envs.record import Policy
from envs.workers import Workers
from worldmodel.episode import WAKE
from worldmodel.storage import LogReader

ROUND = 5  # seeds; fewer in the first round, which tells how long one takes


class StoppedError(Exception):
    """The user wants to end; the round is given up."""


@dataclass
class Survival:
    """Results by policy, in the order of `cells`."""

    cells: list[Cell]
    results: dict[str, list[CellResult]] = field(default_factory=dict)
    seeds: int = 0  # played by every policy so far

    @property
    def steps(self) -> int:
        return sum(result.steps for results in self.results.values() for result in results)


def cells_of(scenarios: Sequence[Scenario], task: str) -> list[Cell]:
    """The levels of the task's usual worlds, then of the scenarios."""
    nominal = registry.nominal(task)
    both = {scenario.name: scenario for scenario in [*load_scenarios("nominal", task), *scenarios]}
    return [(s.name, label, physics) for s in both.values() for label, physics in s.levels(task, nominal)]


def try_policies(
    survival: Survival,
    policies: Mapping[str, Policy],
    workers: Workers,
    left: Callable[[], float],
    stopped: Callable[[], bool] = lambda: False,
    on_round: Callable[[], None] = lambda: None,
    most: int | None = None,
    first_seed: int = SURVIVAL_SEEDS,
) -> None:
    """Plays rounds while `left()` seconds allow another; the first one always, and up to `most` seeds.

    Adds to `survival` after every whole round, and then calls `on_round`.
    """

    def watch(done: int, jobs: int) -> None:
        if stopped():
            raise StoppedError

    cost = 0.0  # seconds a seed
    while not stopped() and (most is None or survival.seeds < most):
        count = 1 if not survival.seeds else min(ROUND, max(1, int(left() / max(cost, 1e-9))))
        if most is not None:
            count = min(count, most - survival.seeds)
        if survival.seeds and left() < 1.05 * cost:
            return
        left_before = left()
        seeds = range(first_seed + survival.seeds, first_seed + survival.seeds + count)
        found: dict[str, list[CellResult]] = {}
        try:
            for name, policy in policies.items():
                found[name] = evaluate(workers.task, policy, survival.cells, seeds, workers, on_episode=watch)
        except StoppedError:
            return
        for name, results in found.items():
            before = survival.results.get(name)
            survival.results[name] = results if before is None else merge(before, results)
        survival.seeds += count
        cost = (left_before - left()) / count
        on_round()


def log_ranges(reader: LogReader, task: str) -> dict[str, list[float]]:
    """factor: [lowest, highest] in the logs that were given.

    Draws never reach the ends of what they are drawn from. So an end that comes within a tenth of the usual world, or
    of an end that the task records between, is taken to be that.
    """
    ranges: dict[str, list[float]] = {}
    for episode in reader.episodes:
        if WAKE in episode["info"]:
            continue  # what a night has seen by itself makes a world no less of a what-if
        for name, value in episode["physics"].items():
            if name not in FACTORS:
                continue
            low, high = ranges.setdefault(name, [value, value])
            ranges[name] = [min(low, value), max(high, value)]
    if not registry.simulated(task):
        return ranges
    nominal, usual = registry.nominal(task), registry.log_ranges(task)
    for name, (low, high) in ranges.items():
        declared = usual.get(name, ())
        anchors = [getattr(nominal, name), *(declared if isinstance(declared, tuple) else [declared])]
        near = 0.1 * (high - low)
        lows = [x for x in anchors if low - near <= x < low]
        highs = [x for x in anchors if high < x <= high + near]
        ranges[name] = [min([low, *lows]), max([high, *highs])]
    return ranges


def as_logged(reader: LogReader, task: str) -> PhysicsRange:
    """What worlds like the logs' are drawn from."""
    ranges, nominal = log_ranges(reader, task), registry.nominal(task)
    # In the task's order: logs that were recorded as the task records its own give the worlds that its ranges give.
    names = [name for name in dict.fromkeys([*registry.log_ranges(task), *ranges]) if name in ranges]
    varied: PhysicsRange = {name: (low, high) for name in names if (low := ranges[name][0]) < (high := ranges[name][1])}
    return varied | {n: ranges[n][0] for n in names if n not in varied and ranges[n][0] != getattr(nominal, n)}


def report_cells(survival: Survival, ranges: Mapping[str, Sequence[float]], nominal: Physics) -> list[data.Cell]:
    if not survival.seeds:
        return []
    rows = []
    for i, (scenario, label, physics) in enumerate(survival.cells):
        by_policy = {name: _outcome(results[i]) for name, results in survival.results.items()}
        if "before" not in by_policy or "after" not in by_policy:
            raise UserError("survival needs results of the policy before and after dreaming")
        rows.append(data.Cell(scenario, label, within(physics, ranges, nominal), **by_policy))
    return rows


def _outcome(result: CellResult) -> data.Outcome:
    return data.Outcome(
        n=result.episodes,
        failures=result.failures,
        lost=result.lost,
        return_mean=result.return_mean,
        return_std=result.return_std,
        progress_mean=result.progress_mean,
    )
