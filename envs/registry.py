"""The tasks by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from configs import UserError, suggest
from envs.experts.hopper import HopperPlayer
from envs.experts.push_box import BoxPlayer
from envs.physics import Physics, PhysicsRange
from worldmodel.storage import make_schema

TASKS: dict[str, tuple[str, str]] = {
    "push-box": ("envs.tasks.push_box", "PushBox"),
    "hopper": ("envs.tasks.hopper", "Hopper"),
}
POLICY_NOISE = {"push-box": (0.0, 0.4), "hopper": (0.0, 0.2)}  # standard deviations, in units of the action
# Share of a recording's episodes that are play; those of hopper are short.
PLAY = {"push-box": 0.5, "hopper": 0.8}
PLAYERS = {"push-box": BoxPlayer, "hopper": HopperPlayer}


def task_class(task: str):
    """Imports the task, and PyBullet with it; `UserError` where there is no such task or no PyBullet."""
    if task not in TASKS:
        raise UserError(f"task {suggest(task, TASKS)}")
    module, name = TASKS[task]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != "pybullet":
            raise
        raise UserError(
            "PyBullet is not installed here, so there is no simulator; it has wheels for Python 3.11: "
            "`pip install pybullet` in an environment of that version"
        ) from None


def make(task: str, camera: bool = False, physics: Physics | None = None):
    """Returns the task's BulletEnv; close it when done (about 28 MB each)."""
    return task_class(task)(camera=camera, physics=physics)


def nominal(task: str) -> Physics:
    return task_class(task).nominal


def log_ranges(task: str) -> PhysicsRange:
    """What `record-rollouts` draws from unless told otherwise: the worlds that starter logs know."""
    return dict(task_class(task).log_ranges)


def policy_noise(task: str) -> tuple[float, float]:
    """What the demonstrator's noise is drawn from, an episode at a time, unless told otherwise."""
    task_class(task)
    return POLICY_NOISE[task]


def play(task: str) -> float:
    """Share of a recording's episodes that are play, unless told otherwise."""
    task_class(task)
    return PLAY[task]


def player(task: str) -> Callable[[], Any]:
    """Makes one who plays (envs.record.Player)."""
    task_class(task)
    return PLAYERS[task]


def schema(task: str, camera: bool = False) -> dict[str, Any]:
    """The schema of a log of this task."""
    cls = task_class(task)
    actions = len(cls.action_names)
    bounds = [-1.0] * actions, [1.0] * actions
    image = (64, 64, 3) if camera else None
    return make_schema(cls.task_name, cls.control_hz, cls.observation_names, cls.action_names, *bounds, image)
