"""What a few episodes on a new floor say of all that a foreteller gets wrong there: one line a horizon, in closed form.

The line runs from the second before and the commands to come to the foreteller's error. A ridge keeps it near nothing;
how near is what foretells each of the few episodes best from the others.
"""

import numpy as np
import torch
from floors.rivals import seen
from foretelling.moments import PAST, Foretold
from torch import Tensor

from worldmodel.replay import Batch, Statistics

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)  # shares of the features' variance
JUDGED = 3  # channels, the first of the logs
LOOKED_AT = (4, 9, 14, 19)  # rows of the future by which the ridge is chosen


class Correction:
    """Fitted on what was foretold of windows (N, W) on the new floor, three to an episode.

    Args:
        usual: windows (M, W) of the floors known well, which say what is a large value of a feature.
    """

    def __init__(self, foretold: Foretold, few: Batch, usual: Batch, statistics: Statistics) -> None:
        self.statistics = statistics
        self.ahead = range(1, few.vector.shape[1] - PAST + 1)
        left = ((few.vector[:, PAST:] - foretold.vector).numpy() / statistics.std).astype(np.float64)
        self.scale = [np.maximum(seen(usual, statistics, ahead).std(0), 1e-3) for ahead in self.ahead]
        for scale in self.scale:
            scale[-1] = 1.0  # the constant
        features = self._features(few)
        # A single episode has only its windows to be judged by.
        groups = np.arange(len(left)) // 3 if len(left) > 3 else np.arange(len(left))
        errors = [
            sum(_left_out(features[k], left[:, k, :JUDGED], groups, ridge) for k in LOOKED_AT if k < len(features))
            for ridge in RIDGES
        ]
        self.ridge = RIDGES[int(np.argmin(errors))]
        self.lines = [_line(x, left[:, k], self.ridge) for k, x in enumerate(features)]

    def _features(self, batch: Batch) -> list[np.ndarray]:
        return [seen(batch, self.statistics, ahead) / self.scale[ahead - 1] for ahead in self.ahead]

    def __call__(self, foretold: Foretold, batch: Batch) -> Tensor:
        """(N, H, D) what was foretold, corrected."""
        rows = [x @ line for x, line in zip(self._features(batch), self.lines, strict=True)]
        return foretold.vector + torch.from_numpy(np.stack(rows, 1) * self.statistics.std).float()


def _line(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """(P, D); written for fewer rows than features."""
    return x.T @ np.linalg.solve(x @ x.T + ridge * len(x) * np.eye(len(x)), y)


def _left_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, ridge: float) -> float:
    """Squared error on each group by the line of the others."""
    total = 0.0
    for group in np.unique(groups):
        own = groups == group
        total += float(((y[own] - x[own] @ _line(x[~own], y[~own], ridge)) ** 2).sum())
    return total
