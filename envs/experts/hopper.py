"""hopper's demonstrator, and one who plays: the policy network that the pybullet wheel ships for HopperBulletEnv.

Its weights are read from the installed wheel: no licence is stated for them, so they are not copied, and the example
they stand in imports a gym of 2017, so it is parsed and not run.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

import numpy as np

from configs import UserError

EXAMPLE = "examples/enjoy_TF_HopperBulletEnv_v0_2017may.py"
LAYERS = ("dense1", "dense2", "final")


def hopper_expert(observation: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Actions in [-1, 1] (..., 3) for observations (..., 15); deterministic.

    Each row is multiplied on its own, so that its action does not depend on the rows beside it to the last bit.
    """
    x = observation[..., None, :].astype(np.float64)
    for number, (weight, bias) in enumerate(_weights()):
        x = x @ weight + bias
        if number < len(LAYERS) - 1:
            x = np.maximum(x, 0.0)
    return np.clip(x[..., 0, :], -1.0, 1.0).astype(np.float32)


class HopperPlayer:
    """Plays: hops as the demonstrator does, harder or more softly and with whims, until it falls, mostly in seconds."""

    gains = (0.5, 1.2)  # of the demonstrator's commands
    whims = (0.0, 0.5)  # size of what is added to them
    change_rate = 1 / 5  # chance a step of another whim

    def begin(self, rng: np.random.Generator) -> None:
        self._gain, self._size = rng.uniform(*self.gains), rng.uniform(*self.whims)
        self._whim = rng.standard_normal(3)

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action (3,) for an observation (15,) of hopper."""
        if rng.random() < self.change_rate:
            self._whim = rng.standard_normal(3)
        return np.clip(self._gain * hopper_expert(observation) + self._size * self._whim, -1.0, 1.0)


@functools.cache
def _weights() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    package = importlib.util.find_spec("pybullet_envs")
    path = Path(package.origin).parent / EXAMPLE if package and package.origin else None
    if path is None or not path.is_file():
        raise UserError(f"hopper's expert needs {EXAMPLE}, which the pybullet wheel ships; reinstall pybullet")
    arrays: dict[str, np.ndarray] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        # weights_dense1_w = np.array([[...]])
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            (target,) = statement.targets
            if isinstance(target, ast.Name) and target.id.startswith("weights_"):
                arrays[target.id] = np.array(ast.literal_eval(statement.value.args[0]), np.float64)
    return tuple((arrays[f"weights_{layer}_w"], arrays[f"weights_{layer}_b"]) for layer in LAYERS)
