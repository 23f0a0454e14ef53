"""A night that finds its own what-ifs: what to dream next, from easy to hard, and never outside the trusted region.

The reach grows as the policy survives at its borders; the territory grows where audits of its next cells bear dreams
out; a search keeps the worst worlds within. What is dreamt is what lies beyond the logs on the sides where the policy
fails most, all of the reach at once, and the neighbourhoods of the worst worlds found. Everything here is plain logic:
who dreams and who audits is given. Sides are numbered as in `territory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from dreaming.reach import EASY, Reach, proposals, scenario_of
from dreaming.scenario import Scenario
from dreaming.search import Archive, Axis, Evaluate, Evaluation, Space, search
from dreaming.territory import Cell, Territory

ON_BORDER = 6  # worlds that are dreamt at a border each time
SIDES, FOUND = 3, 2  # sides and neighbourhoods that are dreamt at once: more would thin out what hurts
MOST = SIDES + 1 + FOUND  # scenarios that are dreamt at once
KEPT = 3  # factors that a search is over
LEVELS, WORLDS = 5, 128  # of a scan, by factor, and of a search
PIECES = ("all", "worst", "worst", "search", "worst", "worst")  # in turn; a search takes as long as several looks
NEAR, FAR = 2, 4  # cells beyond the logs: where failure in dreams chooses the trials, and how far those then go
RARE = 0.1  # imagined failure at a border below which its side needs no dreams of its own
MOST_HISTORY = 200


class Verdict(NamedTuple):
    """Of dreams in one cell."""

    believed: bool
    reason: str


Failure = Callable[[Space, np.ndarray], np.ndarray]  # imagined, of worlds (M, F) of that space, (M,)
Audit = Callable[[Scenario, int], Verdict]  # of a scenario's dreams; the number is of the look, for fresh seeds


class Exploration:
    """
    Args:
        failure: asked of worlds that may be dreamt, and once of some that may not, to choose where policies are tried.
    """

    def __init__(self, space: Space, task: str, failure: Failure, seed: int = 0) -> None:
        self.space, self.task, self.imagined = space, task, failure
        self.territory, self.reach = Territory(space), Reach(space)
        self.rng = np.random.default_rng(seed)
        self.failing = [0.0] * (2 * len(space.axes))  # by side, imagined at the reach's border when last looked at
        self.archive: Archive | None = None
        self.tried: list[int] | None = None  # sides that policies are tried on
        self.turn = 0  # pieces of work done
        self.history: list[dict[str, Any]] = []

    # -- what is found ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Chooses the trials, and looks at the borders on their sides, so that there is something to dream at once."""
        self.trials()
        self.look_at_borders(self.tried or [])

    def think(self) -> None:
        """One piece of work: a look at all borders, at the worst of them, or a search."""
        piece = PIECES[self.turn % len(PIECES)]
        self.turn += 1
        if piece == "search":
            self.look_for_failures()
        else:
            sides = range(len(self.failing))
            worst = [side for side in sides if self.failing[side] >= RARE]
            self.look_at_borders(worst if piece == "worst" and worst else sides)

    def look_at_borders(self, sides: Sequence[int]) -> None:
        """Has the policy dreamt on these borders of the reach, and moves them by how it does."""
        sides = [side for side in sides if self.territory.cells(side)]  # elsewhere the logs go as far as anything can
        worlds = [self.reach.border(*divmod(side, 2), self.rng, ON_BORDER) for side in sides]
        if not sides:
            return
        failure = self.imagined(self.space, np.concatenate(worlds)).reshape(len(sides), -1).mean(1)
        for side, failing in zip(sides, failure.tolist(), strict=True):
            self.failing[side] = failing
            self.reach.advance(*divmod(side, 2), failing, self.territory.holds)

    def look_for_failures(self) -> None:
        """MAP-Elites over the few factors that matter most, within the territory."""
        whole = self.territory.within()
        space = whole.strongest(whole.scan(self._evaluate(whole), LEVELS), KEPT)
        first = self._elites_in(space)
        self.archive = search(self._evaluate(space), space, WORLDS, self.rng, first=first)

    def next_cell(self) -> Cell | None:
        """The cell to audit, beside a border of the trusted region that the reach has come to; None if none is due.

        Cells that were never looked at come first, those where the policy fails most at their head. Then each has its
        turn again, also the last one that is trusted: it is another policy by then that dreams there.
        """
        due: list[tuple[int, int, float, Cell]] = []
        for side, failing in enumerate(self.failing):
            if not self._at_border(side):
                continue
            outer = self.territory.depth(side)
            cells = [Cell(side, outer)] if outer < self.territory.cells(side) else []
            cells += [Cell(side, outer - 1)] if outer else []
            due += [(self.territory.looks.get(cell, 0), cell.number < outer, -failing, cell) for cell in cells]
        return min(due)[-1] if due else None

    def survey(self, audit: Audit) -> bool:
        """Has one cell audited; False if none is due."""
        cell = self.next_cell()
        if cell is None:
            return False
        verdict = audit(self.territory.scenario(cell, self.task), self.territory.looks.get(cell, 0))
        self.territory.judge(cell, *verdict)
        self.withdraw()
        return True

    def withdraw(self) -> None:
        """Takes the reach back to where dreams may go."""
        low, high = self.territory.ends()
        self.reach.ends = np.stack([np.maximum(self.reach.ends[0], low), np.minimum(self.reach.ends[1], high)])

    def note(self, seconds: float) -> bool:
        """Keeps the reach and the territory of this moment; False if they are what they were."""
        now = {"reach": self.reach.ends.tolist(), "territory": self.territory.ends().tolist()}
        if self.history and all(self.history[-1][name] == value for name, value in now.items()):
            return False
        self.history = [*self.history, {"seconds": round(seconds, 1), **now}][-MOST_HISTORY:]
        return True

    def scalars(self) -> dict[str, float]:
        """To watch: where the reach and the territory end, and how the policy fails in dreams at the reach's border."""
        found: dict[str, float] = {}
        for name, ends in (("reach", self.reach.ends), ("territory", self.territory.ends())):
            for f, factor in enumerate(self.space.names):
                found |= {f"{name}_{factor}_low": float(ends[0, f]), f"{name}_{factor}_high": float(ends[1, f])}
        return found | {f"failing_{self.territory.named(s)}": share for s, share in enumerate(self.failing)}

    # -- what is to be dreamt, and tried ------------------------------------------------------------------------------

    def scenarios(self) -> list[Scenario]:
        """What to dream now; nothing as long as the reach is that of the logs."""
        beyond = self.beyond()
        worst = sorted((s for s in beyond if self.failing[s] >= RARE), key=lambda side: -self.failing[side])[:SIDES]
        found = [self._side(side) for side in sorted(worst)]
        if len(beyond) > 1 or (beyond and not worst):
            found.append(self.reach.scenario(self.task))
        return found + self.proposed()

    def proposed(self) -> list[Scenario]:
        """Around the worst worlds that the last search found, as far as they are within reach."""
        if self.archive is None:
            return []
        reach = Reach.from_state(self.archive.space, self.reach.state_dict())
        return proposals(self.archive, reach, self.task, FOUND)

    def beyond(self) -> list[int]:
        """Sides on which the reach lies beyond the logs."""
        return np.flatnonzero(~np.isclose(self.reach.ends, np.stack(self.space.logged())).T.reshape(-1)).tolist()

    def trials(self) -> list[Scenario]:
        """Worlds that policies are tried in: a few cells beyond the logs where the first of them failed in dreams.

        Trials are true, so they need no trust; and they stay the same, or they would not compare.
        """
        if self.tried is None:
            low, high = self.space.shares(np.stack(self.space.logged()))
            near = np.array([self.territory.edge(side, NEAR) for side in range(len(self.failing))])
            shares = np.tile((low + high) / 2, (len(near), 1))
            shares[np.arange(len(near)), np.arange(len(near)) // 2] = near
            failure = self.imagined(self.space, self.space.points(shares))
            failure[[not self.territory.cells(side) for side in range(len(failure))]] = -1.0  # nothing lies beyond
            worst = np.argsort(-failure, kind="stable")
            self.tried = [int(side) for side in worst[:SIDES] if failure[side] >= EASY] or [int(worst[0])]
        return [
            self.territory.beyond(side, FAR, self.territory.named(side), "Where policies are tried.", self.task)
            for side in self.tried
        ]

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        archive = self.archive
        return {
            "axes": _axes(self.space),
            "reach": self.reach.state_dict(),
            "territory": self.territory.state_dict(),
            "failing": list(self.failing),
            "archive": archive and {"axes": _axes(archive.space), **archive.to_dict()},
            "turn": self.turn,
            "tried": self.tried,
            "history": self.history,
            "random": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of the same space, which `fits` tells."""
        self.reach = Reach.from_state(self.space, state["reach"])
        self.territory.load_state_dict(state["territory"])
        self.failing, self.turn = list(state["failing"]), int(state["turn"])
        self.tried = None if state["tried"] is None else list(state["tried"])
        self.history = list(state["history"])
        self.rng.bit_generator.state = state["random"]
        self.archive = None
        if (held := state["archive"]) is not None:
            self.archive = archive = Archive(space_of(held["axes"]))
            failure = np.array(held["failure"])
            elites = archive.space.shares(np.array(held["elites"]).reshape(len(failure), -1))
            archive.add(elites, Evaluation(failure, np.ones(len(failure), bool)))

    def begin_anew(self, state: Mapping[str, Any]) -> None:
        """After a night with another model: what its audits found does not hold; where it had got to is a beginning."""
        own = {"territory": self.territory.state_dict(), "random": self.rng.bit_generator.state, "tried": None}
        self.load_state_dict({**state, **own})
        self.withdraw()

    def _side(self, side: int) -> Scenario:
        """From the logs to where the reach ends there."""
        f, upper = divmod(side, 2)
        ends = np.sort([self.space.axes[f].logged[upper], self.reach.ends[upper, f]])[:, None]
        text = "As far beyond the logs as the policy has got."
        return scenario_of(self.territory.named(side), text, self.task, [self.space.names[f]], ends)

    def _at_border(self, side: int) -> bool:
        f, upper = divmod(side, 2)
        return bool(np.isclose(self.reach.ends[upper, f], self.territory.ends()[upper, f]))

    def _evaluate(self, space: Space) -> Evaluate:
        def evaluate(points: np.ndarray) -> Evaluation:
            return Evaluation(self.imagined(space, points), np.ones(len(points), bool))

        return evaluate

    def _elites_in(self, space: Space) -> np.ndarray | None:
        """The last search's, if it was over these factors."""
        if self.archive is None or self.archive.space.names != space.names:
            return None
        return self.archive.space.points(self.archive.elites[self.archive.filled])


def fits(state: Mapping[str, Any], space: Space) -> bool:
    """Whether it is the state of an exploration of that space."""
    return bool(state) and space_of(state["axes"]) == space


def restored(state: Mapping[str, Any], task: str) -> Exploration:
    """To look at; it cannot go on."""
    found = Exploration(space_of(state["axes"]), task, _nobody)
    found.load_state_dict(state)
    return found


def found_scenarios(state: Mapping[str, Any], task: str) -> list[Scenario]:
    """What a night would dream next that left this state."""
    return restored(state, task).scenarios() if state else []


def _nobody(space: Space, points: np.ndarray) -> np.ndarray:
    raise ValueError("an exploration that was restored to be looked at dreams nothing")


def _axes(space: Space) -> list[dict[str, Any]]:
    return [{**asdict(axis), "logged": list(axis.logged)} for axis in space.axes]


def space_of(axes: Sequence[Mapping[str, Any]]) -> Space:
    return Space(tuple(Axis(**{**axis, "logged": tuple(axis["logged"])}) for axis in axes))
