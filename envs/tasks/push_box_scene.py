"""The bodies of push-box: what Bullet is told to build, and how it looks."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.bullet_engine import pybullet

TABLE_THICK_M = 0.03
FINGER_LENGTH_M = 0.14

TABLE_COLOUR = (0.93, 0.90, 0.84, 1.0)
RIM_COLOUR = (0.42, 0.36, 0.32, 1.0)
BOX_COLOUR = (0.86, 0.45, 0.26, 1.0)
PAYLOAD_COLOUR = (0.22, 0.22, 0.26, 1.0)
FINGER_COLOUR = (0.20, 0.36, 0.56, 1.0)
GOAL_COLOUR = (0.36, 0.62, 0.44, 1.0)

Triple = tuple[float, float, float]


def table(client: int, half: float) -> int:
    """Returns the table, its top at z = 0; the rim is only to be seen."""
    size = (half, half, TABLE_THICK_M / 2)
    rim = _visual_box(client, (half + 0.012, half + 0.012, 0.02), RIM_COLOUR)
    pybullet.createMultiBody(baseVisualShapeIndex=rim, basePosition=(0, 0, -0.023), physicsClientId=client)
    return pybullet.createMultiBody(
        baseCollisionShapeIndex=_solid_box(client, size),
        baseVisualShapeIndex=_visual_box(client, size, TABLE_COLOUR),
        basePosition=(0, 0, -TABLE_THICK_M / 2),
        physicsClientId=client,
    )


def goal(client: int, radius: float) -> int:
    """Returns a flat ring with a dot in it, only to be seen. Bullet shades a thin cylinder like a ball."""
    with tempfile.NamedTemporaryFile(suffix=".obj") as file:  # vertices that it is given directly, Bullet never frees
        file.write(_ring(radius))
        file.flush()
        shape = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            fileName=file.name,
            rgbaColor=GOAL_COLOUR,
            specularColor=(0, 0, 0),
            physicsClientId=client,
        )
        return pybullet.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=client)  # reads the file


def finger(client: int, radius: float, height: float, mass_kg: float) -> int:
    """Returns a sphere at `height` on two prismatic joints, x (0) then y (1); it looks like a stick."""
    sphere = pybullet.createCollisionShape(pybullet.GEOM_SPHERE, radius=radius, physicsClientId=client)
    stick = pybullet.createVisualShape(
        pybullet.GEOM_CYLINDER,
        radius=radius,
        length=FINGER_LENGTH_M,
        rgbaColor=FINGER_COLOUR,
        visualFramePosition=(0, 0, FINGER_LENGTH_M / 2 - height + 0.004),
        physicsClientId=client,
    )
    return pybullet.createMultiBody(
        basePosition=(0, 0, height),
        **_links(
            masses=[mass_kg] * 2,
            collisions=[-1, sphere],
            visuals=[-1, stick],
            positions=[(0, 0, 0)] * 2,
            parents=[0, 1],
            joints=[pybullet.JOINT_PRISMATIC] * 2,
            axes=[(1, 0, 0), (0, 1, 0)],
        ),
        physicsClientId=client,
    )


def rigid_parts(
    client: int, sizes: Sequence[Triple], places: Sequence[np.ndarray], masses: Sequence[float], payload_kg: float
) -> int:
    """Returns cuboids (link -1, 0, ...) on fixed joints, resting on z = 0, and a payload as the last link.

    Bullet adds up their masses and inertias. `places` (n + 1, 3) are the middles in the first cuboid's frame.
    """
    halves = [(x / 2, y / 2, z / 2) for x, y, z in sizes]
    solids = [_solid_box(client, half) for half in halves]
    looks = [_visual_box(client, half, BOX_COLOUR) for half in halves]
    weight = -1
    if payload_kg > 0.0:
        weight = pybullet.createVisualShape(
            pybullet.GEOM_CYLINDER,
            radius=0.018,
            length=sizes[0][2] + 0.02,
            rgbaColor=PAYLOAD_COLOUR,
            physicsClientId=client,
        )
    n = len(sizes)
    return pybullet.createMultiBody(
        baseMass=masses[0],
        baseCollisionShapeIndex=solids[0],
        baseVisualShapeIndex=looks[0],
        basePosition=(0, 0, halves[0][2]),
        **_links(
            masses=[*masses[1:], payload_kg],
            collisions=[*solids[1:], -1],
            visuals=[*looks[1:], weight],
            positions=[tuple(place) for place in places[1:]],
            parents=[0] * n,
            joints=[pybullet.JOINT_FIXED] * n,
            axes=[(0, 0, 1)] * n,
        ),
        physicsClientId=client,
    )


def _solid_box(client: int, half: Triple) -> int:
    return pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client)


def _visual_box(client: int, half: Triple, colour: tuple[float, ...]) -> int:
    return pybullet.createVisualShape(
        pybullet.GEOM_BOX, halfExtents=half, rgbaColor=colour, specularColor=(0, 0, 0), physicsClientId=client
    )


@functools.cache
def _ring(radius: float) -> bytes:
    """The ring as Wavefront OBJ."""
    corners = 32
    points, triangles = [], []
    for inner, outer in ((0.0, 0.25), (0.75, 1.0)):
        first = 1 + len(points)
        for k in range(corners):
            angle = 2 * math.pi * k / corners
            points += [(part * radius * math.cos(angle), part * radius * math.sin(angle)) for part in (inner, outer)]
            a, b, c, d = (first + (2 * k + j) % (2 * corners) for j in range(4))
            triangles += [(a, b, d), (a, d, c)]
    lines = [f"v {x:.9f} {y:.9f} 0" for x, y in points] + ["vn 0 0 1"]
    lines += ["f " + " ".join(f"{corner}//1" for corner in triangle) for triangle in triangles]
    return "\n".join([*lines, ""]).encode()


def _links(
    masses: list[float],
    collisions: list[int],
    visuals: list[int],
    positions: list[Any],
    parents: list[int],
    joints: list[int],
    axes: list[Any],
) -> dict[str, Any]:
    """The link arguments of createMultiBody, frames unturned."""
    n = len(masses)
    return {
        "linkMasses": masses,
        "linkCollisionShapeIndices": collisions,
        "linkVisualShapeIndices": visuals,
        "linkPositions": positions,
        "linkOrientations": [(0, 0, 0, 1)] * n,
        "linkInertialFramePositions": [(0, 0, 0)] * n,
        "linkInertialFrameOrientations": [(0, 0, 0, 1)] * n,
        "linkParentIndices": parents,
        "linkJointTypes": joints,
        "linkJointAxis": axes,
    }
