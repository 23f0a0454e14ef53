"""Where dreams may go: cells of a space of worlds, trusted by held-out logs, widened or refused by audits.

A cell is a stretch of one factor beyond the logs, a step of the curriculum wide; the other factors are as the logs have
them. Trust is a region, so a cell counts only where all those between it and the logs are trusted too. A world that is
beyond the logs in several factors at once inherits from its factors' cells: it is trusted where all of them are, though
none was looked at together. Letters: M worlds, F factors; a *side* is 2 f for what lies below the logs, 2 f + 1 above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dreaming.reach import NOT_LEARNABLE, STEP, scenario_of
from dreaming.scenario import Scenario
from dreaming.search import Space
from envs.physics import FACTORS

CALIBRATED, WIDENED, REFUSED, UNKNOWN = "calibrated", "widened", "refused", "unknown"
SIDES = ("below", "above")


class Cell(NamedTuple):
    side: int
    number: int  # from the logs outwards


class Territory:
    def __init__(self, space: Space) -> None:
        self.space = space
        logged = space.shares(np.stack(space.logged()))  # (2, F)
        self._edges: list[np.ndarray] = []  # by side, from the logs outwards, as shares
        for f in range(len(space.axes)):
            for upper, end in enumerate((0.0, 1.0)):
                begin = float(logged[upper, f])
                count = math.ceil(abs(end - begin) / STEP - 1e-6)
                out = begin + (1 if upper else -1) * STEP * np.arange(count + 1)
                self._edges.append(np.clip(out, 0.0, 1.0))
        self.standing = [[UNKNOWN] * (len(edges) - 1) for edges in self._edges]
        self.vouched = [0] * len(self.standing)  # cells a side that held-out logs vouch for, whatever audits say
        self.reasons: dict[Cell, str] = {}
        self.looks: dict[Cell, int] = {}  # audits of each cell

    # -- borders ------------------------------------------------------------------------------------------------------

    def depth(self, side: int) -> int:
        """Cells in a row from the logs on that may be dreamt."""
        row = self.standing[side]
        return next((i for i, one in enumerate(row) if one not in (CALIBRATED, WIDENED)), len(row))

    def ends(self) -> np.ndarray:
        """(2, F): lowest and highest that may be dreamt, in the factors' units."""
        return self._ends([self.depth(side) for side in range(len(self.standing))])

    def calibrated(self) -> np.ndarray:
        """(2, F): lowest and highest that held-out logs vouch for."""
        return self._ends(self.vouched)

    def _ends(self, depth: Sequence[int]) -> np.ndarray:
        shares = np.array([self.edge(side, cells) for side, cells in enumerate(depth)])
        found = self.space.points(shares.reshape(-1, 2).T)
        # The logs' own ends to the last bit, which a way there and back by shares is not.
        return np.where(np.array(depth).reshape(-1, 2).T == 0, np.stack(self.space.logged()), found)

    def holds(self, points: np.ndarray) -> np.ndarray:
        """(M,) whether worlds (M, F), in the factors' units, may be dreamt."""
        low, high = self.ends()
        slack = 1e-9 * (high - low)
        return ((points >= low - slack) & (points <= high + slack)).all(1)

    def within(self) -> Space:
        """The part of the space that may be dreamt."""
        low, high = self.ends().tolist()
        return Space(tuple(replace(a, low=low[f], high=high[f]) for f, a in enumerate(self.space.axes)))

    def cells(self, side: int) -> int:
        """How many there are between the logs and the space's end."""
        return len(self.standing[side])

    def edge(self, side: int, cells: int) -> float:
        """So many cells beyond the logs, or at the space's end, as a share of the axis."""
        edges = self._edges[side]
        return float(edges[min(cells, len(edges) - 1)])

    # -- what is found ------------------------------------------------------------------------------------------------

    def calibrate(self, trusted: Callable[[np.ndarray], np.ndarray]) -> None:
        """Trusts the cells whose outer ends, the other factors in the middle of the logs, held-out logs vouch for.

        Args:
            trusted: of worlds (M, F) in the factors' units whether (M,) their dreams are trusted.
        """
        cells = [Cell(side, n) for side, row in enumerate(self.standing) for n in range(len(row))]
        if not cells:
            return
        shares = np.tile(self.space.shares(np.stack(self.space.logged())).mean(0), (len(cells), 1))
        for row, (side, number) in zip(shares, cells, strict=True):
            row[side // 2] = self._edges[side][number + 1]
        vouched = dict(zip(cells, trusted(self.space.points(shares)).tolist(), strict=True))
        for side, row in enumerate(self.standing):
            for number in range(len(row)):
                if not vouched[Cell(side, number)]:
                    break
                row[number] = CALIBRATED
                self.vouched[side] = number + 1

    def judge(self, cell: Cell, believed: bool, reason: str) -> None:
        """What an audit of dreams there found; it outweighs the calibration and earlier audits."""
        self.standing[cell.side][cell.number] = WIDENED if believed else REFUSED
        self.reasons[cell] = reason
        self.looks[cell] = self.looks.get(cell, 0) + 1

    # -- in words and worlds ------------------------------------------------------------------------------------------

    def bounds(self, cell: Cell) -> tuple[float, float]:
        """In the factor's unit, the lower first."""
        edges = self._edges[cell.side][cell.number : cell.number + 2]
        low, high = sorted(self.space.axes[cell.side // 2].values(edges).tolist())
        return low, high

    def scenario(self, cell: Cell, task: str) -> Scenario:
        factor = self.space.names[cell.side // 2]
        low, high = self.bounds(cell)
        name = f"{factor} {low:.3g} to {high:.3g}"
        return scenario_of(name, "A cell beyond the logs.", task, [factor], np.array([[low], [high]]))

    def beyond(self, side: int, cells: int, name: str, text: str, task: str) -> Scenario:
        """From the logs' border so many cells out."""
        f = side // 2
        ends = self.space.axes[f].values(np.sort([self.edge(side, 0), self.edge(side, cells)]))
        return scenario_of(name, text, task, [self.space.names[f]], ends[:, None])

    def named(self, side: int) -> str:
        """As `floor_friction below 0.4`: what lies beyond the logs on that side."""
        axis = self.space.axes[side // 2]
        return f"{axis.factor} {SIDES[side % 2]} {axis.logged[side % 2]:.3g}"

    def refusals(self) -> list[str]:
        """What these logs cannot teach, a line a side: where audits refused the cell that comes next, and why."""
        lines, ends = [], self.ends()
        for side in range(len(self.standing)):
            cell = Cell(side, self.depth(side))
            if cell.number == self.cells(side) or self.standing[side][cell.number] != REFUSED:
                continue
            axis = self.space.axes[side // 2]
            unit = f" {FACTORS[axis.factor].unit}".rstrip()
            border = f"{axis.factor} {SIDES[side % 2]} {ends[side % 2, side // 2]:.3g}{unit}"
            lines.append(f"{NOT_LEARNABLE} with {border} ({self.reasons[cell]})")
        return lines

    def state_dict(self) -> dict[str, Any]:
        told = [[*cell, self.looks.get(cell, 0), reason] for cell, reason in self.reasons.items()]
        by_side = lambda values: dict(zip(self._names(), values, strict=True))  # noqa: E731
        return {"standing": by_side(self.standing), "vouched": by_side(self.vouched), "told": told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of the same space."""
        self.standing = [list(state["standing"][name]) for name in self._names()]
        self.vouched = [int(state["vouched"][name]) for name in self._names()]
        self.reasons = {Cell(side, number): reason for side, number, _, reason in state["told"]}
        self.looks = {Cell(side, number): looks for side, number, looks, _ in state["told"] if looks}

    def _names(self) -> list[str]:
        return [f"{name} {side}" for name in self.space.names for side in SIDES]
