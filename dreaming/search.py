"""Where would the policy fail? A search over worlds that keeps the worst one of every kind, as far as it is trusted.

The space of worlds is cut into cells, a coarse grid over a few factors of Physics. Each cell keeps its elite, the world
in it where the policy fails most; half of the new worlds are mutations of elites (MAP-Elites: Mouret and Clune,
"Illuminating search spaces by mapping elites", 2015). A world whose dreams cannot be trusted has no value and enters no
cell: it is kept apart, as what these logs cannot teach.

What is searched is imagined, and an elite is the worst of several noisy values: read a cell as a place to look, not as
a rate. Letters: M worlds, F factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from configs import UserError
from dreaming.scenario import Scenario
from envs.physics import FACTORS, Physics
from worldmodel.context import PUSH, ContextSpec

LOGARITHMIC = frozenset({"floor_friction"})  # it is its ratio that matters
BINS = 6
PUSHES = {"push_start_s": 0.5, "push_every_s": 1.0}  # often enough for a short dream to meet one


class Evaluation(NamedTuple):
    failure: np.ndarray  # (M,) in [0, 1]; of no meaning where not trusted
    trusted: np.ndarray  # (M,) bool


Evaluate = Callable[[np.ndarray], Evaluation]  # of worlds (M, F) in the factors' own units
Emit = Callable[["Archive", int], np.ndarray]  # from what is known and a number to so many worlds, as shares


@dataclass(frozen=True)
class Axis:
    """One factor, from `low` to `high`, of which the logs hold `logged`; a *share* of it counts from 0 to 1."""

    factor: str
    low: float
    high: float
    logged: tuple[float, float]
    bins: int = BINS

    @property
    def logarithmic(self) -> bool:
        return self.factor in LOGARITHMIC and self.low > 0

    def values(self, shares: np.ndarray) -> np.ndarray:
        """Within the ends: powers of rounded numbers may lie beyond them by a last digit."""
        return np.clip(self.beyond(shares), self.low, self.high)

    def beyond(self, shares: np.ndarray) -> np.ndarray:
        if self.logarithmic:
            return self.low * (self.high / self.low) ** shares
        return self.low + shares * (self.high - self.low)

    def shares(self, values: np.ndarray) -> np.ndarray:
        if self.logarithmic:
            return np.log(np.asarray(values) / self.low) / math.log(self.high / self.low)
        return (np.asarray(values) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Space:
    """The worlds that are searched. Factors that have no axis stay as each log has them."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(
        cls,
        context: ContextSpec,
        logged: Mapping[str, Sequence[float]],
        scenarios: Sequence[Scenario],
        task: str,
        beyond: float = 0.5,
        without: Collection[str] = (),
    ) -> Space:
        """Every factor that the model can be told, and motor strength, as far as the logs and a bit more.

        Latency and sensor noise are left to hand-written scenarios: the one has four values, the other never helps.

        Args:
            logged: the logs' ranges, {factor: (lowest, highest)}, as `dreaming.survival.log_ranges` gives them.
            scenarios: the axes reach as far as these do, too.
            beyond: how far past either end of the logs, as a share of their own width.
            without: factors to leave out, such as a simulator cannot change under a running episode.
        """
        axes = []
        for name in (*("push_m_s" if n == PUSH else n for n in context.names), "motor_strength"):
            low, high = logged.get(name, (math.inf, -math.inf))
            if name not in FACTORS or name in without or name.startswith("light_") or not low < high:
                continue
            within = Axis(name, low, high, (low, high))
            ends = within.beyond(np.array([-beyond, 1.0 + beyond])).tolist()
            for scenario in scenarios:
                bounds = scenario.physics_for(task).get(name, low)
                ends += list(bounds) if isinstance(bounds, tuple) else [bounds]
            factor = FACTORS[name]
            axes.append(Axis(name, max(factor.low, min(ends)), min(factor.high, max(ends)), (low, high)))
        if not axes:
            raise UserError("the logs vary no factor of physics, so there is nothing to search: record some that do")
        return cls(tuple(axes))

    @property
    def names(self) -> list[str]:
        return [axis.factor for axis in self.axes]

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(axis.bins for axis in self.axes)

    @property
    def cells(self) -> int:
        return math.prod(self.grid)

    def points(self, shares: np.ndarray) -> np.ndarray:
        """(M, F) in [0, 1] to the factors' own units."""
        return np.stack([axis.values(shares[:, f]) for f, axis in enumerate(self.axes)], 1)

    def shares(self, points: np.ndarray) -> np.ndarray:
        return np.stack([axis.shares(points[:, f]) for f, axis in enumerate(self.axes)], 1)

    def world(self, point: np.ndarray, logged: Physics) -> Physics:
        """One point (F,), in the factors' units, in place of what a log had."""
        values = dict(zip(self.names, point.tolist(), strict=True))
        return logged.replace(**values, **(PUSHES if "push_m_s" in values else {}))

    def cell_of(self, shares: np.ndarray) -> np.ndarray:
        """(M,) cell numbers."""
        bins = np.array(self.grid)
        at = np.clip((shares * bins).astype(int), 0, bins - 1)
        return np.asarray(np.ravel_multi_index(tuple(at.T), self.grid))

    def bounds_of(self, cell: int) -> tuple[np.ndarray, np.ndarray]:
        """A cell's corners, as shares (F,)."""
        at, bins = np.array(np.unravel_index(cell, self.grid)), np.array(self.grid)
        return at / bins, (at + 1) / bins

    def logged(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the logs' ranges (F,), in the factors' units."""
        low, high = zip(*(axis.logged for axis in self.axes), strict=True)
        return np.array(low), np.array(high)

    def scan(self, evaluate: Evaluate, levels: int = 9) -> Evaluation:
        """Each factor moved by itself from end to end, the others in the middle of the logs: (F, levels)."""
        low, high = self.logged()
        shares = np.tile(self.shares(np.array([low, high])).mean(0), (len(self.axes), levels, 1))
        for f in range(len(self.axes)):
            shares[f, :, f] = np.linspace(0.0, 1.0, levels)
        found = evaluate(self.points(shares.reshape(-1, len(self.axes))))
        return Evaluation(*(part.reshape(len(self.axes), levels) for part in found))

    def strongest(self, scan: Evaluation, keep: int = 3) -> Space:
        """The few factors that change failure most where they are trusted.

        A grid over all would have more cells than a night has dreams to spare.
        """
        effect = [np.ptp(row[sure]) if sure.any() else 0.0 for row, sure in zip(*scan, strict=True)]
        chosen = np.argsort(-np.array(effect), kind="stable")[:keep]
        return Space(tuple(self.axes[f] for f in sorted(chosen.tolist())))


class Archive:
    """The elite of every cell, and the worlds that are not trusted."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.failure = np.full(space.cells, np.nan)  # NaN: no trusted world of this kind was met
        self.elites = np.full((space.cells, len(space.axes)), np.nan)  # as shares
        self.not_trusted = np.empty((0, len(space.axes)))  # as shares
        self.evaluations = 0

    def add(self, shares: np.ndarray, evaluation: Evaluation) -> None:
        """Worlds (M, F) as shares, with what came of them."""
        failure, trusted = evaluation
        self.evaluations += len(shares)
        self.not_trusted = np.concatenate([self.not_trusted, shares[~trusted]])
        shares, failure = shares[trusted], failure[trusted]
        if not len(shares):
            return
        cell = self.space.cell_of(shares)
        order = np.lexsort((failure, cell))  # the worst world of each cell comes last
        last = np.append(np.diff(cell[order]) > 0, True)
        order = order[last]
        cell, shares, failure = cell[order], shares[order], failure[order]
        better = ~(failure <= self.failure[cell])  # also where there was none
        self.failure[cell[better]], self.elites[cell[better]] = failure[better], shares[better]

    @property
    def filled(self) -> np.ndarray:
        """Cell numbers."""
        return np.flatnonzero(~np.isnan(self.failure))

    @property
    def coverage(self) -> float:
        """Share of the cells in which a trusted world was met."""
        return len(self.filled) / self.space.cells

    @property
    def quality(self) -> float:
        """The sum of all elites' failures, known as the QD score."""
        return float(np.nansum(self.failure))

    def to_dict(self) -> dict[str, Any]:
        """For a report, and for the next search to begin with: worlds in the factors' units."""
        filled = self.filled
        return {
            "factors": self.space.names,
            "elites": self.space.points(self.elites[filled]).tolist(),
            "failure": self.failure[filled].tolist(),
            "not_trusted": self.space.points(self.not_trusted).tolist(),
            "cells": self.space.cells,
            "evaluations": self.evaluations,
        }


def search(
    evaluate: Evaluate,
    space: Space,
    budget: int,
    rng: np.random.Generator,
    batch: int = 64,
    fresh: float = 0.5,
    spread: float = 0.05,
    contest: int = 8,
    first: np.ndarray | None = None,
) -> Archive:
    """MAP-Elites, `budget` worlds long.

    Parents are the worst of a few elites: drawn from all alike, as published, they were measured to find no more than
    uniform draws do (`benchmarks/search.py`), as most cells hold worlds in which nothing fails.

    Args:
        fresh: share of the worlds that come from a Sobol sequence; the others are mutations of elites.
        spread: standard deviation of a mutation, as a share of each axis.
        contest: the elites that each parent is chosen from.
        first: worlds (M, F), in the factors' units, to begin with: the elites of a search for an earlier policy, say.
    """
    start = np.empty((0, len(space.axes))) if first is None else np.clip(space.shares(first), 0.0, 1.0)
    afresh = _sobol(space, rng)

    def emit(archive: Archive, count: int) -> np.ndarray:
        done, filled = archive.evaluations, archive.filled
        if done < len(start):
            return start[done : done + count]
        new = afresh(math.ceil(fresh * count) if len(filled) else count)
        among = rng.choice(filled, (contest, count - len(new))) if len(filled) else np.empty((contest, 0), int)
        parents = np.take_along_axis(among, archive.failure[among].argmax(0)[None], 0)[0]
        mutants = archive.elites[parents] + spread * rng.standard_normal((len(parents), len(space.axes)))
        return np.concatenate([new, np.clip(mutants, 0.0, 1.0)])

    return _fill(evaluate, space, budget, batch, emit)


def random_search(evaluate: Evaluate, space: Space, budget: int, rng: np.random.Generator, batch: int = 64) -> Archive:
    """A foil: uniform draws."""
    return _fill(evaluate, space, budget, batch, lambda _, count: rng.random((count, len(space.axes))))


def sobol_search(evaluate: Evaluate, space: Space, budget: int, rng: np.random.Generator, batch: int = 64) -> Archive:
    """A foil: a scrambled Sobol sequence, which leaves smaller gaps than uniform draws."""
    draw = _sobol(space, rng)
    return _fill(evaluate, space, budget, batch, lambda _, count: draw(count))


def _sobol(space: Space, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    engine = torch.quasirandom.SobolEngine(len(space.axes), scramble=True, seed=int(rng.integers(2**31)))
    return lambda count: engine.draw(count, dtype=torch.float64).numpy()


def _fill(evaluate: Evaluate, space: Space, budget: int, batch: int, emit: Emit) -> Archive:
    archive = Archive(space)
    while archive.evaluations < budget:
        shares = emit(archive, min(batch, budget - archive.evaluations))
        archive.add(shares, evaluate(space.points(shares)))
    return archive
