"""Which command a step belongs to, asked of the data: logs that are off by a row train a model that looks fine.

A log should hold beside observation t the command that leads to observation t + 1. For each shift s, ridge regression
explains the change from t to t + 1 by the observations t and t - 1 and the command t + s, on the first part of the
episodes, and is judged on the rest. The shift that leaves the least unexplained is the one that the data speak for.

What feedback does: a controller's command t + 1 answers observation t + 1, so it knows of it. A shift above 0 is
therefore believed only if the command t itself says next to nothing; a log that is late by a row looks like that.
"""

from dataclasses import dataclass

import numpy as np

from worldmodel.spikes import STILL
from worldmodel.storage import LogReader

SHIFTS = (-2, -1, 0, 1, 2)
ROWS = 50_000  # looked at, at most
FEW = 200  # rows below which nothing is said
LOST = 0.2  # share of what the best shift's commands explain that shift 0 has to lose before it is suspicious
SILENT = 0.5  # of the gain of a later command: what the command t may gain where a later one is to be believed
NO_EFFECT = 0.01  # gain below which commands are said to do nothing that a line can show
RIDGE = 1e-3


@dataclass(frozen=True)
class Alignment:
    """What is left unexplained of the change of the channels, held out: 1 = all of it."""

    without: float
    """By the observations alone."""
    by_shift: dict[int, float]
    rows: int

    @property
    def best(self) -> int:
        return min(self.by_shift, key=lambda shift: self.by_shift[shift])

    @property
    def suspicious(self) -> bool:
        best, zero = self.by_shift[self.best], self.by_shift[0]
        explained = self.without - best
        if self.best == 0 or self.gain < NO_EFFECT or zero - best < LOST * explained:
            return False
        return self.best < 0 or self.without - zero < SILENT * explained

    @property
    def gain(self) -> float:
        """How much the best shift explains of what the observations alone leave."""
        return 1 - self.by_shift[self.best] / self.without if self.without > 0 else 0.0

    def figures(self) -> str:
        return ", ".join(f"{f'{shift:+d}' if shift else '0'}: {left:.3f}" for shift, left in self.by_shift.items())

    def advice(self) -> str | None:
        """One sentence, or nothing to say."""
        told = f"left unexplained by shift {self.figures()}; without commands {self.without:.3f}"
        if self.suspicious:
            rows = "1 row" if abs(self.best) == 1 else f"{abs(self.best)} rows"
            how = "early, or act only later"
            unless = "the machine answers so late"
            if self.best > 0:
                how = "late: in row t stands the command that led there"
                unless = "a controller without memory or noise wrote the logs, whose answers look the same"
            return (
                f"the commands look {rows} {how} (the next observation is explained best by the command of row "
                f"t{self.best:+d}; {told}). Shift that column, unless {unless}"
            )
        if self.gain < NO_EFFECT:
            return f"no linear effect of the commands on the next observation is to be seen ({told}): the right column?"
        return None


def alignment(reader: LogReader) -> Alignment | None:
    """None where there are too few rows to say."""
    numbers, begins = reader.some_rows(range(len(reader)), ROWS)
    rows = reader.rows[numbers]
    vector = reader.spikes.mend(rows["vector"], numbers).astype(np.float64)
    action = rows["action"].astype(np.float64)
    episode = np.cumsum(begins)
    moving = np.ptp(vector, axis=0) > STILL
    varied = np.ptp(action, axis=0) > STILL
    # Rows t whose neighbours t - 2 to t + 3 are of the same episode; an episode's last row holds no command.
    at = np.arange(2, max(2, len(rows) - 3))
    at = at[(episode[at - 2] == episode[at + 3])] if len(at) else at
    if len(at) < FEW or not moving.any() or not varied.any():
        return None
    vector, action = _scaled(vector[:, moving]), _scaled(action[:, varied])
    change = _scaled(vector[at + 1] - vector[at])
    state = np.concatenate([vector[at], vector[at - 1]], axis=1)
    fit = np.arange(len(at)) < int(0.8 * len(at))
    by_shift = {s: _left(np.concatenate([state, action[at + s]], axis=1), change, fit) for s in SHIFTS}
    return Alignment(_left(state, change, fit), by_shift, len(at))


def _scaled(values: np.ndarray) -> np.ndarray:
    std = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(std > 0, std, 1.0)


def _left(inputs: np.ndarray, outputs: np.ndarray, fit: np.ndarray) -> float:
    """Share of the outputs' variance that ridge regression leaves on the rows not fitted, mean over the outputs."""
    design = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    normal = design[fit].T @ design[fit] + RIDGE * fit.sum() * np.eye(design.shape[1])
    weights = np.linalg.solve(normal, design[fit].T @ outputs[fit])
    error = ((outputs[~fit] - design[~fit] @ weights) ** 2).mean(axis=0)
    scale = outputs[~fit].var(axis=0)
    return float(np.minimum(error / np.where(scale > 0, scale, 1.0), 2.0).mean())
