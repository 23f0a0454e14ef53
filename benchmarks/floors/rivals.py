"""Foretellers without a floor: a line for each horizon, and an LSTM that is trained on the very task."""

import math

import numpy as np
import torch
from foretelling.moments import PAST, Foretold
from foretelling.rivals import Recurrent
from torch import Tensor, nn

from worldmodel.replay import Batch, Replay
from worldmodel.trainer import Trainer


class Linear:
    """Ridge regression of the change up to each row of the future, from the second before and the commands up to it.

    Direct, as a line that is rolled on multiplies its errors.
    """

    ridge = 1e-3
    back = (0, 1, 2, 5, 10, 19)  # rows before the last seen

    def __init__(self, replay: Replay, length: int) -> None:
        statistics = replay.statistics()
        self.mean, self.std = statistics.mean, statistics.std
        batch = replay.whole(range(len(replay.episodes)), length)
        self.weights = []
        for ahead in range(1, length - PAST + 1):
            seen = self._seen(batch, ahead)
            change = (self._scaled(batch)[:, PAST - 1 + ahead] - self._scaled(batch)[:, PAST - 1]).numpy()
            normal = seen.T @ seen + self.ridge * len(seen) * np.eye(seen.shape[1])
            self.weights.append(np.linalg.solve(normal, seen.T @ change))

    def _scaled(self, batch: Batch) -> Tensor:
        return (batch.vector - self.mean) / self.std

    def _seen(self, batch: Batch, ahead: int) -> np.ndarray:
        scaled = self._scaled(batch)
        past = [scaled[:, PAST - 1 - back] for back in self.back]
        before = [batch.action[:, PAST - 1 - back] for back in self.back[:-1]]  # nothing led to the first row
        to_come = batch.action[:, PAST : PAST + ahead]
        commands = [*before, to_come.mean(1), to_come[:, -1]]
        one = torch.ones(len(scaled), 1)
        return torch.cat([*past, *commands, one], -1).double().numpy()

    def update(self, progress: float) -> None:
        pass

    def foretell(self, batch: Batch) -> Foretold:
        here = self._scaled(batch)[:, PAST - 1].numpy()
        rows = [here + self._seen(batch, 1 + k) @ weights for k, weights in enumerate(self.weights)]
        vector = torch.from_numpy(np.stack(rows, 1) * self.std + self.mean).float()
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
        return self.replay.whole(self.rng.integers(0, len(self.replay.episodes), rows), length)
