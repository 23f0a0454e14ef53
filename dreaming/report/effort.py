"""Sections on the night itself: training curves, what was spent, warnings, and how to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dreaming.report.charts import CURVE, Line, line_chart, number, responsive, share_bar
from dreaming.report.data import Report
from dreaming.report.markup import bullets, duration, folded, paragraph, section, table
from dreaming.report.summary import failures, mostly_failing
from worldmodel.tracking import flatten

MOST_POINTS = 240  # of one curve: a page does not need more
PURPOSES = {
    "logs": "recording the logs (the demonstrator at work)",
    "learning": "learning, in a wake",
    "selection": "choosing which policy to keep",
    "audit": "checking dreams",
    "survival": "measuring survival, for this page only",
}
PHASES = {
    "record": "recording logs",
    "learn": "world model",
    "clone": "imitating the logs",
    "dream": "dreaming",
    "wake": "learning from the simulator where dreams are wrong",
    "dream again": "dreaming after the wake",
    "survival": "measuring survival",
    "report": "this report",
}


def training_section(report: Report) -> str:
    training = report.training
    parts = []
    if training.selection:
        parts += [
            "<h3>Choosing the policy</h3>",
            paragraph(
                "Failure rate in the simulator as dreaming went on, on seeds apart from those of the survival table. "
                "A ring marks a policy that was kept; half of what counts is to fail seldom, half to earn much."
            ),
            responsive(lambda width: _selection_chart(training.selection, width)),
        ]
    for heading, rows in (("Learning in dreams", training.dream), ("World model", training.world_model)):
        curves = _curves(rows)
        if curves:
            charts = "".join(f"<div>{_curve_chart(name, points)}</div>" for name, points in curves.items())
            parts += [f"<h3>{heading}</h3>", f'<div class="grid-charts">{charts}</div>']
    return section("training", "Training", *parts) if parts else ""


def spent_section(report: Report) -> str:
    spent, logs = report.spent, report.logs
    phases = [(PHASES.get(name, name), seconds, duration(seconds)) for name, seconds in spent.seconds.items()]
    rows = [
        [escape(PURPOSES.get(purpose, purpose)), f"{steps:,}"] for purpose, steps in spent.simulator_steps.items()
    ] + [
        ["<b>all simulator steps</b>", f"<b>{sum(spent.simulator_steps.values()):,}</b>"],
        [
            f"imagined steps learned from, {number(spent.robot_hours_dreamt)} hours of robot time",
            f"{spent.imagined_steps:,}",
        ],
    ]
    log_rows = [[escape(name), f"{number(low)} to {number(high)}"] for name, (low, high) in logs.physics_ranges.items()]
    return section(
        "spent",
        "What was spent",
        paragraph(f"{duration(sum(spent.seconds.values()))} on {report.machine}.") if phases else "",
        responsive(lambda width: share_bar(phases, width, "Time by phase")),
        table(["simulator steps went to", "steps"], rows),
        folded(
            f"The logs: {logs.episodes:,} episodes, {logs.steps:,} steps",
            table(["factor", "lowest to highest in the logs"], log_rows)
            if log_rows
            else paragraph("The logs name no physics.", "muted"),
        )
        if logs.episodes
        else "",
    )


def warnings_section(report: Report) -> str:
    if not report.warnings:
        return ""
    return section("warnings", "Warnings", bullets(report.warnings))


def next_section(report: Report, run: Path) -> str:
    steps = [(f"dream --run {run} --hours 8", "goes on from where this night ended")]
    worst = mostly_failing(report.survival) or sorted(report.survival, key=lambda c: -failures(c.after).value)
    if worst:
        scenario = worst[0].scenario
        steps.append((f"dream --run {run} --hours 8 --scenario {scenario}", f"dreams only of {scenario}, the weakest"))
    if report.audited:
        steps.append((f"evaluate-policy --run {run}", "measures survival again, with more episodes if you like"))
    steps.append((f"audit-dreams --run {run}", "checks more dreams against the truth"))
    body = "".join(
        f"<p>{escape(why[0].upper() + why[1:])}:</p><pre><code>{escape(command)}</code></pre>" for command, why in steps
    )
    return section("next", "How to go on", body)


def _selection_chart(rows: Sequence[Mapping[str, Any]], width: int) -> str:
    unit, divisor = _time_unit([row["seconds"] for row in rows])
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    lines = [
        Line(
            name,
            [row["seconds"] / divisor for row in rows],
            [_failing(row["scores"].get(name)) for row in rows],
            f"c{i % 8}",
            [bool(row.get("kept")) for row in rows],
        )
        for i, name in enumerate(names)
    ]
    return line_chart(
        lines, width, title="Failure rate by scenario while dreaming", x_label=unit, y_label="episodes that fail, %"
    )


def _failing(score: float | None) -> float | None:
    """Per cent of episodes that fail, as everywhere on the page, from the share that succeeds."""
    return None if score is None else 100 * (1 - score)


def _curve_chart(name: str, points: list[tuple[float, float]]) -> str:
    stride = math.ceil(len(points) / MOST_POINTS)
    thinned = points[::stride] if points[-1] in points[::stride] else [*points[::stride], points[-1]]
    unit, divisor = _time_unit([seconds for seconds, _ in points])
    line = Line(name, [seconds / divisor for seconds, _ in thinned], [value for _, value in thinned], "c0")
    return line_chart([line], CURVE, title=name, x_label=unit, y_label=name.replace("_", " "), height=170)


def _time_unit(seconds: Sequence[float]) -> tuple[str, float]:
    unit, divisor = ("hours", 3600.0) if max(seconds) > 2 * 3600 else ("minutes", 60.0)
    return f"{unit} since the night began", divisor


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """name: [(seconds, value)], nested names joined by a space; `step` and `seconds` are not curves."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in flatten(row, " ").items():
            if name not in ("step", "seconds") and isinstance(value, (int, float)):
                curves.setdefault(name, []).append((row["seconds"], value))
    return curves
