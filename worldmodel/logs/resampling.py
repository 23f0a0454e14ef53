"""Columns of uneven clocks and several rates on one even grid, by a stated rule. Every repair is counted.

- The clock: rows with the time of the row after them are left out, and so are rows that go back by less than a gap. A
  clock that goes back further starts again, and a new episode with it.
- The grid starts when every channel has been seen once, and ends with the channel of the observation that ends first.
- An observation is interpolated linearly between its neighbours in time; angles are unwrapped first.
- A command holds until the next one, or to the end: a step carries its mean over the step, weighted by time.
- A reward is the sum over the step; a row's is of the time until the next row.
- Of pictures the nearest is taken, and of those that come later only one within half a step.
- Where a channel of the observation is missing for longer than `gap_s`, the episode is split.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

SAME_TIME, BACK = "rows left out that have the time of the next", "rows left out that go back in time"
RESTART = "recordings split where the clock starts again"
GAP, MISSING = "gaps at which an episode is split", "missing values filled from their neighbours in time"
HELD = "steps whose command is older than a gap, and is taken to have held"
SHORT = "pieces between gaps left out, too short for a step"
EDGE = 0.05  # of a step: a grid point so near to the last sample is within, whose stamp may be rounded or jitter


@dataclass
class Series:
    """One column and its clock: rows of equal number, time ascending, no NaN, once `clean` has seen it."""

    time_s: np.ndarray  # (T,)
    value: np.ndarray  # (T, k)


def runs(time_s: np.ndarray, gap_s: float) -> list[slice]:
    """Where a clock starts again, a new run of rows begins. NaN goes with the rows before it."""
    known = np.flatnonzero(np.isfinite(time_s))
    cuts = known[1:][np.diff(time_s[known]) < -gap_s].tolist() if len(known) else []
    return [slice(start, stop) for start, stop in zip([0, *cuts], [*cuts, len(time_s)], strict=True)]


def clean(time_s: np.ndarray, value: np.ndarray, repairs: Counter[str] | None = None) -> Series:
    """Rows whose time ascends and whose value (T, k) is known; counts what it leaves out."""
    repairs = Counter() if repairs is None else repairs
    known = np.isfinite(time_s)
    before = np.maximum.accumulate(np.where(known, time_s, -np.inf))
    late = known & (time_s < np.concatenate([[-np.inf], before[:-1]]))
    repairs[BACK] += int(late.sum())
    at = np.flatnonzero(known & ~late)
    again = np.append(np.diff(time_s[at]) <= 0, False) if len(at) else np.zeros(0, bool)
    repairs[SAME_TIME] += int(again.sum())
    at = at[~again]
    finite = np.isfinite(value[at]).all(axis=1) if value.dtype.kind == "f" else np.ones(len(at), bool)  # or images
    return Series(time_s[at][finite], value[at][finite])


def pieces(observed: list[Series], begins_s: float, step_s: float, gap_s: float) -> list[tuple[float, int]]:
    """Start in s and number of grid points of each piece without gaps, in order."""
    begins = max([begins_s, *(one.time_s[0] for one in observed)])
    ends = min(one.time_s[-1] for one in observed)
    holes = []
    for one in observed:
        wide = np.flatnonzero(np.diff(one.time_s) > gap_s)
        holes += [(one.time_s[i], one.time_s[i + 1]) for i in wide]
    found, at = [], begins
    for hole_from, hole_to in sorted(holes):
        if hole_to <= at:
            continue
        if hole_from >= ends:
            break
        found.append((at, min(hole_from, ends)))
        at = max(at, hole_to)
    found.append((at, ends))
    return [(start, int(np.floor((stop - start) / step_s + EDGE)) + 1) for start, stop in found if stop >= start]


def age(series: Series, grid_s: np.ndarray) -> np.ndarray:
    """(len(grid_s),) seconds since the last sample."""
    last = np.searchsorted(series.time_s, grid_s + 1e-9, side="right") - 1
    return grid_s - series.time_s[np.maximum(last, 0)]


def interpolate(series: Series, grid_s: np.ndarray) -> np.ndarray:
    """(len(grid_s), k)"""
    columns = [np.interp(grid_s, series.time_s, column) for column in series.value.T]
    return np.stack(columns, axis=1)


def nearest(series: Series, grid_s: np.ndarray) -> np.ndarray:
    """The value nearest in time, for what is no number that can be between. None of more than half a step later: a slow
    camera does not show what comes. Before the first, the first."""
    after = np.minimum(np.searchsorted(series.time_s, grid_s), len(series.time_s) - 1)
    before = np.maximum(after - 1, 0)
    ahead_s, since_s = series.time_s[after] - grid_s, grid_s - series.time_s[before]
    return series.value[np.where((ahead_s < since_s) & (ahead_s <= (grid_s[1] - grid_s[0]) / 2), after, before)]


def held_mean(series: Series, grid_s: np.ndarray) -> np.ndarray:
    """(len(grid_s) - 1, k): the mean of what is held over each step of the grid."""
    time, value = series.time_s, series.value
    with np.errstate(over="ignore", invalid="ignore"):  # where values are beyond what logs may hold, and refused later
        area = np.concatenate([np.zeros((1, value.shape[1])), np.cumsum(value[:-1] * np.diff(time)[:, None], axis=0)])
        at = np.clip(np.searchsorted(time, grid_s, side="right") - 1, 0, len(time) - 1)
        until = area[at] + value[at] * (grid_s - time[at])[:, None]  # before the first: its value, backwards
        mean = np.diff(until, axis=0) / np.diff(grid_s)[:, None]
    same = at[1:] == at[:-1]  # nothing changed within the step: no rounding either
    return np.where(same[:, None], value[at[:-1]], mean)


def summed(series: Series, grid_s: np.ndarray, gap_s: float) -> np.ndarray:
    """(len(grid_s) - 1, k): the sum over each step of the grid, each row spread over its time until the next row: so a
    stamp that is a little early or late takes little with it. Before a gap, and of the last row, that time is a step:
    what is paid now and then stays where it was."""
    time, value = series.time_s, series.value
    if not len(time):
        return np.zeros((len(grid_s) - 1, value.shape[1]))
    step_s = grid_s[1] - grid_s[0]
    until = np.append(time[1:], time[-1] + step_s)
    until = np.where(until - time > gap_s, np.minimum(until, time + step_s), until)
    total = np.concatenate([np.zeros((1, value.shape[1])), np.cumsum(value, axis=0)])
    edges = np.stack([time, until], axis=1).ravel()
    ends = np.stack([total[:-1], total[1:]], axis=1).reshape(len(edges), -1)
    return np.diff(interpolate(Series(edges, ends), grid_s), axis=0)
