"""Starts nights on a run folder, and ends them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from killing.checks import left_running

START, START_S = "start", 5.0  # before any phase


@dataclass
class Kill:
    """At `share` of the phase's time; or, if there is a `write`, at the `number`th of them."""

    phase: str
    share: float
    write: str = ""
    moment: str = ""
    number: int = 1


class Killer:
    """Starts legs of nights on one run folder, and ends them."""

    def __init__(self, path: Path, hours: float) -> None:
        self.path, self.hours = path, hours
        self.second_nights = 0  # that were begun beside a first
        self.diary = path.with_name(f"{path.name}.phases")
        self.output = path.with_name(f"{path.name}.txt")
        self.refusal = path.with_name(f"{path.name}.second.txt")

    def start(self, kill: Kill | None) -> subprocess.Popen:
        self.diary.write_text("")
        write, moment, number = (kill.write, kill.moment, kill.number) if kill else ("", "", 1)
        victim = Path(__file__).with_name("victim.py")
        command = [sys.executable, str(victim), str(self.diary), write, moment, str(number), "--"]
        command += ["--run", str(self.path), "--hours", str(self.hours), "--wandb", "off"]
        with open(self.output, "ab") as output:
            return self._popen(command, output)

    def phases(self) -> dict[str, tuple[float, float]]:
        """Those that the present leg has begun: the seconds that each may take, and when it began."""
        lines = [line.split() for line in self.diary.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return {name: (float(seconds), float(begun_s)) for name, seconds, begun_s in lines}

    def leg(self, kill: Kill | None) -> tuple[bool, float, list[str], str]:
        """Whether it was killed, the seconds that it ran, what went wrong, and the phase that it was in."""
        wrong: list[str] = []
        begun = time.monotonic()
        process, kill_at, second = self.start(kill), None, None
        try:
            while process.poll() is None:
                phases, now = self.phases(), time.monotonic()
                if kill and not kill.write and kill_at is None:
                    if kill.phase == START:
                        kill_at = begun + kill.share * START_S
                    elif kill.phase in phases:
                        kill_at = now + kill.share * phases[kill.phase][0]
                if phases and second is None and not self.second_nights:
                    second = self._second_night()
                if second is not None and second.poll() is not None and not self.second_nights:
                    wrong += self._refusal(second, process)
                if kill_at is not None and now >= kill_at:
                    process.kill()
                elif now - begun > 3600 * self.hours + 300:
                    wrong.append("it did not end five minutes after its time")
                    process.kill()
                time.sleep(0.005)
        finally:
            for one in (process, second):
                if one is not None:
                    one.kill()
                    one.wait()
        seconds = time.monotonic() - begun
        for one in (process, second):
            if one is not None and (alive := left_running(one.pid)):
                wrong.append(f"left running: {alive}")
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
        killed = process.returncode == -signal.SIGKILL
        if not killed and process.returncode:
            wrong.append(f"ended with {process.returncode}: {self._last_words()}")
        return killed, seconds, wrong, next(reversed(self.phases()), START)

    def _second_night(self) -> subprocess.Popen:
        code = "from dreaming.cli import main; main()"
        command = [sys.executable, "-c", code, "--run", str(self.path), "--hours", "0.01", "--wandb", "off"]
        with open(self.refusal, "wb") as output:
            return self._popen(command, output)

    def _refusal(self, second: subprocess.Popen, first: subprocess.Popen) -> list[str]:
        """What is wrong with it. Nothing is known where the first one ended before the second had asked."""
        said = " ".join(self.refusal.read_text(errors="replace").split())
        if first.poll() is not None:
            return []
        self.second_nights = 1
        if second.returncode == 0 or f"process {first.pid}" not in said:
            return [f"a second night was not refused with process {first.pid}: {second.returncode}, {said[-300:]}"]
        return []

    def _popen(self, command: list[str], output: IO[bytes]) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=environment,
        )  # fmt: skip

    def _last_words(self) -> str:
        return " ".join(self.output.read_text(errors="replace")[-400:].split())
