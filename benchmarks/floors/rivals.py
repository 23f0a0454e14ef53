"""Foretellers without a floor: a line for each horizon, and an LSTM that is trained on the very task."""

import math

import numpy as np
import torch
from foretelling.moments import PAST, Foretold
from foretelling.rivals import Recurrent
from torch import Tensor, nn

from worldmodel.replay import Batch, Replay, Statistics
from worldmodel.trainer import Trainer

BACK = (0, 1, 2, 5, 10, 19)  # rows before the last seen that a line takes note of


def scaled(batch: Batch, statistics: Statistics) -> Tensor:
    mean, std = torch.from_numpy(statistics.mean), torch.from_numpy(statistics.std)
    return (batch.vector - mean) / std


def seen(batch: Batch, statistics: Statistics, ahead: int) -> np.ndarray:
    """(N, P) what a line may know `ahead` rows before: the second before, the commands up to then, and 1."""
    vector = scaled(batch, statistics)
    past = [vector[:, PAST - 1 - back] for back in BACK]
    before = [batch.action[:, PAST - 1 - back] for back in BACK[:-1]]  # nothing led to the first row
    to_come = batch.action[:, PAST : PAST + ahead]
    one = torch.ones(len(vector), 1)
    return torch.cat([*past, *before, to_come.mean(1), to_come[:, -1], one], -1).double().numpy()


class Linear:
    """Ridge regression of the change up to each row of the future.

    Direct, as a line that is rolled on multiplies its errors.
    """

    ridge = 1e-3

    def __init__(self, replay: Replay, length: int) -> None:
        self.statistics = replay.statistics()
        batch = replay.whole(range(len(replay.episodes)), length)
        vector = scaled(batch, self.statistics)
        self.weights = []
        for ahead in range(1, length - PAST + 1):
            x = seen(batch, self.statistics, ahead)
            change = (vector[:, PAST - 1 + ahead] - vector[:, PAST - 1]).numpy()
            normal = x.T @ x + self.ridge * len(x) * np.eye(x.shape[1])
            self.weights.append(np.linalg.solve(normal, x.T @ change))

    def update(self, progress: float) -> None:
        pass

    def foretell(self, batch: Batch) -> Foretold:
        here = scaled(batch, self.statistics)[:, PAST - 1].numpy()
        rows = [here + seen(batch, self.statistics, 1 + k) @ weights for k, weights in enumerate(self.weights)]
        vector = torch.from_numpy(np.stack(rows, 1) * self.statistics.std + self.statistics.mean).float()
        nothing = torch.zeros(vector.shape[:2])
        return Foretold(vector, nothing, nothing + 1)


class LSTM(Recurrent):
    """Trained on whole windows: a second is seen, a second is foretold, each step on its own foretelling."""

    def __init__(self, trainer: Trainer, parameters: int) -> None:
        super().__init__(trainer)
        given, told = self.channels + self.inputs, 2 * self.channels + 2
        # The width of as many parameters: LSTM 4 u (given + u + 2), head u (u + 1) + told (u + 1).
        line = 4 * (given + 2) + 1 + told
        units = round((math.sqrt(line**2 + 20 * (parameters - told)) - line) / 10)
        self.gru = nn.LSTM(self.channels + self.inputs, units, batch_first=True)
        self.head = nn.Sequential(nn.Linear(units, units), nn.SiLU(), nn.Linear(units, 2 * self.channels + 2))
        self.optimise(nn.ModuleList([self.gru, self.head]))

    def sample(self, rows: int, length: int) -> Batch:
        length = int(self.replay.length.max()) + 1
        return self.replay.whole(self.rng.integers(0, len(self.replay.episodes), rows).tolist(), length)
