"""What the night hands to its report: run/report/data.json. Plain numbers only, so that anybody can read it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import UserError, from_dict
from dreaming.audit_report import AuditReport, Curve


@dataclass
class Outcome:
    """One policy in one cell, judged in the simulator on seeds used for nothing else."""

    n: int  # episodes
    failures: int
    lost: int  # the failures that cannot be taken back: box over the edge, robot fallen
    return_mean: float
    return_std: float  # between episodes
    progress_mean: float | None = None  # in the task's own measure; a robot that stands still does not fall


@dataclass
class Cell:
    """One world of one scenario. `in_logs`: every factor lies within what the logs hold."""

    scenario: str
    label: str  # e.g. "floor_friction 0.08"
    in_logs: bool
    before: Outcome  # the behaviour cloning start
    after: Outcome  # the best audited policy
    demonstrator: Outcome | None = None
    zero_step: Outcome | None = None  # the best policy before the wake, where there was one


@dataclass
class Channel:
    name: str
    unit: str  # empty where the name ends in it, as in box_vx_m_s
    model: Curve  # error in the channel's own unit, one per entry of OpenLoop.horizon
    persistence: Curve


@dataclass
class OpenLoop:
    """Held-out logs: the model sees the start and the actions, never the later observations."""

    horizon: list[int]  # control steps
    model: Curve  # RMSE over all channels, each divided by its standard deviation in the logs
    persistence: Curve  # the same for "the robot stands still"
    channels: list[Channel] = field(default_factory=list)


@dataclass
class Training:
    """Curves. Rows may hold any scalars besides `step` and `seconds` (since the night began)."""

    world_model: list[dict[str, Any]] = field(default_factory=list)  # {"step", "seconds", "loss": {name: value}}
    dream: list[dict[str, Any]] = field(default_factory=list)  # {"step", "seconds", "imagined_return", ...}
    selection: list[dict[str, Any]] = field(default_factory=list)
    # {"night", "seconds", "scores": {scenario: success rate in [0, 1]}, "kept": bool}; a night's first is of its clone
    night: int = 0  # this one, counted from 0


@dataclass
class Spent:
    simulator_steps: dict[str, int] = field(default_factory=dict)  # logs, learning, selection, audit, survival
    imagined_steps: int = 0  # imagined and learned from
    robot_hours_dreamt: float = 0.0  # imagined_steps over the control rate
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, in order


@dataclass
class Video:
    file: str  # below the run folder
    caption: str


@dataclass
class Refused:
    scenario: str
    reason: str


@dataclass
class Factor:
    """How far one factor of physics was followed beyond the logs; pairs are (lowest, highest) in its unit."""

    name: str
    unit: str
    explored: list[float]  # as far as anything was looked at
    logged: list[float]
    calibrated: list[float]  # that far held-out logs vouch for dreams
    trusted: list[float]  # that far dreams may go, by audits too
    reach: list[float]  # that far they went
    refused: list[list[float]] = field(default_factory=list)  # cells in which an audit bore no dreams out
    logarithmic: bool = False


@dataclass
class Explored:
    """What a night found that was to find its own what-ifs."""

    factors: list[Factor] = field(default_factory=list)
    growth: list[dict[str, Any]] = field(default_factory=list)  # {"seconds", factor: [lowest, highest] of the reach}
    failing: list[str] = field(default_factory=list)  # the worst worlds that the last search met, in words


@dataclass
class Logs:
    episodes: int = 0
    steps: int = 0
    physics_ranges: dict[str, list[float]] = field(default_factory=dict)  # factor: [lowest, highest] in the logs


@dataclass
class Report:
    task: str
    started: str  # ISO 8601
    finished: str
    hours: float  # asked for
    machine: str
    version: str
    command: str
    audited: bool  # in a simulator; if not, `survival` is empty and the page says so at its top
    stopped: str  # why the night ended
    headline: str = ""  # empty: summary.headline(report) writes it from the numbers below
    survival: list[Cell] = field(default_factory=list)
    open_loop: OpenLoop | None = None
    audit: AuditReport | None = None
    refused: list[Refused] = field(default_factory=list)
    not_learnable: list[str] = field(default_factory=list)  # what these logs cannot teach
    explored: Explored | None = None
    training: Training = field(default_factory=Training)
    spent: Spent = field(default_factory=Spent)
    videos: list[Video] = field(default_factory=list)
    logs: Logs = field(default_factory=Logs)
    warnings: list[str] = field(default_factory=list)

    def save(self, run: Path) -> Path:
        """Writes run/report/data.json, complete or not at all. What is not finite becomes null."""
        path = data_path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, json.dumps(_plain(dataclasses.asdict(self)), indent=1, allow_nan=False))
        return path

    @classmethod
    def load(cls, run: Path) -> Report:
        path = data_path(run)
        try:
            mapping = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing: no night has ended in {run} yet; dream --run {run} makes one"
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}); dream --run {run} writes it anew") from None
        return from_dict(cls, mapping, where=str(path))


def data_path(run: Path) -> Path:
    return Path(run) / "report" / "data.json"


def write_aside(path: Path, text: str) -> None:
    """Write aside, flush to disk, rename: a crash leaves the old file."""
    aside = path.with_name(path.name + ".part")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays to Python's own; JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and value - value != 0.0:  # inf - inf and nan - nan are nan
        return None
    return value
