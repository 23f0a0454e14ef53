"""One logged trajectory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs import UserError

WAKE = "wake"  # in an episode's info: it was recorded in a night's wake, of the night with that number


@dataclass
class Episode:
    """`T` steps in Gymnasium's order: observation t, action t, then reward t and observation t + 1.

    `worldmodel/replay.py` alone turns this into the RSSM's order (`is_first`, previous action).
    """

    observation: dict[str, np.ndarray]
    """T + 1 rows each: `vector` float32 (T+1, D) always; `image` uint8 (T+1, 64, 64, 3) with a camera."""
    action: np.ndarray
    """(T, A) float32, what was commanded."""
    applied_action: np.ndarray
    """(T, A) float32, what reached the motors, after motor strength and latency; `action` where a log cannot tell."""
    reward: np.ndarray
    """(T,) float32."""
    push: np.ndarray
    """(T,) float32, speed in m/s along +x that an outside push gave the body during that step; 0 = none."""
    terminated: bool
    """It ended because the task was over (a fall): the future is worth nothing."""
    truncated: bool
    """It was cut off: the future is unknown, not worthless."""
    physics: dict[str, float] = field(default_factory=dict)
    """The factors that are known, by `Physics` field name, SI; {} for a log that labels nothing."""
    info: dict[str, Any] = field(default_factory=dict)
    """Anything JSON holds: task, seed (of the environment's reset), policy, split, source, ..."""
    demonstrated: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(T, A) float32, what the demonstrator meant, before the noise that the recording added to learn what lies beside
    the path (Laskey et al., "DART", 2017). What an imitator should copy. Default: `action`."""

    def __post_init__(self) -> None:
        if not self.demonstrated.size:
            self.demonstrated = self.action

    @property
    def length(self) -> int:
        """T, the number of steps; one less than the number of observations."""
        return len(self.action)

    def check(self, name: str = "episode", columns: Mapping[str, Sequence[str]] | None = None) -> "Episode":
        """Returns itself; a UserError names the episode, the array and the first row that is wrong.

        Args:
            columns: what the columns of an array mean, for arrays whose columns have names.
        """
        if "vector" not in self.observation:
            keys = ", ".join(self.observation) or "nothing"
            raise UserError(f'{name}: the observation lacks "vector" (it has {keys})')
        if self.action.ndim != 2:
            raise UserError(f"{name}: action has shape {self.action.shape}, expected (T, A)")
        steps = self.length
        if steps == 0:
            raise UserError(f"{name} is empty: action has no rows; an episode needs at least one step")
        if self.observation["vector"].ndim != 2:
            shape = self.observation["vector"].shape
            raise UserError(f"{name}: observation vector has shape {shape}, expected (T+1, D)")
        shape = self.action.shape
        expected = {"applied_action": shape, "demonstrated": shape, "reward": (steps,), "push": (steps,)}
        for key, shape in expected.items():
            if getattr(self, key).shape != shape:
                raise UserError(f"{name}: {key} has shape {getattr(self, key).shape}, expected {shape}")
        for key, array in self.observation.items():
            if len(array) != steps + 1:
                raise UserError(
                    f"{name}: observation {key} has {len(array)} rows, expected {steps + 1} (one more than action)"
                )
        for key, array in self._arrays().items():
            _check_finite(array, f"{name}: {key}", (columns or {}).get(key, ()))
        for factor, value in self.physics.items():
            if not np.isfinite(value):
                raise UserError(f"{name}: physics {factor} is {value}; leave an unknown factor out")
        return self

    def _arrays(self) -> dict[str, np.ndarray]:
        observation = {f"observation {key}": array for key, array in self.observation.items()}
        own = {key: getattr(self, key) for key in ("action", "applied_action", "demonstrated", "reward", "push")}
        return {**observation, **own}


def _check_finite(array: np.ndarray, name: str, columns: Sequence[str]) -> None:
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} holds {array.dtype}, expected numbers")
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    row, *rest = np.argwhere(~np.isfinite(array))[0]
    column = f", column {', '.join(str(index) for index in rest)}" if rest else ""
    meaning = f" ({columns[rest[0]]})" if rest and rest[0] < len(columns) else ""
    raise UserError(f"{name} is {array[(row, *rest)]} in row {row}{column}{meaning}; cut or repair the log there")
