"""Many environments in lockstep, in worker processes: one message a process and a call, no shared state.

What an environment does depends on the seed and the physics it is given, never on the slot or the process it sits in.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
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
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Steps:
    """What one `step` gave, one row an environment, in the order of the indices."""

    observation: Arrays
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: Arrays  # applied_action (n, A); push (m/s), success, failure, progress: (n,)


class Workers:
    """`n_envs` environments of one task, spread over `processes` (0: in this process; None: one a core).

    `steps` counts every control step simulated since the start, replays included.
    """

    def __init__(self, task: str, n_envs: int, processes: int | None = None, camera: bool = False) -> None:
        if n_envs < 1:
            raise UserError(f"workers: n_envs = {n_envs}; at least 1 is needed")
        if processes is None:
            processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        registry.nominal(task)  # an unknown task is an error here, not in a process
        self.task, self.n_envs, self.camera = task, n_envs, camera
        self.processes = min(processes, n_envs)
        self.steps = 0
        self._local = _Slots(task, camera) if self.processes == 0 else None
        self._connections: list[Connection] = []
        self._started: list[BaseProcess] = []
        # Runs at exit too, before multiprocessing waits for its children.
        self._finalize = Finalize(self, _shut_down, args=(self._connections, self._started), exitpriority=10)
        try:
            for _ in range(self.processes):
                self._start_process()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._local is not None:
            self._local.close()
        if self._finalize.still_active():
            self._finalize()

    def reset(self, indices: Sequence[int], seeds: Sequence[int], physics: Sequence[Physics]) -> Arrays:
        """Starts new episodes in the environments named; the others stay as they are."""
        return self._call("reset", indices, [int(seed) for seed in seeds], list(physics))

    def start_at(
        self,
        indices: Sequence[int],
        episodes: Sequence[Episode],
        steps: Sequence[int],
        physics: Sequence[Physics | None],
    ) -> Arrays:
        """Replays each logged episode up to its step, then switches to `physics` (None: as logged)."""
        until = [int(step) for step in steps]
        shortened = [_shorten(episode, step) for episode, step in zip(episodes, until, strict=True)]
        observation = self._call("start_at", indices, shortened, until, list(physics))
        self.steps += sum(until)
        return observation

    def step(self, indices: Sequence[int], actions: np.ndarray) -> Steps:
        actions = np.asarray(actions, np.float32)
        reply = self._call("step", indices, actions)
        self.steps += len(indices)
        scalars, applied_action, vector = np.split(reply["vector"], [len(SCALARS), len(SCALARS) + actions.shape[1]], 1)
        named = {name: scalars[:, k].astype(kind) for k, (name, kind) in enumerate(SCALARS.items())}
        return Steps(
            observation={**reply, "vector": vector},
            reward=named.pop("reward"),
            terminated=named.pop("terminated"),
            truncated=named.pop("truncated"),
            info={"applied_action": applied_action, **named},
        )

    def perturb(self, indices: Sequence[int], seeds: Sequence[int], scale: np.ndarray) -> None:
        """Kicks each true state by about `scale` (D,), in the channels' units."""
        scale = np.asarray(scale, np.float64)
        self._call("perturb", indices, [int(seed) for seed in seeds], [scale] * len(indices))

    def _call(self, method: str, indices: Sequence[int], *arguments: Sequence | np.ndarray) -> Arrays:
        """Row k of every argument belongs to environment indices[k]; so does row k of the answer."""
        slots = np.asarray(indices, np.int64)
        self._check(method, slots, arguments)
        if self._local is not None:
            return self._local.call(method, slots.tolist(), *arguments)
        owner = slots % self.processes
        rows = {process: np.flatnonzero(owner == process) for process in np.unique(owner).tolist()}
        try:
            for process, mine in rows.items():
                self._send(process, (method, slots[mine].tolist(), *(_take(values, mine) for values in arguments)))
            replies = [self._receive(process) for process in rows]
        except BaseException:
            # A question without its answer read: nothing after it could be trusted.
            self.close()
            raise
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        order = np.argsort(np.concatenate(list(rows.values())))
        return {name: np.concatenate([reply[name] for reply in replies])[order] for name in replies[0]}

    def _check(self, method: str, slots: np.ndarray, arguments: Sequence[Sequence | np.ndarray]) -> None:
        lengths = [len(values) for values in arguments]
        if slots.ndim != 1 or not len(slots) or any(length != len(slots) for length in lengths):
            raise ValueError(f"workers: {method} got {slots.size} indices with arguments of {lengths} rows")
        if slots.min() < 0 or slots.max() >= self.n_envs or len(np.unique(slots)) != len(slots):
            raise ValueError(f"workers: {method} wants different indices from 0 to {self.n_envs - 1}: {slots.tolist()}")
        if self.processes and not self._connections:
            raise RuntimeError(f"workers: {method} after close, or after a process was lost")

    def _start_process(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.task, self.camera), daemon=True)
        with _one_thread(), _interrupts_held():
            process.start()
        theirs.close()
        self._connections.append(ours)
        self._started.append(process)

    def _send(self, process: int, message: tuple) -> None:
        try:
            self._connections[process].send(message)
        except OSError:
            raise self._lost(process) from None

    def _receive(self, process: int) -> Any:
        try:
            return self._connections[process].recv()
        except (EOFError, OSError):
            raise self._lost(process) from None

    def _lost(self, process: int) -> UserError:
        self._started[process].join(timeout=5)
        code = self._started[process].exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "; the machine may have run out of memory: use fewer processes or environments" if code == -9 else ""
        return UserError(f"simulator process {process + 1} of {self.processes} ({self.task}) died ({how}){hint}")


def _take(values: Sequence | np.ndarray, rows: np.ndarray) -> Sequence | np.ndarray:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


def _shorten(episode: Episode, step: int) -> Episode:
    """What a replay to `step` needs, so that a late camera episode does not cross the pipe whole."""
    if not 0 <= step <= len(episode.action):
        raise UserError(f"workers: step {step} lies outside an episode of {len(episode.action)} steps")
    return Episode(
        observation={"vector": episode.observation["vector"][: step + 1]},
        action=episode.action[:step],
        applied_action=episode.applied_action[:step],
        reward=episode.reward[:step],
        push=episode.push[:step],
        terminated=False,
        truncated=True,
        physics=episode.physics,
        info=episode.info,
    )


class _Slots:
    """The environments of one process, made when first used."""

    def __init__(self, task: str, camera: bool) -> None:
        self._task, self._camera = task, camera
        self._envs: dict[int, Any] = {}

    def call(self, method: str, slots: list[int], *arguments: Sequence | np.ndarray) -> Arrays:
        act: Callable[..., Arrays] = getattr(self, "_" + method)
        rows = [act(self._env(slot), *row) for slot, row in zip(slots, zip(*arguments, strict=True), strict=True)]
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


def _serve(connection: Connection, task: str, camera: bool) -> None:
    """A worker's life: ends when told to, or when the parent is gone (its end of the pipe closes)."""
    # Ctrl-C and a kill of the whole group reach the workers too; the parent decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    slots = _Slots(task, camera)
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            break
        if message is None:
            break
        try:
            answer: Arrays | Exception = slots.call(message[0], message[1], *message[2:])
        except UserError as error:
            answer = error
        except Exception:
            answer = RuntimeError(f"a simulator process of {task} failed:\n{traceback.format_exc()}")
        try:
            connection.send(answer)
        except OSError:
            break
    slots.close()


def _shut_down(connections: list[Connection], processes: list[BaseProcess]) -> None:
    for connection in connections:
        try:
            connection.send(None)
            connection.close()
        except OSError:
            connection.close()
    for process in processes:
        process.join(timeout=5)
        if process.is_alive():
            process.kill()
            process.join()
    connections.clear()
    processes.clear()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A child reads its number of threads from the environment, before any of our code runs in it."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """A child inherits the mask, so Ctrl-C cannot end it before it has said that it ignores it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
