"""ant's demonstrator, and one who plays: the policy network that the pybullet wheel ships for AntBulletEnv."""

from __future__ import annotations

import numpy as np

from envs.experts import wheel


def ant_expert(observation: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Actions in [-1, 1] (..., 8) for observations (..., 28); deterministic."""
    return wheel.act("AntBulletEnv", observation)


class AntPlayer(wheel.WhimsicalPlayer):
    """Walks faster and slower than it should, staggers, stands, seldom rolls over."""

    demonstrator = staticmethod(ant_expert)
    motors = 8
    gains = (0.2, 1.5)
    whims = (0.0, 0.7)
