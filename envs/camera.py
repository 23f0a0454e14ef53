"""The camera: TinyRenderer, lit as Physics says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.bullet_engine import pybullet
from envs.physics import Physics

OVERSAMPLING = 2


@dataclass(frozen=True)
class View:
    """Where the camera stands and looks, in metres."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    field_of_view_deg: float = 45.0
    near: float = 0.05
    far: float = 20.0
    light_distance_m: float = 2.0
    background: tuple[int, int, int] | None = None  # in white light; None is TinyRenderer's white
    light_distance_m: float = 2.0  # beyond this from the world's origin, shadows go wrong


def take_picture(client: int, view: View, physics: Physics, width: int, height: int) -> np.ndarray:
    """Returns uint8 (height, width, 3)."""
    azimuth, elevation = math.radians(physics.light_azimuth_deg), math.radians(physics.light_elevation_deg)
    direction = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    # TinyRenderer's shadow map is as coarse as its picture, and speckles: draw larger, then average.
    columns, rows = width * OVERSAMPLING, height * OVERSAMPLING
    _, _, pixels, _, bodies = pybullet.getCameraImage(
        columns,
        rows,
        viewMatrix=pybullet.computeViewMatrix(view.eye, view.target, view.up),
        projectionMatrix=pybullet.computeProjectionMatrixFOV(
            view.field_of_view_deg, width / height, view.near, view.far
        ),
        lightDirection=direction,
        lightDistance=view.light_distance_m,
        lightColor=(physics.light_red, physics.light_green, physics.light_blue),
        lightAmbientCoeff=0.55,
        lightDiffuseCoeff=0.5,
        lightSpecularCoeff=0.03,
        shadow=int(physics.light_shadow),
        renderer=pybullet.ER_TINY_RENDERER,
        physicsClientId=client,
    )
    picture = np.reshape(np.asarray(pixels, np.uint8), (rows, columns, 4))[..., :3].astype(np.uint16)
    if view.background is not None:
        light = (physics.light_red, physics.light_green, physics.light_blue)
        picture[np.reshape(bodies, (rows, columns)) < 0] = np.round(np.multiply(view.background, light))
    total = sum(picture[i::OVERSAMPLING, j::OVERSAMPLING] for i in range(OVERSAMPLING) for j in range(OVERSAMPLING))
    return (np.asarray(total) // OVERSAMPLING**2).astype(np.uint8)
