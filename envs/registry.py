"""The tasks by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from configs import UserError, suggest
from envs.experts.ant import AntPlayer, ant_expert
from envs.experts.hopper import HopperPlayer, hopper_expert
from envs.experts.push_box import BoxPlayer, push_box_expert
from envs.experts.rover import RoverPlayer, rover_expert
from envs.physics import Physics, PhysicsRange
from worldmodel.storage import make_schema


class Expert(Protocol):
    """A demonstrator without memory."""

    def __call__(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Action (A,) in [-1, 1] for a vector observation (D,)."""
        ...


class Player(Protocol):
    """Does something with the machine for its own sake: play, made anew for each row."""

    def begin(self, rng: np.random.Generator) -> None:
        """An episode begins."""
        ...

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An action (A,) for a vector observation (D,)."""
        ...


@dataclass(frozen=True)
class Entry:
    """What starter logs of a task are recorded with, and where the task is."""

    module: str  # imports PyBullet
    name: str
    expert: Expert
    player: Callable[[], Player]
    noise: tuple[float, float]  # of the demonstrator, from and to, an episode at a time: standard deviations of actions
    play: float  # share of the episodes


TASKS = {
    "push-box": Entry("envs.tasks.push_box", "PushBox", push_box_expert, BoxPlayer, (0.0, 0.4), 0.5),
    # Play of hopper is short, as it ends with a fall.
    "hopper": Entry("envs.tasks.hopper", "Hopper", hopper_expert, HopperPlayer, (0.0, 0.2), 0.8),
    "ant": Entry("envs.tasks.ant", "Ant", ant_expert, AntPlayer, (0.0, 0.2), 0.5),
    "rover": Entry("envs.tasks.rover", "Rover", rover_expert, RoverPlayer, (0.0, 0.3), 0.5),
}


def entry(task: str) -> Entry:
    """`UserError` where there is no such task."""
    if task not in TASKS:
        raise UserError(f"task {suggest(task, TASKS)}")
    return TASKS[task]


def task_class(task: str):
    """Imports the task, and PyBullet with it; `UserError` where there is no such task or no PyBullet."""
    found = entry(task)
    try:
        return getattr(importlib.import_module(found.module), found.name)
    except ModuleNotFoundError as error:
        if error.name != "pybullet":
            raise
        raise UserError(
            "PyBullet is not installed here, so there is no simulator; it has wheels for Python 3.11: "
            "`pip install pybullet` in an environment of that version; nights on logs (--data) do without"
        ) from None


def simulated(task: str) -> bool:
    """Whether it can be simulated here: the task is one of ours, and PyBullet is installed."""
    return task in TASKS and importlib.util.find_spec("pybullet") is not None


def no_simulator(task: str) -> str:
    """Says why it is not `simulated`."""
    return f"there is no simulator of {task}" + (" here, as PyBullet is not installed" if task in TASKS else "")


def make(task: str, camera: bool = False, physics: Physics | None = None):
    """Returns the task's BulletEnv; close it when done (about 28 MB each)."""
    return task_class(task)(camera=camera, physics=physics)


def nominal(task: str) -> Physics:
    return task_class(task).nominal


def log_ranges(task: str) -> PhysicsRange:
    """What `record-rollouts` draws from unless told otherwise: the worlds that starter logs know."""
    return dict(task_class(task).log_ranges)


def schema(task: str, camera: bool = False) -> dict[str, Any]:
    """The schema of a log of this task."""
    cls = task_class(task)
    actions = len(cls.action_names)
    bounds = [-1.0] * actions, [1.0] * actions
    image = (64, 64, 3) if camera else None
    return make_schema(cls.task_name, cls.control_hz, cls.observation_names, cls.action_names, *bounds, image)
