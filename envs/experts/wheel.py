"""The policy networks that the pybullet wheel ships as examples, and play with them.

Their weights are read from the installed wheel: no licence is stated for them, so they are not copied, and the examples
they stand in import a gym of 2017, so they are parsed and not run.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from configs import UserError

LAYERS = ("dense1", "dense2", "final")


def act(old_name: str, observation: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] (..., A) of the network made for `old_name`, as HopperBulletEnv, for observations (..., D).

    Each row is multiplied on its own, so that its action does not depend on the rows beside it to the last bit.
    """
    x = observation[..., None, :].astype(np.float64)
    for number, (weight, bias) in enumerate(_weights(old_name)):
        x = x @ weight + bias
        if number < len(LAYERS) - 1:
            x = np.maximum(x, 0.0)
    return np.clip(x[..., 0, :], -1.0, 1.0).astype(np.float32)


class Demonstrator(Protocol):
    def __call__(self, observation: np.ndarray) -> np.ndarray: ...


class WhimsicalPlayer:
    """Plays: does as the demonstrator does, harder or more softly and with whims."""

    demonstrator: ClassVar[Demonstrator]
    motors: ClassVar[int]
    gains: ClassVar[tuple[float, float]]  # of the demonstrator's commands
    whims: ClassVar[tuple[float, float]]  # size of what is added to them
    change_rate: ClassVar[float] = 1 / 5  # chance a step of another whim

    def begin(self, rng: np.random.Generator) -> None:
        self._gain, self._size = rng.uniform(*self.gains), rng.uniform(*self.whims)
        self._whim = rng.standard_normal(self.motors)

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action (A,) for an observation (D,)."""
        if rng.random() < self.change_rate:
            self._whim = rng.standard_normal(self.motors)
        return np.clip(self._gain * self.demonstrator(observation) + self._size * self._whim, -1.0, 1.0)


@functools.cache
def _weights(old_name: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    example = f"examples/enjoy_TF_{old_name}_v0_2017may.py"
    package = importlib.util.find_spec("pybullet_envs")
    path = Path(package.origin).parent / example if package and package.origin else None
    if path is None or not path.is_file():
        raise UserError(f"the expert needs {example}, which the pybullet wheel ships; reinstall pybullet")
    arrays: dict[str, np.ndarray] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        # weights_dense1_w = np.array([[...]])
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            (target,) = statement.targets
            if isinstance(target, ast.Name) and target.id.startswith("weights_"):
                arrays[target.id] = np.array(ast.literal_eval(statement.value.args[0]), np.float64)
    return tuple((arrays[f"weights_{layer}_w"], arrays[f"weights_{layer}_b"]) for layer in LAYERS)
