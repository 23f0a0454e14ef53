"""Spikes: single samples absurdly far outside of what a channel otherwise shows, as of a loose plug or a flipped bit.

One sample in 2,000 at ten thousand times a channel's scale makes its standard deviation 200 times as large, and in
shares of that all that the channel otherwise does is too small to be learnt. So a spike counts as not measured, and
the sample before it holds. What is rare but lasts, as a fall does, or is merely large, as a blow is, stays as logged.
"""

from typing import NamedTuple

import numpy as np

SHARE = 1000  # one row in so many, at either end, has no say in what is usual; what is less rare is no spike either
FAR = 100.0  # times the width of the usual; the widest ordinary log measured (a hopper that falls) goes out by 1.7
LONGEST = 2  # rows in a row
STILL = 1e-6  # a channel that moves less, in its own unit, does not move
LOOKED_AT = 200_000  # rows, at most, to see what is usual
AT_ONCE = 65_536  # rows


class Spikes(NamedTuple):
    """K spikes of a log, by ascending row."""

    row: np.ndarray  # (K,) number in the log
    channel: np.ndarray  # (K,)
    value: np.ndarray  # (K,) what holds in its place: the sample before, or after at an episode's beginning

    @classmethod
    def find(cls, vector: np.ndarray, start: np.ndarray, length: np.ndarray) -> "Spikes":
        """In rows (N, D), of episodes that start at `start` (E,) and have `length` (E,) rows, one after another.

        Fewer than 1,000 rows hold none, and neither does a channel that hardly ever moves.
        """
        low, high = _usual(vector)
        found = []
        for at in range(0, len(vector), AT_ONCE):
            chunk = vector[at : at + AT_ONCE]
            outside = (chunk < low) | (chunk > high)
            found += [np.argwhere(outside) + (at, 0)] if outside.any() else []
        kept: list[tuple[int, int, float]] = []
        every = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
        for channel in np.unique(every[:, 1]).tolist():
            rows = every[every[:, 1] == channel, 0]
            if len(rows) * SHARE > 2 * len(vector):  # of both ends
                continue
            episode = np.searchsorted(start, rows, side="right") - 1
            breaks = (np.diff(rows) > 1) | (np.diff(episode) > 0)
            for run in np.split(np.arange(len(rows)), 1 + np.flatnonzero(breaks)):
                first, last, own = rows[run[0]], rows[run[-1]], episode[run[0]]
                beside = first - 1 if first > start[own] else last + 1
                if len(run) <= LONGEST and beside < start[own] + length[own]:
                    kept += [(row, channel, float(vector[beside, channel])) for row in rows[run].tolist()]
        kept.sort()
        row, channel, value = zip(*kept, strict=True) if kept else ((), (), ())
        return cls(np.array(row, np.int64), np.array(channel, np.int64), np.array(value, np.float32))

    def mend(self, vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Samples (..., D) of the rows with these numbers (...), without spikes."""
        here = np.isin(rows, self.row) if len(self.row) else np.zeros(0, bool)
        if not here.any():
            return vector
        vector = vector.copy()
        for index in zip(*np.nonzero(here), strict=True):
            these = slice(*np.searchsorted(self.row, [rows[index], rows[index] + 1]))
            vector[index][self.channel[these]] = self.value[these]
        return vector


def _usual(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds (D,), (D,) in float32 beyond which a sample of rows (N, D) is no usual one."""
    if len(vector) > LOOKED_AT:
        vector = vector[np.sort(np.random.default_rng(0).choice(len(vector), LOOKED_AT, replace=False))]
    few, nowhere = len(vector) // SHARE, np.full(vector.shape[1], np.inf, np.float32)
    if not few:
        return -nowhere, nowhere
    by_channel = np.ascontiguousarray(vector.T)
    by_channel.partition((few, len(vector) - 1 - few), axis=1)
    low, high = (by_channel[:, i].astype(np.float64) for i in (few, -1 - few))
    centre, width = (low + high) / 2, high - low
    reach = np.where(width > STILL, (FAR + 0.5) * width, np.inf)
    with np.errstate(over="ignore"):
        return (centre - reach).astype(np.float32), (centre + reach).astype(np.float32)
