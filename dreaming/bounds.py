"""Bounds of a factor, as scenarios give and files write them: one number, or a pair to draw from."""

from collections.abc import Mapping
from typing import Any

from configs import UserError, suggest
from envs.physics import FACTORS, PhysicsRange

Bounds = float | tuple[float, float]


def part(bounds: Bounds, share: float) -> float:
    """The value at a share of the way, from 0 for the lower bound to 1 for the upper."""
    low, high = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    return low + share * (high - low)


def read_ranges(where: str, entries: Mapping[str, Any]) -> PhysicsRange:
    """Raises UserError, which names the file `where`, for an unknown factor or what is no bounds."""
    for name in entries:
        check_known(where, name)
    return {name: read_bounds(where, name, bounds) for name, bounds in entries.items()}


def read_bounds(where: str, name: str, bounds: Any) -> Bounds:
    if not isinstance(bounds, (list, tuple)):
        return read_number(where, name, bounds)
    if len(bounds) != 2:
        raise UserError(f"{where}: {name} needs a lower and an upper bound, not {len(bounds)} values")
    return read_number(where, name, bounds[0]), read_number(where, name, bounds[1])


def read_number(where: str, name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)  # PyYAML reads 3e-4 as text
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} must be a number or [low, high], not {value!r}") from None


def check_known(where: str, name: Any) -> None:
    if name not in FACTORS:
        raise UserError(f"{where}: factor {suggest(name, FACTORS)}")
