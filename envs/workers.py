"""Many environments in lockstep, in worker processes: one message a process and a call, no shared state.

What an environment does depends on the seed and the physics it is given, never on the slot or the process it sits in.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import struct
import time
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
from envs.slots import SCALARS, Arrays, Slots, serve
from worldmodel.episode import Episode

HANG_S = 120.0  # without an answer for so long, and what replays take, a process counts as hung
REPLAYED_STEP_S = 0.05  # allowed for each step of a replay: much more than it takes
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ProcessLostError(UserError):
    """A simulator process died or hung. Another is in its place: environments of the failed call must begin anew."""


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

    Calls raise `ProcessLostError` where a process died, or gave no answer for `hang_s` seconds, and `SimulatorError`
    where an environment failed. Both leave the workers usable; which environments had done the call is not known.
    """

    def __init__(
        self, task: str, n_envs: int, processes: int | None = None, camera: bool = False, hang_s: float = HANG_S
    ) -> None:
        if n_envs < 1:
            raise UserError(f"workers: n_envs = {n_envs}; at least 1 is needed")
        if processes is None:
            processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        registry.nominal(task)  # an unknown task is an error here, not in a process
        self.task, self.n_envs, self.camera = task, n_envs, camera
        self.processes = min(processes, n_envs)
        self.steps, self.hang_s = 0, hang_s
        self.told: Callable[[str], None] = lambda text: None  # hears of each process that was lost
        self._local = Slots(task, camera) if self.processes == 0 else None
        self._connections: list[Connection] = []
        self._started: list[BaseProcess] = []
        # Runs at exit too, before multiprocessing waits for its children.
        self._finalize = Finalize(self, _shut_down, args=(self._connections, self._started), exitpriority=10)
        try:
            for _ in range(self.processes):
                connection, process = self._start_process()
                self._connections.append(connection)
                self._started.append(process)
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
        patience_s = self.hang_s + REPLAYED_STEP_S * sum(until)
        observation = self._call("start_at", indices, shortened, until, list(physics), patience_s=patience_s)
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

    def _call(
        self, method: str, indices: Sequence[int], *arguments: Sequence | np.ndarray, patience_s: float | None = None
    ) -> Arrays:
        """Row k of every argument belongs to environment indices[k]; so does row k of the answer."""
        slots = np.asarray(indices, np.int64)
        self._check(method, slots, arguments)
        if self._local is not None:
            return self._local.call(method, slots.tolist(), *arguments)
        owner = slots % self.processes
        rows = {process: np.flatnonzero(owner == process) for process in np.unique(owner).tolist()}
        until = time.monotonic() + (self.hang_s if patience_s is None else patience_s)
        try:
            asked = {}
            for process, mine in rows.items():
                message = (method, slots[mine].tolist(), *(_take(values, mine) for values in arguments))
                asked[process] = self._send(process, message)
            # Every answer is read, whatever the others are: the next question must not get an old one.
            replies = [lost or self._receive(process, until) for process, lost in asked.items()]
            for process, reply in zip(rows, replies, strict=True):
                if isinstance(reply, ProcessLostError):
                    self._replace(process)
                    self.told(f"{reply}; another took its place")
        except BaseException:
            # Interrupted: a question without its answer read. Nothing after it could be trusted.
            self.close()
            raise
        failures = [reply for reply in replies if isinstance(reply, BaseException)]
        if failures:
            raise next((one for one in failures if isinstance(one, ProcessLostError)), failures[0])
        order = np.argsort(np.concatenate(list(rows.values())))
        answers = [reply for reply in replies if isinstance(reply, dict)]
        return {name: np.concatenate([answer[name] for answer in answers])[order] for name in answers[0]}

    def _check(self, method: str, slots: np.ndarray, arguments: Sequence[Sequence | np.ndarray]) -> None:
        lengths = [len(values) for values in arguments]
        if slots.ndim != 1 or not len(slots) or any(length != len(slots) for length in lengths):
            raise ValueError(f"workers: {method} got {slots.size} indices with arguments of {lengths} rows")
        if slots.min() < 0 or slots.max() >= self.n_envs or len(np.unique(slots)) != len(slots):
            raise ValueError(f"workers: {method} wants different indices from 0 to {self.n_envs - 1}: {slots.tolist()}")
        if self.processes and not self._connections:
            raise RuntimeError(f"workers: {method} after close")

    def _start_process(self) -> tuple[Connection, BaseProcess]:
        return start_process(serve, (self.task, self.camera), self.hang_s)

    def _replace(self, process: int) -> None:
        self._connections[process].close()
        self._started[process].kill()
        self._started[process].join()
        self._connections[process], self._started[process] = self._start_process()

    def _send(self, process: int, message: tuple) -> ProcessLostError | None:
        try:
            self._connections[process].send(message)
        except BlockingIOError:
            return self._hung(process)
        except OSError:
            return self._died(process)

    def _receive(self, process: int, until: float) -> Arrays | Exception:
        """The answer, or what went wrong; waits no longer than to `until` on the monotonic clock."""
        connection = self._connections[process]
        try:
            if connection.poll(max(0.0, until - time.monotonic())):
                return connection.recv()
        except (EOFError, OSError):
            return self._died(process)
        return self._hung(process)

    def _hung(self, process: int) -> ProcessLostError:
        return ProcessLostError(f"{self._name(process)} hung: no answer in time")

    def _died(self, process: int) -> ProcessLostError:
        self._started[process].join(timeout=5)
        code = self._started[process].exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "; the machine may have run out of memory: use fewer processes or environments" if code == -9 else ""
        return ProcessLostError(f"{self._name(process)} died ({how}){hint}")

    def _name(self, process: int) -> str:
        return f"simulator process {process + 1} of {self.processes} ({self.task})"


def put(current: Arrays, rows: Sequence[int] | np.ndarray, values: Arrays, n_rows: int) -> None:
    """Writes observations (k, ...) over these rows of what all rows see, which begins as an empty dictionary."""
    for name, new in values.items():
        if name not in current:
            current[name] = np.zeros((n_rows, *new.shape[1:]), new.dtype)
        current[name][rows] = new


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


def start_process(
    target: Callable[..., None], arguments: Sequence[Any], hang_s: float, daemon: bool = True
) -> tuple[Connection, BaseProcess]:
    """A process that runs `target(connection, *arguments)`, and our end of that connection.

    It gets one thread, and is not interrupted before it has said what it does about that. Sending to it raises
    BlockingIOError if it does not read for `hang_s` seconds, or for twice as long where some of a message went through.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=daemon)
    with _one_thread(), _interrupts_held():
        process.start()
    theirs.close()
    # A process that has stopped reading must not hold up who writes to it either.
    with socket.socket(fileno=os.dup(ours.fileno())) as pipe:
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", math.ceil(hang_s), 0))
    return ours, process


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
