"""What PyBullet's old walking robots have in common: clock, world, motors, payload, reward.

Their robots are built from MJCF files in the installed wheel.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from envs.bullet import BulletEnv, pybullet
from envs.physics import Physics

STEP_S = 0.0165
SUB_STEPS = 4
SUB_STEP_S = STEP_S / SUB_STEPS
START_SPREAD_RAD = 0.1
SPEED_SCALE, RATE_SCALE = 0.3, 0.1  # the old observations' units of speed and of joint rate
FLOOR_PATTERN_M = 2.0  # period of the chequers that Bullet draws on a plane
PAYLOAD_ARM_M = 0.5  # of its two carriers, before and behind

Colour = tuple[float, float, float, float]


class Walker(BulletEnv):
    """Torque motors move a robot that stands on a floor without end; the payload is a point mass on its torso.

    Reward a step: 1 for being up (-1 for being down), plus the forward speed in m/s, less 2 mean |action * joint rate /
    10|, less 0.1 mean action^2 and less 0.1 a joint at its limit.
    """

    control_hz: ClassVar[float] = 1.0 / STEP_S
    nominal: ClassVar[Physics] = Physics(
        floor_friction=0.8, gravity_m_s2=9.8, push_start_s=150 * STEP_S, push_every_s=150 * STEP_S
    )
    engine: ClassVar[dict[str, Any]] = {"numSubSteps": SUB_STEPS, "numSolverIterations": 5, "contactERP": 0.9}
    unused: ClassVar[frozenset[str]] = frozenset({"box_mass_kg", "box_length_m", "box_width_m", "box_notch"})

    mjcf: ClassVar[str]  # the wheel's file
    joints: ClassVar[tuple[int, ...]]  # those with motors
    torque_nm: ClassVar[float]  # at a command of 1
    colours: ClassVar[dict[int, Colour]]  # of the links that can touch something
    carriers: ClassVar[tuple[int, int]]  # links that hold the payload, behind and before
    payload_z_m: ClassVar[float]  # in the torso's frame

    def _build(self) -> None:
        client = self.client
        plane = pybullet.createCollisionShape(pybullet.GEOM_PLANE, physicsClientId=client)
        self._floor: int = pybullet.createMultiBody(0.0, plane, physicsClientId=client)
        with tempfile.NamedTemporaryFile(suffix=".xml") as file:  # Bullet reads MJCF from files only
            file.write(_robot_with_payload(self.mjcf, self.payload_z_m))
            file.flush()
            flags = pybullet.URDF_USE_SELF_COLLISION | pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
            (self._robot,) = pybullet.loadMJCF(file.name, flags=flags, physicsClientId=client)
        for joint in range(self.carriers[0]):
            # Bullet gives every joint a motor that brakes it; a torque needs it off.
            pybullet.setJointMotorControl2(
                self._robot, joint, pybullet.VELOCITY_CONTROL, force=0.0, physicsClientId=client
            )
        for link, colour in self.colours.items():
            pybullet.changeVisualShape(self._robot, link, rgbaColor=colour, physicsClientId=client)
            # Bullet multiplies restitutions as it does frictions, and the MJCF importer leaves the robot's at 0.
            pybullet.changeDynamics(self._robot, link, restitution=1.0, physicsClientId=client)

    def _apply_physics(self) -> None:
        physics = self.physics
        pybullet.changeDynamics(
            self._floor,
            -1,
            lateralFriction=physics.floor_friction,
            restitution=physics.restitution,
            physicsClientId=self.client,
        )
        # Two carriers share the payload so that its centre of mass sits at payload_x_m. Spread out so, it would be
        # harder to turn than a point mass; their own (negative) inertia takes away exactly the difference.
        rear = physics.payload_kg * (0.5 - physics.payload_x_m / (2 * PAYLOAD_ARM_M))
        for link, mass in zip(self.carriers, (rear, physics.payload_kg - rear), strict=True):
            inertia = -mass * (PAYLOAD_ARM_M**2 - physics.payload_x_m**2)
            pybullet.changeDynamics(
                self._robot,
                link,
                mass=mass,
                localInertiaDiagonal=(0.0, inertia, inertia),
                physicsClientId=self.client,
            )

    def _apply(self, applied_action: np.ndarray) -> None:
        pybullet.setJointMotorControlArray(
            self._robot,
            self.joints,
            pybullet.TORQUE_CONTROL,
            forces=(self.torque_nm * applied_action.astype(np.float64)).tolist(),
            physicsClientId=self.client,
        )

    def _reward(
        self, up: bool, progress_m: float, applied_action: np.ndarray, rates: np.ndarray, at_limit: int
    ) -> float:
        """Of a step.

        Args:
            rates: of the joints (A,), in rad/s.
            at_limit: number of joints there.
        """
        # Python's own sums: numpy's take longer than the physics on a few numbers.
        action, motors = applied_action.tolist(), len(self.joints)
        power = RATE_SCALE * sum(abs(a * rate) for a, rate in zip(action, rates.tolist(), strict=True)) / motors
        stall = sum(a * a for a in action) / motors
        return (1.0 if up else -1.0) + progress_m / STEP_S - 2.0 * power - 0.1 * stall - 0.1 * float(at_limit)


@functools.cache
def _robot_with_payload(mjcf: str, payload_z_m: float) -> bytes:
    """The wheel's robot, with two massless carriers for the payload fixed to its torso, after all other links."""
    import pybullet_data  # part of the pybullet wheel, whose absence envs.bullet reports

    tree = ElementTree.parse(Path(pybullet_data.getDataPath()) / "mjcf" / mjcf)
    torso = tree.find("worldbody/body[@name='torso']")
    assert torso is not None
    for name, x in (("payload_rear", -PAYLOAD_ARM_M), ("payload_front", PAYLOAD_ARM_M)):
        carrier = ElementTree.SubElement(torso, "body", name=name, pos=f"{x} 0 {payload_z_m}")
        ElementTree.SubElement(carrier, "geom", type="sphere", size="0.001", contype="0", conaffinity="0")
    return ElementTree.tostring(tree.getroot())
