"""The whole night in order: the evening, the dream, a wake where one is asked for, the morning."""

from pathlib import Path

from dreaming.dreamphase import dream
from dreaming.evening import clone, learn, record_logs
from dreaming.morning import audit, report, survival
from dreaming.night import Night
from dreaming.wake import wake


def all_phases(night: Night) -> Path:
    """Whatever is not done yet, and the page that tells of it; that is written even if the user wants to stop."""
    night.phase("record", record_logs)
    night.phase("learn", learn)
    night.phase("clone", clone)
    night.phase("dream", dream)
    night.phase("wake", wake)
    night.phase("dream again", dream)
    night.phase("audit", audit)
    night.phase("survival", survival)
    pages: list[Path] = []
    night.phase("report", lambda night, phase: pages.append(report(night, phase)), always=True)
    return pages[0]
