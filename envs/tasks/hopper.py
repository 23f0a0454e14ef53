"""hopper: a one-legged robot in the plane runs along +x until it falls.

Observation, action, reward and end are those of PyBullet's HopperBulletEnv, so that policies trained there run here.
The old code's habits are kept because trained policies met them: the torso is seen one sub-step late (Bullet's
getLinkState lags), the contact channel is one step old, and the forward reward averages the parts' x, the floor's 0
among them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from envs.bullet import Outcome, pybullet
from envs.camera import View, take_picture
from envs.physics import PhysicsRange
from envs.tasks.walker import (
    FLOOR_PATTERN_M,
    RATE_SCALE,
    SPEED_SCALE,
    START_SPREAD_RAD,
    STEP_S,
    SUB_STEP_S,
    Colour,
    Walker,
)

SLIDE_X, SLIDE_Z, PITCH, TORSO = 0, 1, 2, 3  # the joints of the plane, and the torso's link
JOINTS = (4, 6, 8)  # thigh, leg, foot
FOOT = 9
POSED = (SLIDE_X, SLIDE_Z, PITCH, *JOINTS)
LOWEST = np.radians([-150.0, -150.0, -45.0])
HIGHEST = np.radians([0.0, 0.0, 45.0])
MIDDLE, REACH = (HIGHEST + LOWEST) / 2, (HIGHEST - LOWEST) / 2
TORSO_Z_M = 1.25  # of the torso's centre, over the pitch joint's axis, which starts at the floor
PARTS = 11  # in the mean of x: ten of the robot, and the floor
FALLEN_Z_M, FALLEN_PITCH_RAD = 0.8, 1.0


class Hopper(Walker):
    """A hopper of 15.8 kg: torso, thigh, leg and foot in the x-z plane, three torque motors of 75 Nm.

    Reward as of every Walker. It is down, which ends the episode, when the torso's centre sinks below 0.8 m or the
    torso pitches beyond 1 rad.
    Start: upright, the foot 4 cm over the floor, every joint within 0.1 rad of straight.
    The payload is a point mass 10 cm over the torso's centre; at 30% of the robot's mass the expert always falls.
    """

    task_name: ClassVar[str] = "hopper"
    max_steps: ClassVar[int] = 1000
    # Units in the names: `_3.33m_s` counts in 3.33 m/s, `_limits` runs from -1 to 1 between the joint's limits.
    observation_names: ClassVar[list[str]] = [
        "torso_rise_m",
        "target_sin",
        "target_cos",
        "torso_vx_3.33m_s",
        "torso_vy_3.33m_s",
        "torso_vz_3.33m_s",
        "torso_roll_rad",
        "torso_pitch_rad",
        "thigh_angle_limits",
        "thigh_rate_10rad_s",
        "leg_angle_limits",
        "leg_rate_10rad_s",
        "foot_angle_limits",
        "foot_rate_10rad_s",
        "foot_contact",
    ]
    action_names: ClassVar[list[str]] = ["thigh_torque_75Nm", "leg_torque_75Nm", "foot_torque_75Nm"]
    view: ClassVar[View] = View(eye=(0.3, -3.4, 1.15), target=(0.3, 0.0, 0.75), light_distance_m=6.0)
    # Within these, together, the wheel's expert falls in 1 to 5% of its episodes (measured on 100 seeds).
    log_ranges: ClassVar[PhysicsRange] = {
        "floor_friction": (0.7, 1.2),
        "payload_kg": (0.0, 1.0),
        "slope_deg": (-1.0, 3.0),
        "motor_strength": (0.9, 1.1),
        "push_m_s": (-0.15, 0.15),
    }
    mjcf: ClassVar[str] = "hopper.xml"
    joints: ClassVar[tuple[int, ...]] = JOINTS
    torque_nm: ClassVar[float] = 75.0
    colours: ClassVar[dict[int, Colour]] = {
        TORSO: (0.85, 0.33, 0.24, 1.0),
        5: (0.93, 0.60, 0.22, 1.0),
        7: (0.95, 0.78, 0.35, 1.0),
        FOOT: (0.20, 0.42, 0.62, 1.0),
    }
    carriers: ClassVar[tuple[int, int]] = (10, 11)
    payload_z_m: ClassVar[float] = 1.35

    # -- state -------------------------------------------------------------------------------------

    def _reset_state(self, rng: np.random.Generator) -> None:
        self._travelled_m = 0.0
        angles = rng.uniform(-START_SPREAD_RAD, START_SPREAD_RAD, len(JOINTS))
        self._set_state(np.concatenate([np.zeros(3), angles]), np.zeros(len(POSED)))
        self._contact = 0.0

    def _set_state(self, positions: np.ndarray, rates: np.ndarray) -> None:
        """Of the joints POSED, in m and rad."""
        for joint, position, rate in zip(POSED, positions.tolist(), rates.tolist(), strict=True):
            pybullet.resetJointState(self._robot, joint, position, rate, physicsClientId=self.client)
        self._mean_x = _mean_x(positions - SUB_STEP_S * rates)

    def _state(self) -> tuple[np.ndarray, np.ndarray]:
        states = pybullet.getJointStates(self._robot, POSED, physicsClientId=self.client)
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    # -- stepping ----------------------------------------------------------------------------------

    def _observe(self) -> np.ndarray:
        positions, rates = self._state()
        # Bullet's link poses are those before the last sub-step, which moved every joint by rate * SUB_STEP_S; its
        # link velocities are the present ones, turned by the old pose.
        late = self._late_positions = positions - SUB_STEP_S * rates
        pitch, late_pitch = float(positions[2]), float(late[2])
        along = float(rates[0]) * math.cos(pitch) - float(rates[1]) * math.sin(pitch) + TORSO_Z_M * float(rates[2])
        across = float(rates[0]) * math.sin(pitch) + float(rates[1]) * math.cos(pitch)
        sine, cosine = math.sin(late_pitch), math.cos(late_pitch)
        vector = np.empty(15)
        vector[0] = late[1] + TORSO_Z_M * (cosine - 1.0)
        # The target lies straight ahead and the robot cannot turn, so the heading is constant.
        vector[1:3] = 0.0, 1.0
        vector[3] = SPEED_SCALE * (along * cosine + across * sine)
        vector[4] = 0.0
        vector[5] = SPEED_SCALE * (across * cosine - along * sine)
        vector[6] = 0.0
        vector[7] = math.remainder(late_pitch, 2 * math.pi)
        vector[8:14:2] = (positions[3:] - MIDDLE) / REACH
        self._joint_rates = rates[3:]
        vector[9:14:2] = RATE_SCALE * self._joint_rates
        vector[14] = self._contact
        return np.clip(vector, -5.0, 5.0).astype(np.float32)

    def _outcome(self, vector: np.ndarray, applied_action: np.ndarray) -> Outcome:
        touching = pybullet.getContactPoints(self._robot, self._floor, linkIndexA=FOOT, physicsClientId=self.client)
        self._contact = float(len(touching) > 0)
        before, self._mean_x = self._mean_x, _mean_x(self._late_positions)
        progress_m = self._mean_x - before
        self._travelled_m += progress_m
        fallen = not (vector[0] + TORSO_Z_M > FALLEN_Z_M and abs(vector[7]) < FALLEN_PITCH_RAD)
        at_limit = int(np.count_nonzero(np.abs(vector[8:14:2]) > 0.99))
        reward = self._reward(not fallen, progress_m, applied_action, self._joint_rates, at_limit)
        return Outcome(reward, failure=fallen, success=not fallen, progress=self._travelled_m)

    @classmethod
    def ended(cls, vectors: np.ndarray) -> np.ndarray:
        return ~((vectors[..., 0] + TORSO_Z_M > FALLEN_Z_M) & (np.abs(vectors[..., 7]) < FALLEN_PITCH_RAD))

    def _push(self, speed_m_s: float) -> None:
        # The sliding joint carries the whole robot, so its rate is the speed of every part.
        position, rate, *_ = pybullet.getJointState(self._robot, SLIDE_X, physicsClientId=self.client)
        pybullet.resetJointState(self._robot, SLIDE_X, position, rate + speed_m_s, physicsClientId=self.client)

    def _perturb(self, offset: np.ndarray) -> None:
        positions, rates = self._state()
        torso_z = positions[1] + TORSO_Z_M * math.cos(positions[2])
        positions[2] += offset[7]
        positions[3:] += REACH * offset[8:14:2]
        positions[1] = torso_z + offset[0] - TORSO_Z_M * math.cos(positions[2])
        rates[:2] += offset[[3, 5]] / SPEED_SCALE
        rates[3:] += offset[9:14:2] / RATE_SCALE
        self._set_state(positions, rates)

    # -- drawing -----------------------------------------------------------------------------------

    def render(self, width: int = 480, height: int = 360) -> np.ndarray:
        """Draws the true state: uint8 (height, width, 3).

        TinyRenderer casts shadows around the world's origin only, so the robot is drawn there, the floor's pattern
        under it as it was.
        """
        artist = self._ready_artist()
        positions, _ = self._state()
        positions[0] = math.remainder(positions[0], FLOOR_PATTERN_M)
        artist._set_state(positions, np.zeros(len(POSED)))
        return take_picture(artist.client, artist._camera_view(), self.physics, width, height)

    @classmethod
    def travelled(cls, vectors: np.ndarray) -> np.ndarray:
        return np.cumsum(vectors[:, 3].astype(np.float64)) / SPEED_SCALE * STEP_S

    def _draw(self, vector: np.ndarray) -> None:
        pitch = vector[7]
        x = math.remainder(self.drawn_x_m, FLOOR_PATTERN_M) - TORSO_Z_M * math.sin(pitch)
        z = vector[0] + TORSO_Z_M * (1.0 - math.cos(pitch))
        angles = MIDDLE + REACH * vector[8:14:2]
        self._set_state(np.array([x, z, pitch, *angles]), np.zeros(len(POSED)))

    def _camera_view(self) -> View:
        (x, _, _), *_ = pybullet.getLinkState(self._robot, TORSO, physicsClientId=self.client)
        eye, target = self.view.eye, self.view.target
        return replace(self.view, eye=(eye[0] + x, *eye[1:]), target=(target[0] + x, *target[1:]))


def _mean_x(positions: np.ndarray) -> float:
    """Mean x of Bullet's links, the floor's 0 included, as HopperBulletEnv measures its way.

    Links are the three of the plane's joints, and for each body one at its joint and one at its centre.
    """
    x, _, pitch, thigh, leg, foot = positions.tolist()
    down_thigh, down_leg = pitch - thigh, pitch - thigh - leg
    along_foot = down_leg - foot
    torso = x + 1.25 * math.sin(pitch)
    hip = x + 1.05 * math.sin(pitch)
    knee = hip - 0.45 * math.sin(down_thigh)
    ankle = knee - 0.5 * math.sin(down_leg)
    thigh_x, leg_x = hip - 0.225 * math.sin(down_thigh), knee - 0.25 * math.sin(down_leg)
    return (3 * x + torso + hip + thigh_x + knee + leg_x + ankle + ankle + 0.065 * math.cos(along_foot)) / PARTS
