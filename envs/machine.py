"""A machine that is known by its URDF alone: joint torques in, joint angles and speeds out. No task, no contacts.

For laying a simulator beside the logs of a real machine. The URDF's shapes are left out, so that none of its mesh files
has to be there; so are joint stops, as encoders count on past a turn.
"""

from __future__ import annotations

import tempfile
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from configs import UserError
from envs.bullet_engine import pybullet, quiet


@dataclass(frozen=True)
class JointFriction:
    """What identification found at one joint; the rotor's inertia enters beside the links'."""

    damping: float = 0.0
    """Viscous, Nm s/rad."""
    coulomb: float = 0.0
    """Nm; it also holds a joint that stands still."""
    rotor_inertia: float = 0.0
    """kg m2, behind the gear. Bullet knows no such thing: anything but 0 is refused."""
    gear: float = 1.0
    """Turns of the rotor for one of the joint. Torques are the joint's, so it matters to the rotor's inertia alone."""


class Machine:
    """Joints in the order of the URDF, fixed ones left out; gravity pulls along -z of the first link, which is fixed.

    Args:
        step_s: how long a torque is held, s.
        friction: of each joint; None takes damping and friction of the URDF's `dynamics`.
        inertia_about: what the URDF's `inertia` is about: the centre of mass, as the format says, or the joint that
            the link hangs on, as some identified parameters are. The latter is for joints whose axes are parallel.
        substeps: of Bullet in a step.

    Raises:
        UserError: no URDF, no moving joint, a joint that slides, friction for another number of joints, an inertia that
            no body can have.
    """

    def __init__(
        self,
        urdf: str | Path,
        step_s: float,
        friction: Sequence[JointFriction] | None = None,
        inertia_about: Literal["mass centre", "joint"] = "mass centre",
        gravity: float = 9.81,
        substeps: int = 20,
    ) -> None:
        robot, self.joints, own = _prepared(Path(urdf), inertia_about)
        friction = own if friction is None else list(friction)
        if len(friction) != len(self.joints):
            raise UserError(f"{urdf} moves in {', '.join(self.joints)}, but friction is given for {len(friction)}")
        for name, one in zip(self.joints, friction, strict=True):
            if one.rotor_inertia:
                raise UserError(
                    f"{urdf}: {name} has a rotor inertia of {one.rotor_inertia:g}; Bullet cannot tell of it"
                )
        turning = {joint.get("name"): joint for joint in robot.findall("joint")}
        for name, one in zip(self.joints, friction, strict=True):  # told by changeDynamics, Bullet ignores it
            ElementTree.SubElement(turning[name], "dynamics", damping=repr(float(one.damping)))
        with quiet():
            self.client: int = pybullet.connect(pybullet.DIRECT)
        weakref.finalize(self, pybullet.disconnect, self.client)
        pybullet.setGravity(0, 0, -gravity, physicsClientId=self.client)
        pybullet.setPhysicsEngineParameter(fixedTimeStep=step_s, numSubSteps=substeps, physicsClientId=self.client)
        with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file, quiet():
            file.write(ElementTree.tostring(robot, encoding="unicode"))
            file.flush()
            flags = pybullet.URDF_USE_INERTIA_FROM_FILE
            self._body = pybullet.loadURDF(file.name, useFixedBase=True, flags=flags, physicsClientId=self.client)
        count = pybullet.getNumJoints(self._body, physicsClientId=self.client)
        found = [pybullet.getJointInfo(self._body, j, physicsClientId=self.client)[1].decode() for j in range(count)]
        self._numbers = [found.index(name) for name in self.joints]
        for number, one in zip(self._numbers, friction, strict=True):
            pybullet.changeDynamics(
                self._body,
                number,
                linearDamping=0,
                angularDamping=0,
                maxJointVelocity=1e4,
                physicsClientId=self.client,
            )
            # Bullet grants a motor the force times the whole step anew in every substep.
            force = one.coulomb / substeps
            pybullet.setJointMotorControl2(
                self._body, number, pybullet.VELOCITY_CONTROL, force=force, physicsClientId=self.client
            )
        pybullet.changeDynamics(self._body, -1, linearDamping=0, angularDamping=0, physicsClientId=self.client)

    def rollout(self, position: np.ndarray, velocity: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """From joint angles and speeds (J,), rad and rad/s, under torques (T, J), Nm.

        Returns:
            (T + 1, 2 J) angles, then speeds; the first row is the start.
        """
        for number, q, dq in zip(self._numbers, position, velocity, strict=True):
            pybullet.resetJointState(self._body, number, float(q), float(dq), physicsClientId=self.client)
        rows = [np.concatenate([position, velocity])]
        for forces in np.asarray(torque, np.float64).tolist():
            pybullet.setJointMotorControlArray(
                self._body, self._numbers, pybullet.TORQUE_CONTROL, forces=forces, physicsClientId=self.client
            )
            pybullet.stepSimulation(physicsClientId=self.client)
            states = pybullet.getJointStates(self._body, self._numbers, physicsClientId=self.client)
            rows.append(np.array([s[0] for s in states] + [s[1] for s in states]))
        return np.stack(rows)


def _prepared(
    urdf: Path, about: Literal["mass centre", "joint"]
) -> tuple[ElementTree.Element, list[str], list[JointFriction]]:
    """The URDF as Bullet is to see it, names of the joints that move, and the friction that it gives them."""
    try:
        robot = ElementTree.parse(urdf).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{urdf} cannot be read as a URDF: {error}") from None
    links = {link.get("name") for link in robot.findall("link")}
    names, friction = [], []
    for joint in robot.findall("joint"):
        name, kind = joint.get("name", ""), joint.get("type")
        if _of(joint, "parent", "link") not in links:  # a world that is not described: the base is fixed anyway
            robot.remove(joint)
        elif kind in ("revolute", "continuous"):
            joint.set("type", "continuous")
            for limit in joint.findall("limit"):
                joint.remove(limit)
            names.append(name)
            friction.append(
                JointFriction(*(float(_of(joint, "dynamics", key, "0")) for key in ("damping", "friction")))
            )
            for dynamics in joint.findall("dynamics"):
                joint.remove(dynamics)
        elif kind != "fixed":
            raise UserError(f"{urdf}: joint {name} is {kind}; joints that turn and fixed ones are simulated")
    if not names:
        raise UserError(f"{urdf} has no joint that turns")
    turned = [joint for joint in robot.findall("joint") if joint.get("name") in names]
    axes = {_of(joint, "child", "link"): _vector(_of(joint, "axis", "xyz", "1 0 0")) for joint in turned}
    for link in robot.findall("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            link.remove(shape)
        if about == "joint" and (name := link.get("name", "")) in axes:
            _to_mass_centre(link, axes[name] / np.linalg.norm(axes[name]), f"{urdf}: link {name}")
    return robot, names, friction


def _vector(text: str) -> np.ndarray:
    return np.array([float(x) for x in text.split()])


def _of(element: ElementTree.Element, child: str, key: str, default: str = "") -> str:
    found = element.find(child)
    return default if found is None else found.get(key, default)


def _to_mass_centre(link: ElementTree.Element, axis: np.ndarray, where: str) -> None:
    """Steiner's theorem: what is stated about the axis through the joint, less m d2 to the mass centre's distance d.

    Only turning about parallel axes counts, so the tensor that is left is the same about every axis: one that Bullet
    takes, as it refuses those of no real body.
    """
    inertial = link.find("inertial")
    inertia = None if inertial is None else inertial.find("inertia")
    if inertial is None or inertia is None:
        return
    if np.any(_vector(_of(inertial, "origin", "rpy", "0 0 0"))):
        raise UserError(f"{where} states its inertia about turned axes (rpy); turn it to the link's own")
    mass, r = float(_of(inertial, "mass", "value", "0")), _vector(_of(inertial, "origin", "xyz", "0 0 0"))
    tensor = np.array([[float(inertia.get("i" + min(a + b, b + a), "0")) for b in "xyz"] for a in "xyz"])
    stated, least = float(axis @ tensor @ axis), mass * float(r @ r - (r @ axis) ** 2)
    if stated < least:
        raise UserError(
            f"{where} has {stated:.4g} kg m2 about its joint, but its mass alone has {least:.4g} at its distance: no "
            "body is like this; read the inertia about the mass centre"
        )
    for a in "xyz":
        for b in "xyz":
            inertia.set(f"i{a}{b}", repr(stated - least if a == b else 0.0))
