"""The environments of one process, and the life of a process that holds some for others (`envs.workers`)."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from configs import UserError
from envs import registry
from envs.physics import Physics
from worldmodel.episode import Episode

Arrays = dict[str, np.ndarray]
SCALARS = {
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "push": np.float32,
    "progress": np.float32,
    "success": np.bool_,
    "failure": np.bool_,
}


class SimulatorError(RuntimeError):
    """PyBullet, or an environment, failed in the midst of a call; the environments of that call must begin anew."""


def first_line(error: Exception) -> str:
    """What a simulator's error says, without the traceback that it carries."""
    return str(error).strip().splitlines()[0].rstrip(":")


class Slots:
    """The environments of one process, made when first used."""

    def __init__(self, task: str, camera: bool) -> None:
        self._task, self._camera = task, camera
        self._envs: dict[int, Any] = {}

    def call(self, method: str, slots: list[int], *arguments: Sequence | np.ndarray) -> Arrays:
        act: Callable[..., Arrays] = getattr(self, "_" + method)
        try:
            rows = [act(self._env(slot), *row) for slot, row in zip(slots, zip(*arguments, strict=True), strict=True)]
        except UserError:
            raise
        except Exception as error:
            raise SimulatorError(f"a simulator of {self._task} failed:\n{traceback.format_exc()}") from error
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _env(self, slot: int) -> Any:
        if slot not in self._envs:
            self._envs[slot] = registry.make(self._task, camera=self._camera)
        return self._envs[slot]

    def _reset(self, env: Any, seed: int, physics: Physics) -> Arrays:
        return _as_dict(env.reset(seed=seed, options={"physics": physics})[0])

    def _start_at(self, env: Any, episode: Episode, step: int, physics: Physics | None) -> Arrays:
        from envs.bullet import start_at

        return _as_dict(start_at(env, episode, step, physics))

    def _step(self, env: Any, action: np.ndarray) -> Arrays:
        """All numbers in one row, "vector": one array crosses a pipe much faster than nine."""
        observation, reward, terminated, truncated, info = env.step(action)
        observation = _as_dict(observation)
        values = {"reward": reward, "terminated": terminated, "truncated": truncated, **info}
        scalars = np.array([values[name] for name in SCALARS], np.float32)
        return {**observation, "vector": np.concatenate([scalars, info["applied_action"], observation["vector"]])}

    def _perturb(self, env: Any, seed: int, scale: np.ndarray) -> Arrays:
        env.perturb(np.random.default_rng(seed), scale)
        return {}


def _as_dict(observation: np.ndarray | Arrays) -> Arrays:
    return observation if isinstance(observation, dict) else {"vector": observation}


def serve(connection: Connection, task: str, camera: bool) -> None:
    """A worker's life: ends when told to, or when the parent is gone (its end of the pipe closes)."""
    # Ctrl-C and a kill of the whole group reach the workers too; the parent decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    slots = Slots(task, camera)
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            break
        if message is None:
            break
        try:
            answer: Arrays | Exception = slots.call(message[0], message[1], *message[2:])
        except (UserError, SimulatorError) as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:
            break
    slots.close()
