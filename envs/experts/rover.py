"""rover: a demonstrator made for grippy floors, a player, and an oracle that is told the floor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.physics import Physics
from envs.tasks.rover_lane import CONTROL_HZ, LOOKAHEAD_M, MOST_STEERING_RAD, TOP_SPEED_M_S, WHEELBASE_M

MOST_GRIP_M_S2 = 7.0  # what the oracle makes use of, at most


@dataclass(frozen=True)
class Style:
    """A way to drive."""

    sideways_m_s2: float  # acceleration in bends
    braking_m_s2: float  # counted on before bends
    speed_m_s: float = 3.0  # where the lane is straight
    most_change_m_s2: float = math.inf  # of the speed asked for against the present one
    offset_m: float = 0.0  # of its line from the lane's middle, to the left
    preview_s: float = 0.12  # it steers for the curvature that it will have reached then


def rover_expert(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Believes in a floor of friction 0.8, brakes before bends and takes them with two fifths of the grip that it has.

    Args:
        observation: (23,) of rover; nothing in it tells the friction.
    """
    action = drive(observation, Style(sideways_m_s2=3.0, braking_m_s2=2.5))
    return np.clip(action + rng.normal(0.0, 0.02, 2), -1.0, 1.0).astype(np.float32)


def careful_rover_oracle(observation: np.ndarray, physics: Physics) -> np.ndarray:
    """Told the physics: takes bends with little more than half of the grip that there is, and never spins its wheels.

    Its failure rate shows what is feasible on a floor, not what is best.
    """
    grip = min(physics.floor_friction * physics.gravity_m_s2, MOST_GRIP_M_S2)
    style = Style(sideways_m_s2=0.55 * grip, braking_m_s2=0.3 * grip, most_change_m_s2=0.5 * grip)
    action = drive(observation, style) / max(physics.motor_strength, 0.1)
    return np.clip(action, -1.0, 1.0).astype(np.float32)


class RoverPlayer:
    """Plays: now slowly and now too fast, on one line after another, out of the lane too."""

    change_rate = 1 / 40  # chance a step that it wants something else
    sideways_m_s2 = (0.3, 8.0)
    speeds_m_s = (0.5, 4.0)
    offset_m = 0.3
    previews_s = (0.0, 0.25)

    def begin(self, rng: np.random.Generator) -> None:
        self._style = Style(
            sideways_m_s2=rng.uniform(*self.sideways_m_s2),
            braking_m_s2=2.5,
            speed_m_s=rng.uniform(*self.speeds_m_s),
            offset_m=rng.uniform(-self.offset_m, self.offset_m),
            preview_s=rng.uniform(*self.previews_s),
        )

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action (2,) for an observation (23,) of rover."""
        if rng.random() < self.change_rate:
            self.begin(rng)
        return np.clip(drive(observation, self._style), -1.0, 1.0)


def drive(observation: np.ndarray, style: Style) -> np.ndarray:
    """The action (2,) for an observation (23,): the lane's curvature fed forward, offset and heading fed back."""
    offset, heading, forward = observation[:3].tolist()
    curvature = observation[12:]
    # No faster than lets every bend in view be met at the speed that it allows.
    in_bends = style.sideways_m_s2 / np.maximum(np.abs(curvature), 1e-3)  # speeds squared
    speed = min(style.speed_m_s, math.sqrt(np.min(in_bends + 2.0 * style.braking_m_s2 * np.array(LOOKAHEAD_M))))
    change = style.most_change_m_s2 / CONTROL_HZ
    speed = min(max(speed, forward - change), forward + change)
    ahead = float(np.interp(max(forward, 0.0) * style.preview_s, LOOKAHEAD_M, curvature))
    turn = ahead - 1.5 * (offset - style.offset_m) - 2.0 * heading
    return np.array([speed / TOP_SPEED_M_S, math.atan(WHEELBASE_M * turn) / MOST_STEERING_RAD])
