"""Trials and audits beside dreaming: a process of its own is handed snapshots, and gives back what became of them.

Small models dream on one thread, and a second core would idle. `Beside` uses it; `Here` has the same methods and does
the work at once in this process, for machines without a core to spare.

The process cannot cost the night anything but the work it was given: where it dies or hangs, another takes its place,
which tries the work once more; then it is done without.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch

from envs.slots import SimulatorError, first_line
from envs.workers import HANG_S, ProcessLostError, Workers, start_process
from worldmodel.processes import kill, started_by
from worldmodel.speed import prepare_cpu

START_S = 600.0  # allowed beyond that for a process to start: on a busy machine its imports alone take minutes
BEAT_S = 0.5  # the process says at least as often, at work, that it lives
TRIES = 2

Tell = Callable[[str], None]  # called with how far the work is; raises to have it given up
Work = Callable[..., Any]  # called with Workers, a Tell, and the arguments of `begin`


class LostError(Exception):
    """The work was tried twice and is done without; says why."""


class Here:
    """Does the work in this process, when its result is asked for.

    `steps` counts control steps simulated by all works.
    """

    beside = False

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.troubles: list[str] = []
        self._asked: tuple[Work, Sequence[Any]] | None = None

    @property
    def steps(self) -> int:
        return self.workers.steps

    def begin(self, work: Work, *arguments: Any) -> None:
        self._asked = work, arguments

    def look(self) -> None:
        """Nothing goes on meanwhile."""

    def result(self, tell: Tell) -> Any:
        """
        Raises:
            LostError: a simulator failed, or its process was lost, twice.
        """
        assert self._asked is not None
        work, arguments = self._asked  # still asked for if the user stops it
        for last in (False, True):
            try:
                found = work(self.workers, tell, *arguments)
                self._asked = None
                return found
            except (ProcessLostError, SimulatorError) as error:
                how = first_line(error)
                if last:
                    self._asked = None
                    raise LostError(how) from None
                self.troubles.append(f"{how}: what was being tried began anew")

    def close(self) -> None:
        self.workers.close()


class Beside:
    """One work at a time, on `n_envs` environments of the task, in another process on the CPU.

    Args:
        processes: that the other one spreads its environments over; 0: it simulates by itself.
        hang_s: without a sign of life for so long it counts as hung.
    """

    beside = True
    workers = None  # of this process

    def __init__(
        self, task: str, n_envs: int, camera: bool = False, processes: int = 0, hang_s: float = HANG_S
    ) -> None:
        self._setting = (task, n_envs, processes, camera, hang_s, torch.get_float32_matmul_precision())
        self.hang_s = hang_s
        self.steps = 0  # simulated by all works, those of lost ones as far as they were told
        self.troubles: list[str] = []  # what happened to the process, and what was done about it
        self._asked: bytes | None = None
        self._answer: bytes | None = None
        self._tries, self._counted, self._told = 0, 0, ""
        self._alive: list[tuple[Connection, BaseProcess]] = []
        self._finalize = Finalize(self, _end, args=(self._alive,), exitpriority=10)
        self._start()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process at once, whatever it is at."""
        if self._finalize.still_active():
            self._finalize()

    def begin(self, work: Work, *arguments: Any) -> None:
        """Hands over a work, a function of a module, and its arguments as they are now."""
        if self._asked is not None:
            raise RuntimeError("beside: the last work's result has not been asked for")
        # Plain pickle copies tensors. What multiprocessing does with them would show our later updates to the other.
        self._asked, self._answer, self._tries = pickle.dumps((work, arguments)), None, 0
        if not self._alive[0][1].is_alive():  # which is no try of this work
            self._replace("died while idle; another took its place")
        self._send()

    def look(self) -> None:
        """Takes in what the process has said so far, and replaces one that is dead; waits for one alone that hangs as
        it is handed its work."""
        while self._asked is not None and self._answer is None and self._tries <= TRIES and self._read(0.0):
            pass

    def result(self, tell: Tell) -> Any:
        """Waits for the work begun last; `tell` is called meanwhile and may raise.

        Raises:
            LostError: the process died or hung at it, twice.
        """
        assert self._asked is not None
        while self._answer is None:
            if self._tries > TRIES:
                self._asked = None
                raise LostError(self._told)
            if not self._read(0.2) and self._silent_s() > self.hang_s:
                self._lost(f"hung: no sign of life for {self.hang_s:g} s")
            tell(self._told)
        self._asked, answer = None, pickle.loads(self._answer)
        return answer

    def _silent_s(self) -> float:
        return time.monotonic() - self._heard - (0.0 if self._ready else START_S)

    def _start(self) -> None:
        # No daemon, as those may not have processes of their own; it watches this one instead, and ends with it.
        self._alive.append(start_process(_serve, self._setting, self.hang_s, daemon=False))
        self._ready = False  # it has said nothing yet

    def _send(self) -> None:
        self._tries += 1
        self._counted, self._told, self._heard = 0, "", time.monotonic()
        if self._ready:
            self._deliver()

    def _deliver(self) -> None:
        """Only to a process that reads: writing to one that is still starting would wait for it."""
        assert self._asked is not None
        try:
            self._alive[0][0].send_bytes(self._asked)
        except BlockingIOError:
            self._lost(f"hung: it reads nothing for {self.hang_s:g} s")
        except OSError:
            self._died()

    def _read(self, patience_s: float) -> bool:
        """Takes in one message if there is one by then."""
        connection = self._alive[0][0]
        try:
            if not connection.poll(patience_s):
                return False
            steps, self._told, self._answer = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            self._died()
            return True
        self._heard = time.monotonic()
        self.steps, self._counted = self.steps + steps - self._counted, steps
        if not self._ready:
            self._ready = True
            self._deliver()
        return True

    def _died(self) -> None:
        process = self._alive[0][1]
        process.join(timeout=5)
        code = process.exitcode
        self._lost(f"died (signal {-code})" if code is not None and code < 0 else f"died (exit code {code})")

    def _lost(self, how: str) -> None:
        """Puts another process in its place, which tries the work again if that was the first time."""
        again = self._tries < TRIES
        self._replace(
            f"{how}; another took its place" + (" and began anew" if again else ", and the work is done without")
        )
        if again:
            self._send()
        else:
            self._tries, self._told = TRIES + 1, how

    def _replace(self, why: str) -> None:
        _end(self._alive)
        self._start()
        self.troubles.append(f"the process that tries and audits policies {why}")


def _end(alive: list[tuple[Connection, BaseProcess]]) -> None:
    for connection, process in alive:
        connection.close()
        its_own = started_by(process.pid)  # simulators; one that is hung would not notice that it is left alone
        process.kill()
        process.join()
        kill(its_own)
    alive.clear()


# -- the other process ------------------------------------------------------------------------------------------------


class _Beating(Workers):
    """Tells with every call that it lives."""

    tell: Tell = staticmethod(lambda text: None)  # what for, the work says

    def _call(self, method: str, indices: Sequence[int], *arguments: Any, patience_s: float | None = None) -> Any:
        found = super()._call(method, indices, *arguments, patience_s=patience_s)
        self.tell("")
        return found


def _serve(
    connection: Connection, task: str, n_envs: int, processes: int, camera: bool, hang_s: float, precision: str
) -> None:
    # As the simulators': the parent decides when it ends, and gone, it takes this one along even in mid-work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    prepare_cpu()
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(1)
    workers = _Beating(task, n_envs, processes=processes, camera=camera, hang_s=hang_s)
    with workers:
        connection.send_bytes(pickle.dumps((0, "", None)))  # ready
        while True:
            try:
                work, arguments = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return
            before, beat = workers.steps, _beat(connection, workers)
            workers.tell = beat
            answer = pickle.dumps(work(workers, beat, *arguments))
            connection.send_bytes(pickle.dumps((workers.steps - before, "", answer)))


def _beat(connection: Connection, workers: Workers) -> Tell:
    before, last, said = workers.steps, -np.inf, ""

    def tell(text: str) -> None:
        nonlocal last, said
        said = text or said
        if time.monotonic() - last > BEAT_S:
            last = time.monotonic()
            connection.send_bytes(pickle.dumps((workers.steps - before, said, None)))

    return tell
