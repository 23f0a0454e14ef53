"""The context: an episode's Physics as the model sees it, pairs `(value, known)` beside the action.

A factor belongs to the context if the logs vary it: a model cannot learn what never changed, and a scenario that needs
such a factor is refused rather than dreamt. Values stay linear in the factor (forces are), centred and scaled by
the logs' range, so that a value of -1.3 plainly lies outside it.

Motor strength, latency and sensor noise are no context: they act on the streams of actions and observations, in the
dream exactly as in the simulator, and need not be learned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

INTERFACE_FACTORS = ("motor_strength", "latency_steps", "sensor_noise")
PUSH = "push"  # the context's only factor that changes from step to step, m/s
_NOT_MOTION = ("light_", "push_")  # light is for images alone; a push enters as what each step received


@dataclass(frozen=True)
class ContextSpec:
    """Names of the F factors and how their values are scaled: `(value - centre) / scale`."""

    names: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def from_logs(cls, physics: Sequence[Mapping[str, float]], push: np.ndarray, images: bool = False) -> "ContextSpec":
        """From every episode's known physics and the pushes (any shape) that the logs hold, m/s."""
        skip = ("push_",) if images else _NOT_MOTION
        ranges: dict[str, tuple[float, float]] = {}
        for labels in physics:
            for name, value in labels.items():
                if name not in INTERFACE_FACTORS and not name.startswith(skip):
                    low, high = ranges.get(name, (value, value))
                    ranges[name] = (min(low, value), max(high, value))
        if push.size and float(np.abs(push).max()) > 0:
            ranges[PUSH] = (-float(np.abs(push).max()), float(np.abs(push).max()))
        varied = {name: r for name, r in sorted(ranges.items()) if r[1] - r[0] > 1e-9}
        return cls(
            tuple(varied),
            tuple((low + high) / 2 for low, high in varied.values()),
            tuple((high - low) / 2 for low, high in varied.values()),
        )

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, physics: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Scaled values (F,) and known flags (F,); `push` counts as known (and zero) where any physics is known."""
        values, known = np.zeros(len(self), np.float32), np.zeros(len(self), np.float32)
        for i, name in enumerate(self.names):
            if name == PUSH:
                known[i] = float(bool(physics))
            elif name in physics:
                values[i] = (physics[name] - self.centre[i]) / self.scale[i]
                known[i] = 1.0
        return values, known

    def encode_all(
        self, count: int, label: Callable[[str], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`encode` (N, F) of many whose physics is known.

        Args:
            label: from a name to their values (N,), and which of them state it (N,).
        """
        values, known = np.zeros((2, count, len(self)), np.float32)
        for i, name in enumerate(self.names):
            if name == PUSH:
                known[:, i] = 1.0
            else:
                value, stated = label(name)
                values[:, i] = np.where(stated, (value - self.centre[i]) / self.scale[i], 0.0)
                known[:, i] = stated
        return values, known

    def covers(self, factor: str) -> bool:
        """Whether a scenario may set this Physics field: the logs vary it, or it needs no learning."""
        if factor in INTERFACE_FACTORS or factor.startswith("light_"):
            return True
        return (PUSH if factor.startswith("push_") else factor) in self.names

    def range_of(self, name: str) -> tuple[float, float]:
        i = self.names.index(name)
        return self.centre[i] - self.scale[i], self.centre[i] + self.scale[i]
