"""The night's report in Weights & Biases, beside what `worldmodel/tracking.py` logs as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreaming.audit_report import AuditReport
from dreaming.report.data import Report
from dreaming.report.summary import failures, pooled, split
from worldmodel import tracking


class Tracker(tracking.Tracker):
    def log_report(self, run_dir: Path, step: int) -> None:
        """What the page shows: survival, open loop, audit, videos, and the page itself."""
        if self._run is None:
            return
        report = self._guard(lambda: Report.load(run_dir))
        if report is None:
            return
        self.log(summary_scalars(report), step)
        if report.survival:
            self.log_table("survival", *survival_table(report), step=step)
        if report.open_loop is not None:
            loop = report.open_loop
            rows = list(zip(loop.horizon, loop.model, loop.persistence, strict=True))
            self.log_table("open_loop", ["steps_ahead", "model", "persistence"], rows, step)
        if report.audit is not None:
            self.log_table("audit", *audit_table(report.audit), step=step)
        for video in report.videos:
            path = run_dir / video.file
            if path.is_file():
                self.log_video(f"videos/{path.stem}", path, step, video.caption)
        page = run_dir / "report" / "index.html"
        if page.is_file():
            self._send(lambda wandb: {"report": wandb.Html(page.read_text(encoding="utf-8"), inject=False)}, step)


def survival_table(report: Report) -> tuple[list[str], list[list[Any]]]:
    columns = ["scenario", "world", "in_logs", "policy", "episodes", "failures", "failure_rate", "low", "high"]
    columns += ["lost", "return_mean", "return_std", "progress_mean"]
    rows = []
    for cell in report.survival:
        for policy in ("demonstrator", "before", "after"):
            outcome = getattr(cell, policy)
            if outcome is not None:
                share = failures(outcome)
                rows.append(
                    [cell.scenario, cell.label, cell.in_logs, policy, outcome.n, outcome.failures, share.value]
                    + [*share.interval, outcome.lost, outcome.return_mean, outcome.return_std]
                    + [outcome.progress_mean]
                )
    return columns, rows


def audit_table(audit: AuditReport) -> tuple[list[str], list[list[Any]]]:
    """One row a scenario, at its last horizon; medians over dreams."""
    columns = ["scenario", "simulator", "dreams", "trusted", "reason", "steps_ahead", "dream", "persistence"]
    columns += ["sensitivity", "fall_precision", "fall_recall", "reward_bias_per_step", "reward_bias_per_dream"]
    rows: list[list[Any]] = []
    for one in [*audit.scenarios, audit.overall]:
        falls = one.falls[-1] if one.falls else None
        rows.append(
            [one.scenario, audit.simulator, one.dreams, one.trusted, one.reason, _last(one.horizon)]
            + [_last(one.error.median), _last(one.persistence.median)]
            + [_last(one.sensitivity.median) if one.sensitivity else None]
            + [falls.precision if falls else None, falls.recall if falls else None]
            + [one.reward_bias_per_step, one.reward_bias_per_dream]
        )
    return columns, rows


def _last(values: Sequence[float | None]) -> float | None:
    """None where no dream could be repeated."""
    return values[-1] if values else None


def summary_scalars(report: Report) -> dict[str, float]:
    scalars: dict[str, float] = {
        "spent/imagined_steps": report.spent.imagined_steps,
        "spent/robot_hours_dreamt": report.spent.robot_hours_dreamt,
    }
    scalars |= {f"spent/simulator_steps/{name}": steps for name, steps in report.spent.simulator_steps.items()}
    for where, cells in zip(("outside_logs", "in_logs"), split(report.survival), strict=True):
        if cells:
            scalars[f"failure_rate/{where}/before"] = pooled(c.before for c in cells).value
            scalars[f"failure_rate/{where}/after"] = pooled(c.after for c in cells).value
    return scalars
