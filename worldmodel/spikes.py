"""Spikes: rare samples absurdly far outside of what a channel otherwise shows, as a loose plug or a flipped bit gives.

One sample in 2,000 at ten thousand times a channel's scale makes its standard deviation 200 times as large, and in
shares of that all that the channel otherwise does is too small to be learnt. So a spike counts as not measured, and the
sample before it holds, as in a robot's driver.
"""

from typing import NamedTuple

import numpy as np

SHARE = 1000  # one row in so many, at either end, has no say in what is usual
FAR = 3.0  # times the width of the usual: the widest ordinary log measured (a hopper that falls) goes out by 1.4
STILL = 1e-6  # a channel that moves less, in its own unit, does not move


class Usual(NamedTuple):
    """Where the samples of each channel lie: within `reach` (D,) of `centre` (D,)."""

    centre: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, vector: np.ndarray) -> "Usual":
        """Of rows (N, D). Fewer than 1,000 rows hold no spikes, and a channel that hardly ever moves has none."""
        few = len(vector) // SHARE
        ends = np.partition(vector.astype(np.float64), (few, len(vector) - 1 - few), axis=0)
        low, high = ends[few], ends[-1 - few]
        moves = (high - low > STILL) & (few > 0)
        return cls((low + high) / 2, np.where(moves, (FAR + 0.5) * (high - low), np.inf))

    def spikes(self, vector: np.ndarray) -> np.ndarray:
        """Which samples of (..., D) are spikes."""
        return np.abs(vector - self.centre) > self.reach

    def mend(self, vector: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """Rows (..., T, D) with the sample before in place of spikes; where there is none, the centre.

        Args:
            begins: (..., T) bool: what comes before belongs to another episode.
        """
        spikes = self.spikes(vector)
        if not spikes.any():
            return vector
        alone = begins.copy()
        alone[..., 0] = True
        sound = np.where(spikes & alone[..., None], self.centre, vector).astype(vector.dtype)
        row = np.arange(vector.shape[-2])[:, None]
        last = np.maximum.accumulate(np.where(spikes & ~alone[..., None], 0, row), axis=-2)
        return np.take_along_axis(sound, last, axis=-2)
