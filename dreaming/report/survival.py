"""Sections on what the policy survives: by world, by scenario, and where it still fails."""

from __future__ import annotations

from html import escape
from typing import Any

from dreaming.report.charts import Dot, Row, dot_plot, legend, number, responsive
from dreaming.report.data import Cell, Outcome, Report
from dreaming.report.markup import MANY_ROWS, folded, paragraph, section, table
from dreaming.report.summary import (
    Share,
    failures,
    interval_text,
    mostly_failing,
    percent,
    pooled,
    verdict,
    words,
)

POLICIES = {
    "demonstrator": "demonstrator",
    "before": "before: cloned from the logs",
    "zero_step": "after dreaming, before the wake",
    "after": "after the night",
}
VERDICTS = {
    "fewer": '<span class="good">fewer failures</span>',
    "more": '<span class="bad">more failures</span>',
    "unclear": "no clear change",
}


def survival_section(report: Report) -> str:
    cells = report.survival
    if not report.audited:
        return ""
    if not cells:
        return section(
            "survival",
            "Survival",
            paragraph(f"Not measured: the night ended first ({report.stopped}). Going on with it measures it."),
        )
    counts = sorted({cell.after.n for cell in cells})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    policies = [name for name in POLICIES if any(getattr(cell, name) is not None for cell in cells)]
    groups = [(name, [_row(cell) for cell in group]) for (name,), group in _groups(cells, "scenario")]
    chart = responsive(
        lambda width: dot_plot(
            groups,
            width,
            title="Failure rate by world, before and after dreaming",
            x_label="episodes that fail (less is better), with 95% intervals",
        )
    )
    return section(
        "survival",
        "Survival, before and after",
        f"<p>A failure: {escape(words(report.task).failure)}. Every row is one world in PyBullet, {n} episodes for "
        "each policy, on seeds used for nothing else. Lines are 95% intervals (Wilson). "
        '<span class="swatch"></span> marks worlds that <b>no log holds</b>.</p>',
        legend([(POLICIES[name], name) for name in policies], "dot"),
        f'<div class="chart">{chart}</div>',
        paragraph(_progress_sentence(report)),
        "<h3>By scenario</h3>",
        _scenario_table(cells),
        folded(f"Every world in numbers ({len(cells)})", _world_table(report), unfolded=len(cells) <= MANY_ROWS // 2),
    )


def cannot_section(report: Report) -> str:
    if not report.survival:
        return ""
    cells = mostly_failing(report.survival)
    untested = 'Worlds that are not in the list of <a href="#survival">survival</a> were not tested.'
    if report.refused or report.not_learnable:
        untested += (
            ' <a href="#refused">What these logs cannot teach</a> names those that could not be dreamt well enough to '
            "learn from."
        )
    untested = f"<p>{untested}</p>"
    if not cells:
        none = paragraph("In none of the worlds tested does it fail in more than half of the episodes.")
        return section("cannot", "What the robot still cannot do", none, untested)
    rows = [
        [
            f"{escape(cell.scenario)}: {escape(cell.label)}",
            _rate(cell.after),
            _share(pooled([cell.after], "lost")),
            _rate(cell.before),
            _rate(cell.demonstrator),
        ]
        for cell in cells
    ]
    return section(
        "cannot",
        "What the robot still cannot do",
        paragraph("It fails in more than half of the episodes in these worlds. Do not send it there."),
        table(
            ["world", "fails now", words(report.task).lost, "before", "demonstrator"],
            rows,
            outside=[not cell.in_logs for cell in cells],
        ),
        untested,
    )


def _groups(cells: list[Cell], *by: str) -> list[tuple[tuple[Any, ...], list[Cell]]]:
    """Cells with equal values of the fields `by`, in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, name) for name in by), []).append(cell)
    return list(groups.items())


def _row(cell: Cell) -> Row:
    dots = []
    for name, policy in POLICIES.items():
        outcome: Outcome | None = getattr(cell, name)
        if outcome is not None:
            share = failures(outcome)
            tip = f"{policy}: {outcome.failures} of {outcome.n} fail, {percent(share.value)} ({interval_text(share)})"
            dots.append(Dot(name, share.value, *share.interval, tip))
    return Row(cell.label, dots, outside=not cell.in_logs)


def _scenario_table(cells: list[Cell]) -> str:
    rows, outside, woken = [], [], any(cell.zero_step is not None for cell in cells)
    for (name, in_logs), members in _groups(cells, "scenario", "in_logs"):
        before, after = pooled(c.before for c in members), pooled(c.after for c in members)
        worlds = f"{len(members)} world{'s' if len(members) > 1 else ''}, n\u00a0=\u00a0{after.n}"
        rows.append(
            [
                f"{escape(name)} <small>{worlds}</small>",
                VERDICTS[verdict(after, before)],
                _share(before),
                *[_share(pooled(c.zero_step for c in members if c.zero_step is not None))] * woken,
                _share(after),
            ]
        )
        outside.append(not in_logs)
    columns = ["scenario", "verdict", "fails before", *["before the wake"] * woken, "fails after"]
    return table(columns, rows, left=2, outside=outside) + paragraph(
        "The bar at the left marks worlds that no log holds. “Fewer” and “more” are said only where the 95% interval "
        "of the difference (Newcombe) excludes zero.",
        "muted",
    )


def _world_table(report: Report) -> str:
    woken = any(cell.zero_step is not None for cell in report.survival)
    columns = ["world", "n", "demonstrator fails", "before fails", *["before the wake"] * woken, "after fails"]
    columns += [f"{words(report.task).lost}, of n"]
    columns += ["return, mean ± sd"]
    progress = any(cell.after.progress_mean is not None for cell in report.survival)
    if progress:
        columns += [words(report.task).progress]
    rows = []
    for cell in report.survival:
        before, after = cell.before, cell.after
        row = [f"{escape(cell.scenario)}: {escape(cell.label)}", str(after.n)]
        row += [_rate(cell.demonstrator), _rate(before), *[_rate(cell.zero_step)] * woken, _rate(after)]
        row += [f"{before.lost} → {after.lost}"]
        row += [f"{_return(before)}<br>→ {_return(after)}"]
        if progress:
            row += [f"{number(before.progress_mean)} → {number(after.progress_mean)}"]
        rows.append(row)
    return table(columns, rows, outside=[not cell.in_logs for cell in report.survival])


def _progress_sentence(report: Report) -> str:
    """A robot that stands still does not fall: survival is worth little without this."""
    means = [
        (cell.before.progress_mean, cell.after.progress_mean, cell.after.n)
        for cell in report.survival
        if cell.before.progress_mean is not None and cell.after.progress_mean is not None
    ]
    if not means:
        return ""
    n = sum(n for *_, n in means)
    before, after = (sum(mean[k] * mean[2] for mean in means) / n for k in (0, 1))
    return (
        f"Not failing could be bought by doing nothing, so see the progress too ({words(report.task).progress}): "
        f"{number(after)} on average over all worlds after the night, {number(before)} before."
    )


def _share(share: Share) -> str:
    return f"{percent(share.value)} <small>{interval_text(share)}</small>"


def _rate(outcome: Outcome | None) -> str:
    return "–" if outcome is None else _share(failures(outcome))


def _return(outcome: Outcome) -> str:
    return f"{number(outcome.return_mean)} ± {number(outcome.return_std, 2)}"
