"""A night to which something happens; what, the first argument says, one of SAYS or several with + between.

    python benchmarks/killing/fault.py FAULT+FAULT -- arguments of `dream`

Simulators get processes of their own, as on a machine of three cores, so that they can be lost. No phase has a least
time, as none has in a night of hours.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from worldmodel.processes import command, started_by

HANG_S = 45.0  # without an answer, for a simulator to count as hung; minutes in a real night
SHARES = {"record": 0.1, "learn": 0.2, "clone": 0.05, "dream": 0.3, "audit": 0.12, "survival": 0.13, "report": 0.1}
# What happens, and what the report must say of it.
SAYS = {
    "nothing": "",
    "loss made NaN": "not finite",
    "simulators killed": "signal 9",
    "simulators crash in C": "signal 11",
    "simulators hang": "hung",
    "disk full": "no space left",
    "W&B killed": "W&B",
    "W&B hung": "W&B",
    "W&B unreachable": "W&B",
    "wall clock set": "the wall clock went",
    "process halted": "nothing happened for",
}


SIGNALS = {
    "simulators killed": (signal.SIGKILL, "spawn_main"),
    "simulators crash in C": (signal.SIGSEGV, "spawn_main"),
    "simulators hang": (signal.SIGSTOP, "spawn_main"),
    "W&B killed": (signal.SIGKILL, "wandb"),
    "W&B hung": (signal.SIGSTOP, "wandb"),
}


def send(number: int, word: str) -> bool:
    """To every process of ours whose command line holds the word; whether there was one."""
    those = [process for process in started_by() if word in command(process)]
    for process in those:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return bool(those)


class Trouble(threading.Thread):
    """Acts while the night goes on; knows the phase, and when it began."""

    def __init__(self, faults: set[str], run: Path) -> None:
        super().__init__(daemon=True)
        self.faults, self.run_folder = faults, run
        self.phase, self.seconds, self.begun = "", 0.0, 0.0
        self.hit: set[tuple[str, str]] = set()  # fault and phase

    def run(self) -> None:
        while True:
            time.sleep(0.05)
            if self.phase and time.monotonic() - self.begun > 0.3 * self.seconds:
                for fault in self.faults - {fault for fault, phase in self.hit if phase in (self.phase, "all")}:
                    self.act(fault)

    def act(self, fault: str) -> None:
        """Kills and halts simulators once a phase, where there are any; all else happens once, while it learns."""
        if fault in SIGNALS:
            number, word = SIGNALS[fault]
            once = word == "wandb"
            if (not once or self.phase in ("learn", "clone")) and send(number, word):
                self.hit.add((fault, "all" if once else self.phase))
        elif self.phase in ("learn", "clone"):
            self.hit.add((fault, "all"))
            if fault == "process halted":
                subprocess.Popen(["/bin/sh", "-c", f"sleep 8; kill -CONT {os.getpid()}"])
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "disk full":
                threading.Thread(target=self.fill, daemon=True).start()

    def fill(self) -> None:
        """Until dreaming is half over."""
        ballast = self.run_folder.parent / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                pass
        while not (self.phase == "dream" and time.monotonic() - self.begun > 0.5 * self.seconds):
            time.sleep(0.05)
        ballast.unlink()


def poisoned(module: Any, name: str, first: int, last: int) -> Any:
    """That function, its loss NaN from one call to another."""
    honest, calls = getattr(module, name), 0

    def loss(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        found = honest(*arguments)
        if not first <= calls < last:
            return found
        return (found[0] * float("nan"), *found[1:]) if isinstance(found, tuple) else found * float("nan")

    return patch.object(module, name, loss)


def impatient(those: Any) -> Any:
    """Theirs count as hung after HANG_S unless it is said otherwise."""
    made = those.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        made(self, *given, **{"hang_s": HANG_S, **named})

    return patch.object(those, "__init__", init)


def main(faults: set[str], arguments: list[str]) -> None:
    import dreaming.beside as beside
    import dreaming.clock as clock
    import dreaming.night as night
    from dreaming import cli
    from dreaming.actor_critic import ActorCritic
    from dreaming.commands import dream
    from envs.workers import Workers
    from worldmodel import trainer

    trouble = Trouble(faults, Path(arguments[arguments.index("--run") + 1]))

    class Night(dream.Night):
        save_every_s = 2.0

        def __init__(self, config, run, budget, listener, *rest) -> None:
            super().__init__(config, run, budget, listener, *rest)
            if "wall clock set" in faults:
                self._jumps = clock.Jumps(wall=lambda: time.time() + 3600 * (trouble.phase not in ("", "record")))
            shown = listener.phase

            def phase(name: str, seconds: float) -> None:
                trouble.phase, trouble.seconds, trouble.begun = name, seconds, time.monotonic()
                print(f"{time.strftime('%X')} {name} {seconds:.0f}", flush=True)
                shown(name, seconds)

            listener.phase = phase

    patches: list[Any] = [
        patch.object(dream, "Night", Night),
        patch.object(dream, "SHARES", [clock.Share(name, share) for name, share in SHARES.items()]),
        impatient(Workers),
        impatient(beside.Beside),
        patch.object(beside, "START_S", HANG_S),  # beyond that, for it to start
        patch.object(os, "sched_getaffinity", lambda pid: {0, 1, 2}),
        patch.object(night, "LEAST_APART_S", 0.0),
        patch.object(clock, "LEAST_HALT_S", 6.0 if "process halted" in faults else clock.LEAST_HALT_S),
        patch.object(sys, "argv", ["dream", *arguments]),
    ]
    if "loss made NaN" in faults:
        patches += [poisoned(trainer, "world_model_loss", 3, 10), poisoned(ActorCritic, "losses", 3, 6)]
    for one in patches:
        one.start()
    trouble.start()
    cli.main()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # whoever kills the benchmark kills its nights
    fault, dashes, *arguments = sys.argv[1:]
    main(set(fault.split("+")), arguments)
