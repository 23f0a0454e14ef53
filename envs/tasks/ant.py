"""ant: a four-legged robot walks along +x; in a hard world it seldom falls, but it stops.

Observation, action, reward and end are those of PyBullet's AntBulletEnv, so that policies trained there run here.
The old code's habits are kept because trained policies met them: the contact channels are one step old, and place and
progress are those of the mean of the parts, the floor's 0 among them. One oddity is Bullet's own: the MJCF file gives
the ankles' axes as (1, 1, 0), and Bullet poses the feet as if that had unit length, yet takes an ankle's rate to be
about that axis as given, so that in its equations of motion feet turn sqrt(2) times as fast as they are seen to.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from envs.bullet import Outcome, pybullet
from envs.camera import View, take_picture
from envs.physics import PhysicsRange
from envs.tasks.walker import FLOOR_PATTERN_M, RATE_SCALE, SPEED_SCALE, START_SPREAD_RAD, STEP_S, Colour, Walker

TORSO = -1
# The legs as one sees them that walk along +x, in Bullet's order. The MJCF file's own names are for another front.
LEGS = ("front_left", "back_left", "back_right", "front_right")
LINKS = tuple(range(20))  # a leg: the torso's part of it, hip joint, thigh, ankle joint, foot
JOINTS = (1, 3, 6, 8, 11, 13, 16, 18)  # hip and ankle of each leg
FEET = (4, 9, 14, 19)
LOWEST = np.radians([-40.0, 30.0, -40.0, -100.0, -40.0, -100.0, -40.0, 30.0])
HIGHEST = np.radians([40.0, 100.0, 40.0, -30.0, 40.0, -30.0, 40.0, 100.0])
MIDDLE, REACH = (HIGHEST + LOWEST) / 2, (HIGHEST - LOWEST) / 2
ANGLES, RATES, CONTACTS = slice(8, 24, 2), slice(9, 24, 2), slice(24, 28)  # channels
START_Z_M = 0.75  # of the torso's centre
DOWN_Z_M = 0.26  # the torso's radius, and a little
TARGET_X_M = 1000.0
PARTS = 22  # in the mean place: torso, links, and the floor
WALK_M_S = 2.0  # the demonstrator's pace in the nominal world, its start included
ORANGE, YELLOW, BLUE = (0.93, 0.60, 0.22, 1.0), (0.95, 0.78, 0.35, 1.0), (0.20, 0.42, 0.62, 1.0)


class Ant(Walker):
    """An ant of 182 kg: a ball with four legs, each with a hip that swings and an ankle; eight motors of 250 Nm.

    Reward as of every Walker. It is down, which ends the episode, when the torso's centre sinks to 0.26 m, where its
    ball all but touches the floor. Success: up, and on the mean at least 1 m/s on the way to a target 1 km ahead, half
    of what the demonstrator walks in the nominal world. So an episode fails if the robot is down, or has come less than
    half the way.
    Velocities are seen from the torso's heading, level with the floor. Place is not observed, nor is spin.
    Start: dropped, the torso 0.75 m over the floor, all joints within 0.1 rad of 0, from where the ankles snap into
    their range. Without commands it sinks to the floor in a third of a second.
    The payload is a point mass 10 cm over the torso's centre.
    An episode lasts 500 steps (8.25 s), half of the old environment's: few end early, so that as many steps hold twice
    as many worlds and starts.
    """

    task_name: ClassVar[str] = "ant"
    max_steps: ClassVar[int] = 500
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
        *(
            f"{leg}_{joint}_{what}"
            for leg in LEGS
            for joint in ("hip", "ankle")
            for what in ("angle_limits", "rate_10rad_s")
        ),
        *(f"{leg}_contact" for leg in LEGS),
    ]
    action_names: ClassVar[list[str]] = [f"{leg}_{joint}_torque_250Nm" for leg in LEGS for joint in ("hip", "ankle")]
    view: ClassVar[View] = View(eye=(0.2, -3.2, 1.7), target=(0.2, 0.0, 0.4), light_distance_m=6.0)
    # Within these, together, the wheel's expert fails in 3% of its episodes (measured on 200 seeds).
    log_ranges: ClassVar[PhysicsRange] = {
        "floor_friction": (0.5, 1.2),
        "payload_kg": (0.0, 50.0),
        "slope_deg": (-5.0, 5.0),
        "motor_strength": (0.85, 1.1),
        "push_m_s": (-0.8, 0.8),
    }
    mjcf: ClassVar[str] = "ant.xml"
    joints: ClassVar[tuple[int, ...]] = JOINTS
    torque_nm: ClassVar[float] = 250.0
    colours: ClassVar[dict[int, Colour]] = {
        TORSO: (0.85, 0.33, 0.24, 1.0),
        **{foot - 4: ORANGE for foot in FEET},
        **{foot - 2: YELLOW for foot in FEET},
        **{foot: BLUE for foot in FEET},
    }
    carriers: ClassVar[tuple[int, int]] = (20, 21)
    payload_z_m: ClassVar[float] = 0.1

    # -- state ---------------------------------------------------------------------------------

    def _reset_state(self, rng: np.random.Generator) -> None:
        self._travelled_m = 0.0
        self._contacts = np.zeros(len(FEET))
        angles = rng.uniform(-START_SPREAD_RAD, START_SPREAD_RAD, len(JOINTS))
        self._set_state(np.array([0.0, 0.0, START_Z_M]), np.zeros(3), np.zeros(3), np.zeros(3), angles, np.zeros(8))

    def _set_state(
        self,
        position_m: np.ndarray,
        rpy_rad: np.ndarray,
        velocity_m_s: np.ndarray,
        spin_rad_s: np.ndarray,
        angles_rad: np.ndarray,
        rates_rad_s: np.ndarray,
    ) -> None:
        """Of the torso in the world, and of the joints (8,)."""
        robot, client = self._robot, self.client
        orientation_xyzw = pybullet.getQuaternionFromEuler(rpy_rad.tolist())
        pybullet.resetBasePositionAndOrientation(robot, position_m.tolist(), orientation_xyzw, physicsClientId=client)
        # After the pose, which stops the torso.
        pybullet.resetBaseVelocity(robot, velocity_m_s.tolist(), spin_rad_s.tolist(), physicsClientId=client)
        for joint, angle, rate in zip(JOINTS, angles_rad.tolist(), rates_rad_s.tolist(), strict=True):
            pybullet.resetJointState(robot, joint, angle, rate, physicsClientId=client)
        self._before_m = math.hypot(*self._to_target_m())

    def _joint_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles and rates (8,)."""
        states = pybullet.getJointStates(self._robot, JOINTS, physicsClientId=self.client)
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    def _to_target_m(self) -> tuple[float, float]:
        """From the mean of the parts to the target, along the world's x and y."""
        links = pybullet.getLinkStates(self._robot, LINKS, physicsClientId=self.client)
        (x, y, _), _ = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self.client)
        mean_x = (x + sum(link[0][0] for link in links)) / PARTS
        mean_y = (y + sum(link[0][1] for link in links)) / PARTS
        return TARGET_X_M - mean_x, -mean_y

    # -- stepping ------------------------------------------------------------------------------

    def _observe(self) -> np.ndarray:
        (_, _, z), orientation_xyzw = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self.client)
        (vx, vy, vz), _ = pybullet.getBaseVelocity(self._robot, physicsClientId=self.client)
        roll, pitch, yaw = pybullet.getEulerFromQuaternion(orientation_xyzw)
        angles, self._joint_rates = self._joint_state()
        ahead, left = self._to_target_m()
        self._distance_m = math.hypot(ahead, left)
        bearing = math.atan2(left, ahead) - yaw
        cosine, sine = math.cos(yaw), math.sin(yaw)
        vector = np.empty(28)
        vector[0] = z - START_Z_M
        vector[1:3] = math.sin(bearing), math.cos(bearing)
        vector[3:6] = SPEED_SCALE * (cosine * vx + sine * vy), SPEED_SCALE * (cosine * vy - sine * vx), SPEED_SCALE * vz
        vector[6:8] = roll, pitch
        vector[ANGLES] = (angles - MIDDLE) / REACH
        vector[RATES] = RATE_SCALE * self._joint_rates
        vector[CONTACTS] = self._contacts
        return np.clip(vector, -5.0, 5.0).astype(np.float32)

    def _outcome(self, vector: np.ndarray, applied_action: np.ndarray) -> Outcome:
        touching = pybullet.getContactPoints(self._robot, self._floor, physicsClientId=self.client)
        links = {point[3] for point in touching}
        self._contacts = np.array([float(foot in links) for foot in FEET])
        progress_m = self._before_m - self._distance_m
        self._before_m = self._distance_m
        self._travelled_m += progress_m
        up = bool(vector[0] + START_Z_M > DOWN_Z_M)
        at_limit = int(np.count_nonzero(np.abs(vector[ANGLES]) > 0.99))
        reward = self._reward(up, progress_m, applied_action, self._joint_rates, at_limit)
        walking = up and _far_enough(self._travelled_m, self.steps)
        return Outcome(reward, failure=not up, success=walking, progress=self._travelled_m)

    @classmethod
    def ended(cls, vectors: np.ndarray) -> np.ndarray:
        return ~(vectors[..., 0] + START_Z_M > DOWN_Z_M)

    def _push(self, speed_m_s: float) -> None:
        # The joints' rates are relative, so the torso takes the whole robot along.
        (vx, vy, vz), spin = pybullet.getBaseVelocity(self._robot, physicsClientId=self.client)
        pybullet.resetBaseVelocity(self._robot, (vx + speed_m_s, vy, vz), spin, physicsClientId=self.client)

    def _perturb(self, offset: np.ndarray) -> None:
        position, orientation_xyzw = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self.client)
        velocity, spin = pybullet.getBaseVelocity(self._robot, physicsClientId=self.client)
        roll, pitch, yaw = pybullet.getEulerFromQuaternion(orientation_xyzw)
        angles, rates = self._joint_state()
        turn = -offset[1]  # the target's sine, where the robot faces the target
        self._set_state(
            np.array(position) + (0.0, 0.0, offset[0]),
            np.array([roll + offset[6], pitch + offset[7], yaw + turn]),
            _turned(np.array(velocity), turn) + _turned(offset[3:6] / SPEED_SCALE, yaw + turn),
            _turned(np.array(spin), turn),
            angles + REACH * offset[ANGLES],
            rates + offset[RATES] / RATE_SCALE,
        )

    # -- drawing -------------------------------------------------------------------------------

    def render(self, width: int = 480, height: int = 360) -> np.ndarray:
        """Draws the true state: uint8 (height, width, 3).

        TinyRenderer casts shadows around the world's origin only, so the robot is drawn there, the floor's pattern
        under it as it was.
        """
        artist = self._ready_artist()
        (x, y, z), orientation_xyzw = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self.client)
        angles, _ = self._joint_state()
        artist._pose(np.array([x, y, z]), np.array(pybullet.getEulerFromQuaternion(orientation_xyzw)), angles)
        return take_picture(artist.client, artist._camera_view(), self.physics, width, height)

    @classmethod
    def travelled(cls, vectors: np.ndarray) -> np.ndarray:
        sine, cosine, ahead, left = np.moveaxis(vectors[:, 1:5].astype(np.float64), -1, 0)
        # The target lies along +x, so that the robot's yaw is minus its bearing.
        return np.cumsum(cosine * ahead + sine * left) / SPEED_SCALE * STEP_S

    @classmethod
    def solved(cls, vectors: np.ndarray) -> bool:
        return _far_enough(float(cls.travelled(vectors)[-1]), len(vectors) - 1)

    def _draw(self, vector: np.ndarray) -> None:
        yaw = -math.atan2(vector[1], vector[2])
        angles = MIDDLE + REACH * vector[ANGLES]
        self._pose(np.array([self.drawn_x_m, 0.0, START_Z_M + vector[0]]), np.array([*vector[6:8], yaw]), angles)

    def _pose(self, position_m: np.ndarray, rpy_rad: np.ndarray, angles_rad: np.ndarray) -> None:
        """At rest, moved by whole periods of the floor's pattern to near the origin."""
        near = np.array([math.remainder(place, FLOOR_PATTERN_M) for place in position_m[:2]])
        position = np.array([*near, position_m[2]])
        self._set_state(position, rpy_rad, np.zeros(3), np.zeros(3), angles_rad, np.zeros(len(JOINTS)))

    def _camera_view(self) -> View:
        (x, y, _), _ = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=self.client)
        eye, target = self.view.eye, self.view.target
        return replace(
            self.view, eye=(eye[0] + x, eye[1] + y, eye[2]), target=(target[0] + x, target[1] + y, target[2])
        )


def _far_enough(travelled_m: float, steps: int) -> bool:
    return travelled_m >= 0.5 * WALK_M_S * steps * STEP_S


def _turned(vector: np.ndarray, yaw: float) -> np.ndarray:
    """A vector (3,) turned about z."""
    x, y, z = vector
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return np.array([cosine * x - sine * y, sine * x + cosine * y, z])
