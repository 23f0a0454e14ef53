"""The tasks by name."""

from __future__ import annotations

import importlib

from configs import UserError, suggest
from envs.physics import Physics, PhysicsRange

TASKS: dict[str, tuple[str, str]] = {
    "push-box": ("envs.tasks.push_box", "PushBox"),
    "hopper": ("envs.tasks.hopper", "Hopper"),
}


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
