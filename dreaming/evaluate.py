"""How often a policy fails in the simulator, world by world.

An episode *fails* if it ends in what cannot be taken back (box over the edge, robot fallen: that one is *lost* too), or
ends without the task done (the box is not at the goal). Ask for `progress` as well: a robot that merely stands still
does not fall.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from configs import UserError, from_dict, to_dict
from dreaming.statistics import wilson
from envs.physics import Change, Physics
from envs.record import Policy
from envs.slots import SimulatorError
from envs.workers import Arrays, ProcessLostError, Workers, put

Cell = tuple[str, str, Physics]  # scenario, label, world


@dataclass
class CellResult:
    """One policy in one world. The lists hold one entry an episode, in the order of `seeds`."""

    scenario: str
    label: str
    physics: dict[str, float]
    seeds: list[int] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    was_lost: list[bool] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)  # in the task's own measure, at the end
    lengths: list[int] = field(default_factory=list)  # control steps
    changes: list[dict[str, Any]] = field(default_factory=list)  # of the physics on the way, as envs.physics.Change

    def world(self, nominal: Physics) -> Physics:
        return Physics.from_dict(self.physics, nominal).changing([Change(**change) for change in self.changes])

    @property
    def episodes(self) -> int:
        return len(self.seeds)

    @property
    def failures(self) -> int:
        return sum(self.failed)

    @property
    def lost(self) -> int:
        return sum(self.was_lost)

    @property
    def failure_rate(self) -> float:
        return _mean(self.failed)

    @property
    def lost_rate(self) -> float:
        return _mean(self.was_lost)

    @property
    def failure_interval(self) -> tuple[float, float]:
        """95%, Wilson."""
        return wilson(self.failures, self.episodes)

    @property
    def lost_interval(self) -> tuple[float, float]:
        return wilson(self.lost, self.episodes)

    @property
    def return_mean(self) -> float:
        return _mean(self.returns)

    @property
    def return_std(self) -> float:
        """Between episodes."""
        return float(np.std(self.returns)) if self.returns else float("nan")

    @property
    def progress_mean(self) -> float:
        return _mean(self.progress)

    @property
    def steps(self) -> int:
        """Simulator steps that this result cost."""
        return sum(self.lengths)

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "CellResult":
        return from_dict(cls, mapping, "a cell's result")


def evaluate(
    task: str,
    policy: Policy,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    workers: Workers,
    seed_per_cell: bool = False,
    on_episode: Callable[[int, int], None] | None = None,
) -> list[CellResult]:
    """Plays every cell with every seed; all of them share the workers, so that none waits for a slow world.

    Args:
        seed_per_cell: cell c plays `seed + c * len(seeds)` instead of the same seeds as all others; for cells that are
            draws of one scenario, where the start should vary along with the world.
        on_episode: called with (episodes done, episodes in all).

    To stay within a time, call it for some seeds at a time and join the results with `merge`. Stopping in the midst of
    a call would keep the short episodes, which are the failed ones.

    If the simulator fails or its process dies, everything is played once more from the start; if again, that is raised.
    """
    if workers.task != task:
        raise UserError(f"the workers simulate {workers.task}, not {task}")
    if not cells or not len(seeds):
        raise UserError(f"nothing to evaluate: {len(cells)} cells with {len(seeds)} seeds")
    results = [
        CellResult(scenario, label, physics.to_dict(), changes=[asdict(change) for change in physics.changes])
        for scenario, label, physics in cells
    ]
    jobs = [(c, int(seed) + (c * len(seeds) if seed_per_cell else 0)) for seed in seeds for c in range(len(cells))]
    worlds = [(seed, cells[c][2]) for c, seed in jobs]
    try:
        outcomes = _play(policy, worlds, workers, on_episode)
    except (ProcessLostError, SimulatorError):  # once more, with the process that stands in its place by now
        outcomes = _play(policy, worlds, workers, on_episode)
    for (c, seed), outcome in zip(jobs, outcomes, strict=True):
        result = results[c]
        result.seeds.append(seed)
        result.failed.append(outcome.lost or not outcome.success)
        result.was_lost.append(outcome.lost)
        result.returns.append(outcome.reward)
        result.progress.append(outcome.progress)
        result.lengths.append(outcome.steps)
    return results


def merge(first: Sequence[CellResult], second: Sequence[CellResult]) -> list[CellResult]:
    """Joins results of the same cells on other seeds."""
    merged = []
    for a, b in zip(first, second, strict=True):
        if (a.scenario, a.label, a.physics, a.changes) != (b.scenario, b.label, b.physics, b.changes):
            raise ValueError(f"{a.scenario} {a.label} and {b.scenario} {b.label} are different cells")
        if repeated := set(a.seeds) & set(b.seeds):
            raise ValueError(f"{a.scenario} {a.label}: seed {min(repeated)} would count twice")
        joined = {name: getattr(a, name) + getattr(b, name) for name in ("seeds", *_PER_EPISODE)}
        merged.append(CellResult(a.scenario, a.label, dict(a.physics), **joined, changes=a.changes))
    return merged


_PER_EPISODE = ("failed", "was_lost", "returns", "progress", "lengths")


@dataclass
class _Outcome:
    reward: float = 0.0
    steps: int = 0
    lost: bool = False
    success: bool = False
    progress: float = 0.0


def _play(
    policy: Policy,
    jobs: Sequence[tuple[int, Physics]],
    workers: Workers,
    on_episode: Callable[[int, int], None] | None,
) -> list[_Outcome]:
    """Runs (seed, world) jobs, each in the first row that is free; outcomes in the order of the jobs."""
    n = min(workers.n_envs, len(jobs))
    outcomes = [_Outcome() for _ in jobs]
    row_job = np.full(n, -1)
    current: Arrays = {}
    begun = done = 0
    policy.reset(n)
    while done < len(jobs):
        is_first = np.zeros(n, bool)
        empty = np.flatnonzero(row_job < 0)[: len(jobs) - begun]
        if len(empty):
            row_job[empty] = np.arange(begun, begun + len(empty))
            starting = [jobs[job] for job in row_job[empty]]
            begun += len(empty)
            observation = workers.reset(empty.tolist(), [seed for seed, _ in starting], [p for _, p in starting])
            put(current, empty, observation, n)
            is_first[empty] = True
        active = np.flatnonzero(row_job >= 0)
        # A row that has run out of jobs keeps its last observation, so that the policy always sees all its rows.
        actions = policy.act({name: value.copy() for name, value in current.items()}, is_first)
        steps = workers.step(active.tolist(), actions[active])
        put(current, active, steps.observation, n)
        over = steps.terminated | steps.truncated
        for k, row in enumerate(active):
            outcome = outcomes[row_job[row]]
            outcome.reward += float(steps.reward[k])
            outcome.steps += 1
            if over[k]:
                outcome.lost, outcome.success = bool(steps.info["failure"][k]), bool(steps.info["success"][k])
                outcome.progress = float(steps.info["progress"][k])
                row_job[row] = -1
                done += 1
                if on_episode is not None:
                    on_episode(done, len(jobs))
    return outcomes


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
