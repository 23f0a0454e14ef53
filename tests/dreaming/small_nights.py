"""Whole nights, seconds long."""

import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 24.0
# No leasts, as in a real night, which is not over in seconds.
SHARES = {"record": 0.05, "learn": 0.12, "clone": 0.05, "dream": 0.36, "audit": 0.12, "survival": 0.15, "report": 0.15}


@dataclass
class Small:
    """A night's folder, and how long it took."""

    path: Path
    seconds: float
    metrics: list[str]
    phases: list[str]


class Ears:
    """Listens to a night."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.heard: list[str] = []
        self.notes: list[str] = []

    def phase(self, name, seconds):
        self.phases.append(name)

    def progress(self, share, text):
        assert share >= 0 and text

    def metrics(self, phase, step, seconds, values):
        self.heard.append(phase)

    def note(self, text):
        self.notes.append(text)


def small_config(task="push-box", **changed):
    from dreaming.run import NightConfig

    settings = {"task": task, "size": "debug", "scenario": "slippery,latency", "episodes": 24, "film_steps": 8}
    return NightConfig(**{**settings, "audit_horizon": 5, **changed})


def play(path: Path, seconds: float = SECONDS, **changed) -> tuple[Ears, float]:
    """One night, or what is left of it, in this process."""
    from dreaming.clock import Budget, Share
    from dreaming.night import Night
    from dreaming.phases import all_phases
    from dreaming.run import RunFolder

    run, ears = RunFolder(path), Ears()
    if not run.exists:
        run.create(small_config(**changed))
    shares = [Share(name, share) for name, share in SHARES.items()]
    begun = time.monotonic()
    night = Night(run.config(), run, Budget(seconds, shares), ears)
    all_phases(night)
    night.finish()
    return ears, time.monotonic() - begun
