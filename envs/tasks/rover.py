"""rover: a racecar drives along a winding lane as fast as it can without sliding out of it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from envs.bullet import BulletEnv, Outcome
from envs.bullet_engine import pybullet
from envs.camera import View, take_picture
from envs.physics import Physics, PhysicsRange
from envs.tasks import rover_scene as scene
from envs.tasks.rover_lane import CONTROL_HZ, LOOKAHEAD_M, MOST_STEERING_RAD, TOP_SPEED_M_S, WHEELBASE_M, Lane

SUBSTEPS = 4
WHEEL_TORQUE_NM = 0.5
STEERING_TORQUE_NM = 2.0
STEERING_GAIN = 0.3  # share of the error that a sub-step takes away
# Where the wheels touch the floor, from the rear axle's middle: forward and to the left.
WHEELS_M = ((WHEELBASE_M, 0.1225), (WHEELBASE_M, -0.1225), (0.0, 0.1225), (0.0, -0.1225))
MIDDLE_M = WHEELBASE_M / 2  # the robot's place is that of its middle, this far ahead of the rear axle
HALF_WIDTH_M = 0.35
NOMINAL_SPEED_M_S = 2.7  # the demonstrator's mean
ENOUGH_M = 4.5  # a fifth of the demonstrator's way
CURVATURE_HERE = 12  # its channel
UPRIGHT = 0.5  # least cosine of the tilt


class Rover(BulletEnv):
    """The 1:10 racecar of the pybullet wheel, 5.9 kg, four driven wheels, two of them steered, in 8 s at 20 Hz.

    Observation (23,): place and heading against the lane, velocity in the robot's frame, compass, the speed of each
    wheel's rim, the steering angle, and the lane's curvature at 0 to 5 m ahead along it (positive bends to the left).
    Left is positive. It is the same wherever on the floor the robot is; the compass, from +x towards +y, tells which
    way a slope or a push goes. The robot's place and speed are those of the middle between its axles.
    Action (2,): the speed of the rear axle over 4 m/s, and the steering angle over 0.4 rad. Each wheel is turned and
    driven as a path of that curvature has it (Ackermann), with up to 0.5 Nm.
    Reward a step: metres along the lane over those of 2.7 m/s, less 0.2 (offset / 0.35 m)^2; -1 for a step that fails.
    Ends (failure) when the robot's middle is more than 0.35 m beside the lane's, or the robot tips over.
    Success: 4.5 m along the lane or more at the last step, a fifth of the demonstrator's way. Were it less, standing
    still would be survival; were it more, ice would be hopeless: at friction 0.05 grip allows hardly 6 m.
    Start: at rest on the lane's middle, facing along it. The lane winds about the middle between +x and +y, so that
    a slope and a push, which act along x, come from ahead or behind and from the side alike.
    """

    task_name = "rover"
    control_hz = CONTROL_HZ
    max_steps = 160
    nominal = Physics(floor_friction=0.8)
    observation_names: ClassVar[list[str]] = [
        "lane_offset_m", "lane_heading_rad",
        "forward_speed_m_s", "leftward_speed_m_s", "yaw_rate_rad_s", "compass_sin", "compass_cos",
        "wheel_front_left_m_s", "wheel_front_right_m_s", "wheel_rear_left_m_s", "wheel_rear_right_m_s",
        "steering_rad", *(f"lane_curvature_{ahead:.1f}m_ahead_1_m" for ahead in LOOKAHEAD_M),
    ]  # fmt: skip
    action_names: ClassVar[list[str]] = ["speed_4m_s", "steering_0.4rad"]
    engine: ClassVar[dict[str, Any]] = {"numSubSteps": SUBSTEPS, "numSolverIterations": 50}
    view = View(
        eye=(-1.7, 0.0, 1.35),
        target=(0.75, 0.0, 0.0),
        field_of_view_deg=50.0,
        light_distance_m=2.0,
        background=(186, 192, 186),
    )
    reset_only = frozenset({"payload_x_m"})
    log_ranges: ClassVar[PhysicsRange] = {
        "floor_friction": (0.4, 1.0),
        "slope_deg": (-1.5, 1.5),
        "payload_kg": (0.0, 0.5),
        "motor_strength": (0.95, 1.05),
        "push_m_s": (-0.3, 0.3),
        "push_start_s": (1.0, 6.0),
    }
    unused = frozenset({"box_mass_kg", "box_length_m", "box_width_m", "box_notch"})

    # -- building ------------------------------------------------------------------------------

    def _build(self) -> None:
        client = self.client
        plane = pybullet.createCollisionShape(pybullet.GEOM_PLANE, physicsClientId=client)
        # Bullet draws chequers on a plane that has no looks of its own; ground is the view's background.
        speck = pybullet.createVisualShape(pybullet.GEOM_SPHERE, radius=0.001, physicsClientId=client)
        self._floor: int = pybullet.createMultiBody(0.0, plane, speck, physicsClientId=client)
        self._robot = scene.rover(client, MIDDLE_M + self.physics.payload_x_m)
        self._picture: scene.Picture | None = None
        for link in range(-1, scene.PAYLOAD + 1):
            # In a call of its own: with a damping beside it, Bullet ignores a link's friction.
            pybullet.changeDynamics(
                self._robot, link, linearDamping=0.0, angularDamping=0.0, jointDamping=0.0, physicsClientId=client
            )
        for wheel in scene.WHEELS:
            # Friction and restitution 1, so that Bullet's products are the floor's own values.
            pybullet.changeDynamics(
                self._robot, wheel, lateralFriction=1.0, restitution=1.0, physicsClientId=client
            )  # fmt: skip

    def _apply_physics(self) -> None:
        physics = self.physics
        pybullet.changeDynamics(
            self._floor, -1, lateralFriction=physics.floor_friction, restitution=physics.restitution,
            physicsClientId=self.client,
        )  # fmt: skip
        pybullet.changeDynamics(self._robot, scene.PAYLOAD, mass=physics.payload_kg, physicsClientId=self.client)

    def _reset_state(self, rng: np.random.Generator) -> None:
        self._lane, self._s, self._progress_m = Lane.random(rng), 0.0, 0.0
        self._place(0.0, 0.0, np.zeros(2), 0.0, np.zeros(4), 0.0)

    def _place(
        self, left_m: float, turned_rad: float, velocity: np.ndarray, rate: float, wheels: np.ndarray, steering: float
    ) -> None:
        """Sets the whole state beside the lane's point `_s`.

        Args:
            turned_rad: from the lane's heading.
            velocity: (2,) forward and leftward, of the robot's middle, in m/s.
            wheels: (4,) speeds of the rims in m/s.
            steering: of a wheel between the two that steer, in rad.
        """
        client = self.client
        lane_x, lane_y = self._lane.place(self._s)
        heading = float(self._lane.heading(self._s))
        yaw = heading + turned_rad
        cos, sin = math.cos(yaw), math.sin(yaw)
        x = lane_x - left_m * math.sin(heading) - MIDDLE_M * cos
        y = lane_y + left_m * math.cos(heading) - MIDDLE_M * sin
        quaternion_xyzw = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        pybullet.resetBasePositionAndOrientation(self._robot, (x, y, 0.0), quaternion_xyzw, physicsClientId=client)
        forward, left = velocity[0], velocity[1] - rate * MIDDLE_M  # of the rear axle
        linear = (forward * cos - left * sin, forward * sin + left * cos, 0.0)
        pybullet.resetBaseVelocity(self._robot, linear, (0.0, 0.0, rate), physicsClientId=client)
        for wheel, speed in zip(scene.WHEELS, wheels, strict=True):
            angle = pybullet.getJointState(self._robot, wheel, physicsClientId=client)[0]
            pybullet.resetJointState(self._robot, wheel, angle, speed / scene.WHEEL_RADIUS_M, physicsClientId=client)
        for joint, (angle, _) in zip(scene.STEERING, _ackermann(0.0, steering)[:2], strict=True):
            pybullet.resetJointState(self._robot, joint, angle, 0.0, physicsClientId=client)

    # -- stepping ------------------------------------------------------------------------------

    def _apply(self, applied_action: np.ndarray) -> None:
        speed, steering = applied_action.tolist()
        wheels = _ackermann(TOP_SPEED_M_S * speed, MOST_STEERING_RAD * steering)
        # Bullet reckons a motor's largest impulse over the whole control step and allows it in every sub-step.
        pybullet.setJointMotorControlArray(
            self._robot, scene.WHEELS, pybullet.VELOCITY_CONTROL,
            targetVelocities=[rim / scene.WHEEL_RADIUS_M for _, rim in wheels],
            forces=[WHEEL_TORQUE_NM / SUBSTEPS] * 4, physicsClientId=self.client,
        )  # fmt: skip
        pybullet.setJointMotorControlArray(
            self._robot, scene.STEERING, pybullet.POSITION_CONTROL,
            targetPositions=[angle for angle, _ in wheels[:2]], positionGains=[STEERING_GAIN] * 2,
            forces=[STEERING_TORQUE_NM / SUBSTEPS] * 2, physicsClientId=self.client,
        )  # fmt: skip

    def _observe(self) -> np.ndarray:
        client = self.client
        (x, y, _), (qx, qy, qz, qw) = pybullet.getBasePositionAndOrientation(self._robot, physicsClientId=client)
        (vx, vy, _), (_, _, rate) = pybullet.getBaseVelocity(self._robot, physicsClientId=client)
        joints = pybullet.getJointStates(self._robot, scene.WHEELS + scene.STEERING, physicsClientId=client)
        self._upright = 1 - 2 * (qx * qx + qy * qy)
        yaw = math.atan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        cos, sin = math.cos(yaw), math.sin(yaw)
        self._s, offset = self._lane.nearest(x + MIDDLE_M * cos, y + MIDDLE_M * sin, self._s)
        turned = yaw - float(self._lane.heading(self._s))
        rims = [scene.WHEEL_RADIUS_M * rate for _, rate, *_ in joints[:4]]
        steering = (joints[4][0] + joints[5][0]) / 2
        curvature = self._lane.curvature(self._s + np.array(LOOKAHEAD_M))
        return np.array(
            [
                offset, math.remainder(turned, 2 * math.pi),
                vx * cos + vy * sin, vy * cos - vx * sin + rate * MIDDLE_M, rate, sin, cos,
                *rims, steering, *curvature,
            ]
        )  # fmt: skip

    def _outcome(self, vector: np.ndarray, applied_action: np.ndarray) -> Outcome:
        progress, self._progress_m = self._s - self._progress_m, self._s
        if abs(vector[0]) > HALF_WIDTH_M or self._upright < UPRIGHT:
            return Outcome(-1.0, True, False, self._s)
        reward = progress * CONTROL_HZ / NOMINAL_SPEED_M_S - 0.2 * (vector[0] / HALF_WIDTH_M) ** 2
        return Outcome(reward, False, _far_enough(self._s), self._s)

    @classmethod
    def ended(cls, vectors: np.ndarray) -> np.ndarray:
        return np.abs(vectors[..., 0]) > HALF_WIDTH_M  # that it has tipped over, its observation does not say

    def _push(self, speed_m_s: float) -> None:
        # The base carries the robot, and its joints turn on as they did.
        (vx, vy, vz), spin = pybullet.getBaseVelocity(self._robot, physicsClientId=self.client)
        pybullet.resetBaseVelocity(self._robot, (vx + speed_m_s, vy, vz), spin, physicsClientId=self.client)

    def _perturb(self, offset: np.ndarray) -> None:
        moved = self._vector + offset
        self._place(moved[0], moved[1], moved[2:4], moved[4], moved[7:11], moved[11])

    # -- drawing -------------------------------------------------------------------------------

    def render(self, width: int = 480, height: int = 360) -> np.ndarray:
        """Draws the true state: uint8 (height, width, 3), as the robot's own observation has it.

        TinyRenderer casts shadows around the world's origin only, so the robot is drawn there, the lane ahead of it.
        """
        artist = self._ready_artist()
        artist.drawn_x_m = self._s
        artist._draw(self._vector)
        return take_picture(artist.client, artist.view, self.physics, width, height)

    @classmethod
    def travelled(cls, vectors: np.ndarray) -> np.ndarray:
        """Metres (T,) along the lane, which is what `x_m` means when this task is drawn."""
        offset, heading, forward, left = vectors[:, :4].astype(np.float64).T
        along = (forward * np.cos(heading) - left * np.sin(heading)) / np.maximum(
            1.0 - vectors[:, CURVATURE_HERE] * offset, 0.2
        )
        return np.cumsum(along) / CONTROL_HZ

    @classmethod
    def solved(cls, vectors: np.ndarray) -> bool:
        return _far_enough(float(cls.travelled(vectors)[-1]))

    def _draw(self, vector: np.ndarray) -> None:
        if self._picture is None:
            self._picture = scene.Picture(self.client, HALF_WIDTH_M + WHEELS_M[0][1])
        turned = vector[1]
        x, y = -MIDDLE_M * math.cos(turned), vector[0] - MIDDLE_M * math.sin(turned)
        angles = [angle for angle, _ in _ackermann(0.0, float(np.clip(vector[11], -1.0, 1.0)))[:2]]
        self._picture.pose(x, y, turned, angles, vector[CURVATURE_HERE:], self.drawn_x_m)


def _far_enough(along_m: float) -> bool:
    return along_m >= ENOUGH_M


def _ackermann(speed_m_s: float, steering_rad: float) -> list[tuple[float, float]]:
    """The angle in rad and the rim's speed in m/s of each wheel, where the rear axle's middle goes at `speed_m_s`."""
    curvature = math.tan(steering_rad) / WHEELBASE_M
    paths = [(1.0 - curvature * left, curvature * ahead) for ahead, left in WHEELS_M]
    return [(math.atan2(across, along), speed_m_s * math.hypot(along, across)) for along, across in paths]
