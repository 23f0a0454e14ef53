"""From easy to hard: how far beyond the logs dreams go, what they should be about next, and what no dream can teach."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from configs import UserError
from dreaming.scenario import Scenario
from dreaming.search import PUSHES, Archive, Evaluate, Evaluation, Space
from envs.physics import FACTORS, PhysicsRange
from worldmodel.context import ContextSpec

EASY = 0.5  # imagined failure at a border below which it moves out
FAILING = 0.25
STEP = 0.05  # share of an axis that a border moves at once

Trusted = Callable[[np.ndarray], np.ndarray]  # of worlds (M, F), in the factors' units, to (M,) bool


class Reach:
    """The worlds that are dreamt: a box over a space's factors that holds the logs' and grows as the policy survives.

    One border moves at a time, and outwards only where every corner of what it takes in is trusted, so that the box
    never leaves a trusted region that is convex. Where trust is withdrawn, borders move back, to the logs at most. A
    policy that fails at a border has it wait there, as what it is to learn lies within; the logs' own border does not
    wait, as there is nothing new within.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.ends = np.stack(space.logged())  # (2, F): lowest and highest, in the factors' units
        self.turn = 0  # counts the borders looked at

    def move(self, evaluate: Evaluate, rng: np.random.Generator, count: int = 8) -> None:
        """Looks at the next border, where `count` worlds are dreamt, and moves it out, back or not at all."""
        f, upper = divmod(self.turn % (2 * len(self.space.axes)), 2)
        self.turn += 1
        failing = float(evaluate(self.border(f, upper, rng, count)).failure.mean())
        self.advance(f, upper, failing, lambda points: evaluate(points).trusted)

    def border(self, f: int, upper: int, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, F) worlds drawn on factor f's lower or upper border, in the factors' units."""
        box = self.space.shares(self.ends)
        on_it = rng.uniform(box[0], box[1], (count, len(self.space.axes)))
        on_it[:, f] = box[upper, f]
        return self.space.points(on_it)

    def advance(self, f: int, upper: int, failing: float, trusted: Trusted) -> None:
        """Moves that border as the policy's imagined failure there, and trust in what lies behind it, have it."""
        box, logged = self.space.shares(self.ends), self.space.axes[f].logged[upper]
        outward = STEP if upper else -STEP
        further = np.clip(box[upper, f] + outward, 0.0, 1.0)
        here, there = (self.space.points(_face(box, f, share)) for share in (box[upper, f], further))
        if not trusted(here).all():
            box[upper, f] -= outward
            back = self.space.points(box)[upper, f]
            self.ends[upper, f] = max(back, logged) if upper else min(back, logged)
        elif (failing < EASY or np.isclose(self.ends[upper, f], logged)) and trusted(there).all():
            self.ends[upper, f] = there[0, f]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """(M,) whether worlds (M, F) lie within."""
        slack = 1e-9 * (self.ends[1] - self.ends[0])
        return ((points >= self.ends[0] - slack) & (points <= self.ends[1] + slack)).all(1)

    def scenario(self, task: str) -> Scenario:
        """All of it."""
        return scenario_of("reach", "As far beyond the logs as the policy has got.", task, self.space.names, self.ends)

    def state_dict(self) -> dict[str, Any]:
        return {"ends": dict(zip(self.space.names, self.ends.T.tolist(), strict=True)), "turn": self.turn}

    @classmethod
    def from_state(cls, space: Space, state: Mapping[str, Any]) -> Reach:
        """Factors that the state does not know begin at the logs, and no border lies outside the space."""
        reach = cls(space)
        reach.turn = int(state["turn"])
        for f, axis in enumerate(space.axes):
            low, high = state["ends"].get(axis.factor, axis.logged)
            reach.ends[:, f] = max(axis.low, min(low, axis.logged[0])), min(axis.high, max(high, axis.logged[1]))
        return reach


def proposals(archive: Archive, reach: Reach, task: str, count: int = 4, failing: float = FAILING) -> list[Scenario]:
    """What to dream next: around the worst worlds within reach, one of each neighbourhood, worst first.

    A scenario holds the part of its cell that is within reach. A cell in which anything was not trusted is left out.
    """
    space = archive.space
    if space != reach.space:
        raise UserError(f"the search was over {space.names}, the reach is over {reach.space.names}: use one space")
    doubted = set(space.cell_of(archive.not_trusted).tolist())
    cells = archive.filled
    cells = cells[reach.holds(space.points(archive.elites[cells])) & (archive.failure[cells] >= failing)]
    chosen: list[Scenario] = []
    taken: list[np.ndarray] = []
    for cell in cells[np.argsort(-archive.failure[cells], kind="stable")].tolist():
        at = np.array(np.unravel_index(cell, space.grid))
        if cell in doubted or any(np.abs(at - other).max() <= 1 for other in taken):
            continue
        low, high = space.points(np.stack(space.bounds_of(cell)))
        ends = np.stack([np.maximum(low, reach.ends[0]), np.minimum(high, reach.ends[1])])
        name = ", ".join(f"{f} {a:.3g} to {b:.3g}" for f, a, b in zip(space.names, *ends, strict=True))
        text = f"Found by search: dreams fail by {archive.failure[cell]:.0%} there."
        chosen.append(scenario_of(name, text, task, space.names, ends))
        taken.append(at)
        if len(chosen) == count:
            break
    return chosen


def not_learnable(
    space: Space, scan: Evaluation, scenarios: Sequence[Scenario], context: ContextSpec, task: str
) -> list[str]:
    """What these logs cannot teach, in words: one line a factor and side, then what the logs never vary at all.

    Args:
        scan: of this space; past the last of its levels that is trusted, on the way out from the logs, nothing is.
    """
    lines = []
    levels = np.linspace(0.0, 1.0, scan.trusted.shape[1])
    for f, axis in enumerate(space.axes):
        values = axis.values(levels)
        for side, outside in (("below", values < axis.logged[0]), ("above", values > axis.logged[1])):
            refused = values[outside & ~scan.trusted[f]]
            if not len(refused):
                continue
            first = refused.max() if side == "below" else refused.min()
            inner = values[values > first].min() if side == "below" else values[values < first].max()
            # No further in than the logs themselves.
            bound = min(inner, axis.logged[0]) if side == "below" else max(inner, axis.logged[1])
            unit = f" {FACTORS[axis.factor].unit}".rstrip()
            lines.append(f"{NOT_LEARNABLE} with {axis.factor} {side} {bound:.3g}{unit}")
    return lines + missing(scenarios, context, task)


def missing(scenarios: Sequence[Scenario], context: ContextSpec, task: str) -> list[str]:
    """What scenarios need and these logs never vary, in words."""
    needed: dict[str, list[str]] = {}
    for scenario in scenarios:
        for factor in scenario.factors(task):
            if not context.covers(factor):
                needed.setdefault(factor, []).append(scenario.name)
    return [f"{NOT_LEARNABLE} that vary {name}, for {', '.join(of)}" for name, of in needed.items()]


NOT_LEARNABLE = "not learnable from these logs: record some"


def _face(box: np.ndarray, f: int, share: float) -> np.ndarray:
    """The corners (2^(F - 1), F) of a box (2, F) where factor f has this share."""
    ends = [(share,) if g == f else tuple(column) for g, column in enumerate(box.T.tolist())]
    return np.array(list(itertools.product(*ends)))


def scenario_of(name: str, text: str, task: str, factors: Sequence[str], ends: np.ndarray) -> Scenario:
    """Uniform between `ends` (2, F)."""
    ranges: PhysicsRange = {factor: (float(a), float(b)) for factor, a, b in zip(factors, *ends, strict=True)}
    return Scenario(name, text, {task: ranges | (PUSHES if "push_m_s" in ranges else {})})
