"""hopper's demonstrator, and one who plays: the policy network that the pybullet wheel ships for HopperBulletEnv."""

from __future__ import annotations

import numpy as np

from envs.experts import wheel


def hopper_expert(observation: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Actions in [-1, 1] (..., 3) for observations (..., 15); deterministic."""
    return wheel.act("HopperBulletEnv", observation)


class HopperPlayer(wheel.WhimsicalPlayer):
    """Hops until it falls, mostly in seconds."""

    demonstrator = staticmethod(hopper_expert)
    motors = 3
    gains = (0.5, 1.2)
    whims = (0.0, 0.5)
