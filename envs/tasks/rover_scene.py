"""The bodies of rover: the racecar of the pybullet wheel, as it is simulated and as it is drawn."""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from envs.bullet_engine import pybullet, quiet
from envs.tasks.rover_lane import LOOKAHEAD_M

WHEEL_RADIUS_M = 0.05
WHEEL_INERTIA_KG_M2 = 0.002  # about its axle, with its share of motor and gears
PAYLOAD_Z_M = 0.1
# Joints of the racecar, in Bullet's numbers; wheels in the order front left, front right, rear left, rear right.
WHEELS = (5, 7, 2, 3)
STEERING = (4, 6)  # left, right
PAYLOAD = 12

KERB_M = 0.25
KERB_SPAN_M = (-1.5, 6.0)  # drawn from so far behind the robot to so far ahead of it
FINE_M = 0.05  # of the integration that draws the lane
KERB_COLOURS = ((0.80, 0.22, 0.18, 1.0), (0.95, 0.95, 0.93, 1.0))
LANE_COLOUR = (0.45, 0.47, 0.50, 1.0)


def rover(client: int, payload_x_m: float) -> int:
    """Loads the robot without its looks. Its frame is on the floor below the rear axle's middle, x forward."""
    with tempfile.NamedTemporaryFile(suffix=".urdf") as file:  # Bullet reads URDF from files only
        file.write(_simulated(payload_x_m))
        file.flush()
        # Bullet's own guess at inertias takes the 4 kg of the chassis for a point.
        return pybullet.loadURDF(file.name, flags=pybullet.URDF_USE_INERTIA_FROM_FILE, physicsClientId=client)


class Picture:
    """The robot as it looks, on a lane between kerbs. The lane's nearest point is the origin, and it leads along +x."""

    def __init__(self, client: int, half_width_m: float) -> None:
        self._client, self._half_width = client, half_width_m
        count = round((KERB_SPAN_M[1] - KERB_SPAN_M[0]) / KERB_M)
        # Long enough to leave no gap on the outside of a bend.
        slab = (0.75 * KERB_M, half_width_m, 0.0001)
        self._slabs = [_visual_box(client, slab, LANE_COLOUR) for _ in range(count)]
        kerb = (0.55 * KERB_M, 0.03, 0.006)
        self._kerbs = [[_visual_box(client, kerb, KERB_COLOURS[k % 2]) for k in range(count)] for _ in range(2)]
        with quiet():
            self._car = pybullet.loadURDF(str(_file()), useFixedBase=True, physicsClientId=client)

    def pose(
        self, x: float, y: float, yaw: float, steering: list[float], curvatures: np.ndarray, along_m: float
    ) -> None:
        """Args: `steering` of the left and the right wheel; `curvatures` at LOOKAHEAD_M; `along_m` moves the kerbs."""
        self._put(self._car, x, y, 0.0, yaw)
        for joint, angle in zip(STEERING, steering, strict=True):
            pybullet.resetJointState(self._car, joint, angle, physicsClientId=self._client)
        first = math.ceil((along_m + KERB_SPAN_M[0]) / KERB_M)
        numbers = first + np.arange(len(self._slabs))
        for number, (lane_x, lane_y, heading) in zip(
            numbers.tolist(), _line(curvatures, numbers * KERB_M - along_m), strict=True
        ):
            k = number % len(self._slabs)  # so that a kerb keeps its colour as it comes nearer
            lower = -0.002 * (k % 2)  # neighbours overlap, and would speckle at one height
            self._put(self._slabs[k], lane_x, lane_y, lower - 0.006, heading)
            for side, kerbs in zip((self._half_width, -self._half_width), self._kerbs, strict=True):
                x, y = lane_x - side * math.sin(heading), lane_y + side * math.cos(heading)
                self._put(kerbs[k], x, y, lower, heading)

    def _put(self, body: int, x: float, y: float, z: float, yaw: float) -> None:
        pybullet.resetBasePositionAndOrientation(
            body, (x, y, z), (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)), physicsClientId=self._client
        )


def _line(curvatures: np.ndarray, where_m: np.ndarray) -> list[tuple[float, float, float]]:
    """x, y and heading of a line that passes the origin along +x, at arc lengths `where_m`."""
    fine = np.arange(KERB_SPAN_M[0], KERB_SPAN_M[1] + KERB_M, FINE_M)
    heading = np.cumsum(np.interp(fine, LOOKAHEAD_M, curvatures)) * FINE_M
    heading -= np.interp(0.0, fine, heading)
    x, y = np.cumsum(np.cos(heading)) * FINE_M, np.cumsum(np.sin(heading)) * FINE_M
    columns = [np.interp(where_m, fine, values) for values in (x, y, heading)]
    columns[0] -= np.interp(0.0, fine, x)
    columns[1] -= np.interp(0.0, fine, y)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _visual_box(client: int, half: tuple[float, float, float], colour: tuple[float, ...]) -> int:
    shape = pybullet.createVisualShape(
        pybullet.GEOM_BOX, halfExtents=half, rgbaColor=colour, specularColor=(0, 0, 0), physicsClientId=client
    )
    return pybullet.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=client)


@functools.lru_cache(maxsize=64)
def _simulated(payload_x_m: float) -> bytes:
    """The racecar of the pybullet wheel: no looks, round wheels, and a massless link at `payload_x_m` for the payload.

    The wheels' own inertia is that of bare tyres. With more of it Bullet is also truer: see AHEAD_RAD in rover_lane.
    Bullet loses the contacts of a turning cylinder and finds them anew: with those of the file the yaw rate of a steady
    turn jitters by 5 to 12%. A sphere touches a plane in one point, and turns steadily to 0.3%.
    """
    root = ElementTree.parse(_file()).getroot()
    for link in root.iter("link"):
        wheel = link.get("name", "").endswith("wheel")
        # Bullet draws what collides, unless it has looks of its own, and be it a speck.
        for part, radius in (("collision", WHEEL_RADIUS_M), ("visual", 0.001)):
            for shape in link.findall(part):
                if not wheel:
                    link.remove(shape)
                for geometry in shape.findall("geometry"):
                    geometry[:] = [ElementTree.Element("sphere", radius=str(radius))]
        for inertia in link.findall("inertial/inertia") if wheel else []:
            for axis, share in (("ixx", 0.5), ("iyy", 0.5), ("izz", 1.0)):  # of a flat disc: Bullet refuses less
                inertia.set(axis, str(share * WHEEL_INERTIA_KG_M2))
    inertial = ElementTree.SubElement(ElementTree.SubElement(root, "link", name="payload"), "inertial")
    ElementTree.SubElement(inertial, "mass", value="0")
    ElementTree.SubElement(inertial, "inertia", ixx="0", ixy="0", ixz="0", iyy="0", iyz="0", izz="0")
    joint = ElementTree.SubElement(root, "joint", name="payload_joint", type="fixed")
    ElementTree.SubElement(joint, "origin", rpy="0 0 0", xyz=f"{payload_x_m} 0 {PAYLOAD_Z_M}")
    ElementTree.SubElement(joint, "parent", link="base_link")
    ElementTree.SubElement(joint, "child", link="payload")
    return ElementTree.tostring(root)


def _file() -> Path:
    import pybullet_data  # part of the pybullet wheel, whose absence envs.bullet reports

    return Path(pybullet_data.getDataPath()) / "racecar" / "racecar.urdf"
