"""Events: what a scenario changes on the way, an ice patch say, to be drawn anew for every episode."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from configs import UserError
from dreaming.bounds import Bounds, part, read_bounds, read_ranges
from envs.physics import Change, PhysicsRange


@dataclass(frozen=True)
class Event:
    """Times, like values, are numbers or bounds, and count from the scenario's beginning."""

    at_s: Bounds
    factors: PhysicsRange
    for_s: Bounds | None = None  # None: to the end

    def draw(self, pick: Callable[[Bounds], float], shift_s: float = 0.0) -> Change:
        """`pick` chooses from bounds; `shift_s` is when the scenario began, by the episode's clock."""
        for_s = None if self.for_s is None else pick(self.for_s)
        return Change(shift_s + pick(self.at_s), {name: pick(b) for name, b in self.factors.items()}, for_s)

    @property
    def end_s(self) -> float:
        """When it ends at the latest; where it does not, when it begins."""
        return part(self.at_s, 1.0) + (0.0 if self.for_s is None else part(self.for_s, 1.0))


def read_event(where: str, entry: Any) -> Event:
    """Of the file `where`.

    Raises:
        UserError: no time, an unknown factor, bounds that are none.
    """
    if not isinstance(entry, Mapping) or "at_s" not in entry:
        raise UserError(f"{where}: an event says when and what, as {{at_s: 1.5, floor_friction: 0.1}}, not {entry!r}")
    times = {name: read_bounds(where, name, entry[name]) for name in ("at_s", "for_s") if name in entry}
    for name, bounds in times.items():
        if not 0.0 <= part(bounds, 0.0) <= part(bounds, 1.0):
            raise UserError(f"{where}: {name} must not be negative, and its lower bound comes first: {entry[name]}")
    factors = read_ranges(where, {name: value for name, value in entry.items() if name not in times})
    return Event(times["at_s"], factors, times.get("for_s"))


def told(change: Change) -> str:
    """For a label."""
    what = " and ".join(f"{name} {value:g}" for name, value in change.factors.items())
    return f"{what} at {change.at_s:g} s" + (f" for {change.for_s:g} s" if change.for_s else "")
