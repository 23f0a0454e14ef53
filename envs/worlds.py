"""Many worlds at once, as columns: thousands are drawn for every update on dreams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from envs.physics import FACTORS, Change, Physics

COLUMN = {name: i for i, name in enumerate(FACTORS)}


class Worlds(Sequence[Physics]):
    """N `Physics`, which they are to whoever takes them one by one.

    Args:
        factors: (N, F) values, columns in the order of FACTORS; as they are, unchecked.
        changes: (N,) each world's, tuples.
        own: (N,) each world's own labels, tuples of pairs.
    """

    def __init__(self, factors: np.ndarray, changes: np.ndarray, own: np.ndarray) -> None:
        self.factors, self.changes, self.own = factors, changes, own

    @classmethod
    def of(cls, worlds: Sequence[Physics]) -> Worlds:
        if isinstance(worlds, Worlds):
            return worlds
        factors = np.array([[getattr(world, name) for name in FACTORS] for world in worlds]).reshape(-1, len(FACTORS))
        return cls(factors, objects(world.changes for world in worlds), objects(world.own for world in worlds))

    @classmethod
    def of_logs(cls, labels: Iterable[Mapping[str, float]], nominal: Physics) -> Worlds:
        """Of episodes, as `Physics.of_log` reads what they state."""
        return cls.of([Physics.of_log(one, nominal) for one in labels])

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, which: Any) -> Any:
        """One world, or the `Worlds` of a slice or an array of rows."""
        if isinstance(which, (int, np.integer)):
            factors = dict(zip(FACTORS, self.factors[which].tolist(), strict=True))
            return Physics(**factors, changes=self.changes[which], own=self.own[which])
        return Worlds(self.factors[which], self.changes[which], self.own[which])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Worlds) and list(self) == list(other)

    def joined(self, others: Worlds) -> Worlds:
        pairs = ((getattr(self, name), getattr(others, name)) for name in ("factors", "changes", "own"))
        return Worlds(*(np.concatenate(pair) for pair in pairs))

    def put(self, rows: np.ndarray, others: Worlds) -> None:
        """Others in the place of these rows."""
        for name in ("factors", "changes", "own"):
            getattr(self, name)[rows] = getattr(others, name)

    def column(self, name: str) -> np.ndarray:
        """A factor's values (N,), to be read or written."""
        return self.factors[:, COLUMN[name]]

    def label(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Values (N,) of a factor or of an own label, and which worlds state it (N,)."""
        if name in FACTORS:
            return self.column(name), np.ones(len(self), bool)
        own = [dict(pairs) for pairs in self.own]
        return np.array([labels.get(name, 0.0) for labels in own]), np.array([name in labels for labels in own], bool)

    def pushes(self, first: np.ndarray, count: int, control_hz: float) -> np.ndarray:
        """`Physics.push_at` (N, count) of each world's control steps from its own `first` (N,) on."""
        every = self.column("push_every_s")[:, None]
        since = (first - np.round(self.column("push_start_s") * control_hz))[:, None] + np.arange(count)
        again = np.maximum(1.0, np.round(every * control_hz))
        due = (since == 0) | ((every > 0) & (since > 0) & (since % again == 0))
        found = np.where(due, self.column("push_m_s")[:, None], 0.0)
        for i in self.changing():
            world = self[int(i)]
            found[i] = [world.push_at(int(first[i]) + t, control_hz) for t in range(count)]
        return found

    def changing(self) -> np.ndarray:
        """Rows of those that change on the way."""
        return np.flatnonzero([len(changes) for changes in self.changes])

    def with_factors(self, values: dict[str, np.ndarray], changes: Callable[[int], Iterable[Change]] | None) -> Worlds:
        """The same worlds with other values (N,) of some factors, and with these changes in place of any others."""
        found = Worlds(self.factors.copy(), self.changes, self.own)
        for name, column in values.items():
            found.column(name)[:] = column
        if changes is not None:
            found.changes = objects(tuple(changes(i)) for i in range(len(self)))
        return found


def objects(values: Iterable[Any]) -> np.ndarray:
    """(N,) of tuples, which NumPy would take for rows."""
    return np.fromiter(values, object)
