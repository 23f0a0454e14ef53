"""Whole nights on a clock that every step sets on, so that hours pass in a minute: do they end in their time?"""

from pathlib import Path

from dreaming.clock import Budget
from dreaming.night import SHARES, Night
from dreaming.phases import all_phases
from dreaming.run import RunFolder

STEPS = 200  # that a night has; the clock is set on by as much with each


class Clock:
    """Listens to a night, and makes its time pass."""

    def __init__(self, step_s: float) -> None:
        self.at, self.step_s = 0.0, step_s
        self.phases: list[tuple[str, float, float]] = []  # name, when it began, and the seconds that it was given

    def now(self) -> float:
        return self.at

    def phase(self, name: str, seconds: float) -> None:
        self.phases.append((name, self.at, seconds))

    def progress(self, share: float, text: str) -> None:
        self.at += self.step_s

    def metrics(self, phase: str, step: int, seconds: float, values: dict) -> None: ...

    def note(self, text: str) -> None: ...


def simulated(path: Path, hours: float) -> tuple[float, Clock]:
    """Seconds that it took beyond its hours, and the clock."""
    run = RunFolder(path)
    clock = Clock(3600 * hours / STEPS)
    night = Night(run.config(), run, Budget(3600 * hours, SHARES, clock.now), clock)
    night.one_process = True
    all_phases(night)
    night.finish()
    return clock.at - 3600 * hours, clock
