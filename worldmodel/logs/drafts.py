"""Mappings for formats that say themselves what is observation, action and reward."""

from collections.abc import Sequence

import numpy as np

from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.mapping import Channels, LogMapping

UNSTATED_HZ = 1.0
_UNSTATED = "steps taken as one a second, since the files state no rate (a mapping's control_hz does)"


def note_rate(raw: RawEpisode, mapping: LogMapping | None) -> RawEpisode:
    """Of a format that states no rate: the user is told what was taken for one, unless a mapping gives it."""
    if mapping is None or mapping.control_hz == UNSTATED_HZ:
        raw.repairs[_UNSTATED] += len(raw.columns["actions" if "actions" in raw.columns else "action"])
    return raw


def asks_other_rate(mapping: LogMapping | None, hz: float) -> bool:
    """Whether rows that are even at `hz` need a clock to be resampled by, as the mapping steps at another rate."""
    if mapping is None or mapping.time is not None:
        return False
    given = mapping.control_hz or (1 / mapping.dt_s if isinstance(mapping.dt_s, int | float) and mapping.dt_s else hz)
    return abs(given / hz - 1) > 1e-6


def action(array: str, width: int, low: object = None, high: object = None) -> Channels:
    """The whole array; bounds where the format states finite ones."""
    names = [f"action_{i}" for i in range(width)]
    return Channels(array=array, names=names, low=_bounds(low, width), high=_bounds(high, width))


def observation(arrays: Sequence[str], prefix: str = "") -> Channels:
    """Each array under its own name without the prefix, a wide one as name_0, name_1, ..."""
    return Channels(columns={array.removeprefix(prefix).replace("/", "_"): array for array in arrays})


def _bounds(values: object, width: int) -> list[float] | None:
    try:
        bounds = np.broadcast_to(np.asarray(values, np.float64), (width,))
    except (TypeError, ValueError):
        return None
    return bounds.tolist() if np.isfinite(bounds).all() else None
