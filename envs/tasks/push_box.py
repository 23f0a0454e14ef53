"""push-box: a finger pushes a box to a goal on a table that ends."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from envs.bullet import BulletEnv, Outcome
from envs.bullet_engine import pybullet
from envs.camera import View
from envs.physics import Physics, PhysicsRange
from envs.tasks import push_box_scene as scene

CONTROL_HZ = 20.0
SUBSTEPS = 12
TABLE_HALF_M = 0.5
BOX_HEIGHT_M = 0.06
FINGER_RADIUS_M = 0.02
FINGER_HEIGHT_M = 0.03
FINGER_SPEED_M_S = 0.5
FINGER_FORCE_N = 20.0
FINGER_MASS_KG = 0.15  # on each of its two axes: the y axis rides on the x axis
FINGER_FRICTION = 0.5
GOAL_RADIUS_M = 0.05
SLOW_M_S = 0.05
CONTACT_M = 0.001
BOX_START_M = 0.12
GOAL_DISTANCE_M = (0.2, 0.35)
GOAL_EDGE_M = (0.1, 0.2)  # near enough to the edge for a slide to be punished
FINGER_START_M = 0.45
# Bullet reckons a motor's largest impulse over the whole control step and allows it in every sub-step.
MOTOR_FORCES = (FINGER_FORCE_N / SUBSTEPS, FINGER_FORCE_N / SUBSTEPS)


class PushBox(BulletEnv):
    """A force-limited finger (20 N), moved by velocity, pushes a box of unknown shape to a goal, in 4 s at 20 Hz.

    Observation (18,), table frame (origin in its middle, 1 m x 1 m), metres and m/s: see `observation_names`.
    The box's position is the centre of its outline; its size, mass and friction are not observed.
    Action (2,): the finger's velocity over 0.5 m/s, along x and y. The finger stops at the table's edge.
    Reward a step: 0.4 (1 - tanh(5 d)), where d is the box's distance to the goal in metres, and 0.6 more within 5 cm
    and below 5 cm/s, so that what pays is what counts as success; -1 when the box is lost.
    Ends (failure) when the box's centre of mass, payload included, is past the table's edge.
    Success: the box is within 5 cm of the goal at the last step.
    Start: the box near the middle at any angle, the goal 0.2 to 0.35 m from it and 0.1 to 0.2 m
    from the nearest edge, the finger anywhere free.
    """

    task_name = "push-box"
    control_hz = CONTROL_HZ
    max_steps = 80
    nominal = Physics(floor_friction=0.3)
    observation_names: ClassVar[list[str]] = [
        "finger_x_m", "finger_y_m", "finger_vx_m_s", "finger_vy_m_s",
        "box_x_m", "box_y_m", "box_vx_m_s", "box_vy_m_s", "box_cos_yaw", "box_sin_yaw", "box_yaw_rate_rad_s",
        "goal_x_m", "goal_y_m", "finger_to_box_x_m", "finger_to_box_y_m", "box_to_goal_x_m", "box_to_goal_y_m",
        "contact",
    ]  # fmt: skip
    action_names: ClassVar[list[str]] = ["finger_vx", "finger_vy"]
    engine: ClassVar[dict[str, Any]] = {"numSubSteps": SUBSTEPS, "numSolverIterations": 50}
    view = View(
        eye=(0.0, -0.95, 1.25),
        target=(0.0, -0.05, 0.0),
        field_of_view_deg=45.0,
        light_distance_m=3.0,
        background=(199, 202, 208),
    )
    reset_only = frozenset({"payload_x_m", "box_length_m", "box_width_m", "box_notch"})
    # Friction as the issue asks; a little of the rest, so that a model can learn which way each factor acts.
    log_ranges: ClassVar[PhysicsRange] = {
        "floor_friction": (0.15, 0.8),
        "slope_deg": (-1.5, 1.5),
        "box_mass_kg": (0.4, 0.8),
        "payload_kg": (0.0, 0.3),
        "push_m_s": (0.0, 0.15),
        "push_start_s": (0.5, 2.5),
    }

    def _build(self) -> None:
        self._table = scene.table(self.client, TABLE_HALF_M)
        self._goal = scene.goal(self.client, GOAL_RADIUS_M)
        self._finger = scene.finger(self.client, FINGER_RADIUS_M, FINGER_HEIGHT_M, FINGER_MASS_KG)
        self._build_box()
        pybullet.setCollisionFilterPair(self._finger, self._table, 1, -1, 0, physicsClientId=self.client)

    def _build_box(self) -> None:
        """One or two cuboids (an L, its corner at +x, +y cut out) and the payload, on fixed joints.

        Bullet adds up their masses and inertias, exactly; the box's frame is that of the first cuboid.
        """
        physics = self.physics
        length, width, notch = physics.box_length_m, physics.box_width_m, physics.box_notch
        height = BOX_HEIGHT_M
        sizes = [(length, width * (1 - notch), height)]
        self._centre = np.array([0.0, width * notch / 2])  # the outline's middle in the box's frame
        places = [np.zeros(3)]
        if notch > 0.0:
            sizes.append((length * (1 - notch), width * notch, height))
            places.append(np.array([-length * notch / 2, width / 2, 0.0]))
        self._shares = [x * y for x, y, _ in sizes]
        self._shares = [share / sum(self._shares) for share in self._shares]
        self._places = [*places, np.array([*(self._centre + (physics.payload_x_m, 0.0)), 0.0])]
        self._box = scene.rigid_parts(
            self.client,
            sizes,
            self._places,
            [physics.box_mass_kg * share for share in self._shares],
            physics.payload_kg,
        )

    def _apply_physics(self) -> None:
        physics, client = self.physics, self.client
        self._masses = [physics.box_mass_kg * share for share in self._shares] + [physics.payload_kg]
        self._mass_centre = np.average(np.array(self._places)[:, :2], axis=0, weights=self._masses)
        pybullet.changeDynamics(
            self._table, -1, lateralFriction=physics.floor_friction, restitution=physics.restitution,
            physicsClientId=client,
        )  # fmt: skip
        for link in (0, 1):
            pybullet.changeDynamics(
                self._finger, link, lateralFriction=FINGER_FRICTION, restitution=physics.restitution,
                linearDamping=0.0, angularDamping=0.0, jointDamping=0.0, physicsClientId=client,
            )  # fmt: skip
        for link, mass in enumerate(self._masses, start=-1):
            # Friction and restitution 1, so that Bullet's products are the table's and the finger's own values.
            pybullet.changeDynamics(
                self._box, link, mass=mass, lateralFriction=1.0, restitution=1.0, linearDamping=0.0,
                angularDamping=0.0, physicsClientId=client,
            )  # fmt: skip

    def _reset_state(self, rng: np.random.Generator) -> None:
        box = rng.uniform(-BOX_START_M, BOX_START_M, 2)
        yaw = rng.uniform(-math.pi, math.pi)
        while True:
            angle = rng.uniform(-math.pi, math.pi)
            goal = box + rng.uniform(*GOAL_DISTANCE_M) * np.array([math.cos(angle), math.sin(angle)])
            if GOAL_EDGE_M[0] <= TABLE_HALF_M - np.abs(goal).max() <= GOAL_EDGE_M[1]:
                break
        free = math.hypot(self.physics.box_length_m, self.physics.box_width_m) / 2 + FINGER_RADIUS_M + 0.02
        while True:
            finger = rng.uniform(-FINGER_START_M, FINGER_START_M, 2)
            if np.linalg.norm(finger - box) >= free:
                break
        self._goal_xy = goal
        self._place(finger, np.zeros(2), box, yaw, np.zeros(2), 0.0)
        self._place_goal(goal)

    def _place(
        self, finger: np.ndarray, finger_v: np.ndarray, box: np.ndarray, yaw: float, box_v: np.ndarray, rate: float
    ) -> None:
        """Sets the whole state; `box` and `box_v` are those of the outline's middle."""
        client = self.client
        for axis in (0, 1):
            pybullet.resetJointState(
                self._finger, axis, float(finger[axis]), float(finger_v[axis]), physicsClientId=client
            )
        to_centre = _turn(self._centre, yaw)
        quaternion_xyzw = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
        x, y = box - to_centre
        pybullet.resetBasePositionAndOrientation(
            self._box, (x, y, BOX_HEIGHT_M / 2), quaternion_xyzw, physicsClientId=client
        )
        vx, vy = box_v - rate * np.array([-to_centre[1], to_centre[0]])
        pybullet.resetBaseVelocity(self._box, (vx, vy, 0.0), (0.0, 0.0, rate), physicsClientId=client)

    def _place_goal(self, goal: np.ndarray) -> None:
        pybullet.resetBasePositionAndOrientation(
            self._goal, (goal[0], goal[1], 0.001), (0, 0, 0, 1), physicsClientId=self.client
        )

    def _apply(self, applied_action: np.ndarray) -> None:
        vx, vy = (FINGER_SPEED_M_S * float(a) for a in applied_action)
        # The edge is kept by the motor: it never asks for a speed that would carry the finger past it.
        x, y = self._vector[0], self._vector[1]
        vx = min(max(vx, (-TABLE_HALF_M - x) * CONTROL_HZ), (TABLE_HALF_M - x) * CONTROL_HZ)
        vy = min(max(vy, (-TABLE_HALF_M - y) * CONTROL_HZ), (TABLE_HALF_M - y) * CONTROL_HZ)
        pybullet.setJointMotorControlArray(
            self._finger, (0, 1), pybullet.VELOCITY_CONTROL, targetVelocities=(vx, vy), forces=MOTOR_FORCES,
            physicsClientId=self.client,
        )  # fmt: skip

    def _observe(self) -> np.ndarray:
        client = self.client
        (fx, fvx, *_), (fy, fvy, *_) = pybullet.getJointStates(self._finger, (0, 1), physicsClientId=client)
        (x, y, z), (qx, qy, qz, qw) = pybullet.getBasePositionAndOrientation(self._box, physicsClientId=client)
        (vx, vy, _), (_, _, rate) = pybullet.getBaseVelocity(self._box, physicsClientId=client)
        touching = pybullet.getContactPoints(self._finger, self._box, physicsClientId=client)
        contact = float(any(point[8] < CONTACT_M for point in touching))
        yaw = math.atan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        cos, sin = math.cos(yaw), math.sin(yaw)
        to_x, to_y = cos * self._centre[0] - sin * self._centre[1], sin * self._centre[0] + cos * self._centre[1]
        mass_x, mass_y = self._mass_centre
        self._mass_xy = (x + cos * mass_x - sin * mass_y, y + sin * mass_x + cos * mass_y)
        self._height = z
        bx, by = x + to_x, y + to_y
        gx, gy = self._goal_xy
        return np.array(
            [
                fx, fy, fvx, fvy,
                bx, by, vx - rate * to_y, vy + rate * to_x, cos, sin, rate,
                gx, gy, bx - fx, by - fy, gx - bx, gy - by,
                contact,
            ]
        )  # fmt: skip

    def _outcome(self, vector: np.ndarray, applied_action: np.ndarray) -> Outcome:
        distance = math.hypot(vector[15], vector[16])
        if max(abs(self._mass_xy[0]), abs(self._mass_xy[1])) > TABLE_HALF_M or self._height < 0.0:
            return Outcome(-1.0, True, False, -distance)
        there = _at_goal(vector)
        settled = there and math.hypot(vector[6], vector[7]) < SLOW_M_S
        reward = 0.4 * (1.0 - math.tanh(5.0 * distance)) + 0.6 * settled
        return Outcome(reward, False, there, -distance)

    @classmethod
    def ended(cls, vectors: np.ndarray) -> np.ndarray:
        return np.abs(vectors[..., 4:6]).max(-1) > TABLE_HALF_M  # where in the box the mass is, nobody sees

    @classmethod
    def solved(cls, vectors: np.ndarray) -> bool:
        return _at_goal(vectors[-1])

    def _push(self, speed_m_s: float) -> None:
        (vx, vy, vz), spin = pybullet.getBaseVelocity(self._box, physicsClientId=self.client)
        pybullet.resetBaseVelocity(self._box, (vx + speed_m_s, vy, vz), spin, physicsClientId=self.client)

    def _perturb(self, offset: np.ndarray) -> None:
        vector = self._vector
        moved = vector + offset
        turn = float(np.mean(offset[8:10]))
        yaw = math.atan2(vector[9], vector[8]) + turn
        self._place(moved[0:2], moved[2:4], moved[4:6], yaw, moved[6:8], moved[10])

    def _draw(self, vector: np.ndarray) -> None:
        yaw = math.atan2(vector[9], vector[8])
        self._place(vector[0:2], np.zeros(2), vector[4:6], yaw, np.zeros(2), 0.0)
        self._place_goal(vector[11:13])


def _at_goal(vector: np.ndarray) -> bool:
    return math.hypot(vector[15], vector[16]) < GOAL_RADIUS_M


def _turn(xy: np.ndarray, yaw: float) -> np.ndarray:
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([cos * xy[0] - sin * xy[1], sin * xy[0] + cos * xy[1]])
