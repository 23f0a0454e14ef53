"""Sections on how far a dream can be believed: open loop on held-out logs, and the audit against PyBullet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from dreaming.audit_report import AuditReport, Curve, Falls, ScenarioAudit, why_not_replayed
from dreaming.report.charts import CURVE, Line, line_chart, number, responsive, sparkline
from dreaming.report.data import OpenLoop, Report
from dreaming.report.markup import MANY_ROWS, bullets, folded, paragraph, section, table
from dreaming.report.summary import Share, interval_text, words

NORMALISED = "error, in standard deviations of each channel"


def open_loop_section(report: Report) -> str:
    loop = report.open_loop
    if loop is None or not loop.horizon:
        return ""
    lines = [
        Line("world model", loop.horizon, loop.model, "dream"),
        Line("persistence", loop.horizon, loop.persistence, "persistence"),
    ]
    chart = responsive(
        lambda width: line_chart(
            lines,
            width,
            title="Open-loop error on held-out logs by horizon",
            x_label="control steps ahead",
            y_label=NORMALISED,
        )
    )
    return section(
        "open-loop",
        "The world model on held-out logs",
        paragraph(
            "The model sees an episode's start and then only the actions; it never trained on these episodes. "
            "Persistence is the guess that nothing moves: a model above that line has learned nothing useful at that "
            "distance. Root mean square over episodes and channels."
        ),
        f'<div class="chart">{chart}</div>',
        folded(
            f"Each channel in its own unit ({len(loop.channels)})",
            _channel_table(loop),
            unfolded=len(loop.channels) <= MANY_ROWS,
        )
        if loop.channels
        else "",
    )


def _channel_table(loop: OpenLoop) -> str:
    at = _shown(loop.horizon)
    columns = ["channel", "unit", f"error by horizon, to {loop.horizon[-1]} steps"]
    columns += [f"{loop.horizon[i]} step{'s' if loop.horizon[i] > 1 else ''}" for i in at]
    columns.append(f"persistence, {loop.horizon[-1]}")
    rows = [
        [
            escape(name_and_unit(channel.name)[0]),
            escape(channel.unit or name_and_unit(channel.name)[1]),
            _pair_sparkline(channel.name, loop.horizon, channel.model, channel.persistence),
            *(number(channel.model[i]) for i in at),
            number(channel.persistence[-1]),
        ]
        for channel in loop.channels
    ]
    return table(columns, rows, left=2)


def _pair_sparkline(name: str, horizon: Sequence[int], model: Curve, persistence: Curve) -> str:
    return sparkline(
        [Line("persistence", horizon, persistence, "persistence"), Line("model", horizon, model, "dream")],
        title=f"{name}: model (solid) and persistence (dashed)",
    )


def name_and_unit(name: str) -> tuple[str, str]:
    """'box_yaw_rate_rad_s' is ('box yaw rate', 'rad/s'); 'torso_vx_3.33m_s' counts in steps of 3.33 m/s."""
    found = re.fullmatch(r"(.+?)_([\d.]*)(m_s2|m_s|rad_s|m|rad|deg|kg|s|N)", name)
    if found is None:
        return name.replace("_", " "), "no unit"
    stem, scale, unit = found.groups()
    unit = unit.replace("m_s2", "m/s²").replace("_s", "/s")
    return stem.replace("_", " "), f"{scale} {unit}".strip()


def _shown(horizon: Sequence[int]) -> list[int]:
    """First, middle, last: three numbers a row are enough beside a curve."""
    return sorted({0, len(horizon) // 2, len(horizon) - 1})


def audit_section(report: Report) -> str:
    audit = report.audit
    if audit is None:
        return ""
    against = "PyBullet" if audit.simulator else "held-out logs"
    if audit.simulator:
        how = (
            f"{audit.overall.dreams} dreams were repeated in PyBullet: the same start, the same commands, the same "
            "physics. A dream is read between two other curves. Persistence is the guess that nothing moves: a dream "
            "no better than that has taught nothing."
        )
        if audit.sensitivity_eps:
            how += (
                " The simulator's own sensitivity is how far PyBullet strays from itself when the start is kicked by "
                f"{number(audit.sensitivity_eps, 1)} standard deviations: below that, agreement point by "
                "point means nothing."
            )
    else:
        how = (
            f"{audit.overall.dreams} dreams under the commands of held-out logs, against those logs. Nothing beyond "
            "the logs was checked, and no simulator was asked."
        )
    title = f"The audit: dreams against {against}"
    missing = _not_replayed(audit)
    if not audit.overall.horizon:
        return section("audit", title, paragraph(how), missing)
    judged = [one for one in audit.scenarios if one.horizon]
    return section(
        "audit",
        title,
        paragraph(how),
        missing,
        responsive(lambda width: _audit_chart(audit.overall, width, "Error by horizon, all audited dreams")),
        paragraph("Medians over dreams; states after the truth has ended are not compared.", "muted"),
        folded("These curves in numbers", _horizon_table(audit.overall)),
        folded(f"Each channel in its own unit ({len(audit.overall.channels)})", _audited_channels(audit.overall)),
        "<h3>By scenario</h3>",
        _scenario_charts(judged),
        _scenario_table(report, audit.scenarios, audit.overall),
        folded(f"{words(report.task).event.capitalize()} foreseen, by horizon", _falls_table(report, audit)),
    )


def _not_replayed(audit: AuditReport) -> str:
    if not audit.not_replayed:
        return ""
    count = len(audit.not_replayed)
    return paragraph(
        f"{count} more dream{'s' if count > 1 else ''} could not be repeated; nothing below is about "
        f"{'them' if count > 1 else 'it'}. A scenario of which that is true of more than half is not trusted."
    ) + bullets(why_not_replayed(audit.not_replayed))


def refused_section(report: Report) -> str:
    parts: list[str] = []
    if report.refused:
        parts.append(paragraph("Nothing was learned from dreams of these, as there was no ground to believe them."))
        parts.append(bullets([f"{item.scenario}: {item.reason}" for item in report.refused]))
    if report.not_learnable:
        how = "before dreams can be trusted for less than half as long as in the logs' own worlds"
        if report.explored is not None:
            how = "as far as audits bore dreams out"
        parts.append(paragraph(f"How far each factor may go, by itself, {how}:"))
        parts.append(bullets(report.not_learnable))
    return section("refused", "What these logs cannot teach", *parts) if parts else ""


def _audit_chart(audit: ScenarioAudit, width: int, title: str, small: bool = False) -> str:
    lines = [Line("persistence", audit.horizon, audit.persistence.median, "persistence")]
    if audit.sensitivity is not None:
        lines.append(Line("PyBullet, kicked", audit.horizon, audit.sensitivity.median, "sensitivity"))
    lines.append(Line("dream", audit.horizon, audit.error.median, "dream"))
    return line_chart(
        lines,
        width,
        title=title,
        x_label="control steps ahead",
        y_label=title if small else NORMALISED,
        height=180 if small else 300,
        names=not small,
    )


def _scenario_charts(scenarios: Sequence[ScenarioAudit]) -> str:
    charts = "".join(f"<div>{_audit_chart(one, CURVE, one.scenario, small=True)}</div>" for one in scenarios)
    return f'<div class="grid-charts">{charts}</div>'


def _scenario_table(report: Report, scenarios: Sequence[ScenarioAudit], overall: ScenarioAudit) -> str:
    rows = []
    for one in [*scenarios, overall]:
        falls = one.falls[-1] if one.falls else None
        verdict = '<span class="good">trusted</span>' if one.trusted else '<span class="bad">not trusted</span>'
        rows.append(
            [
                f"{escape(one.scenario)} <small>n\u00a0=\u00a0{one.dreams}</small>"
                + (f"<br><small>{one.not_replayed} not repeated</small>" if one.not_replayed else ""),
                f"{verdict} <small>{escape(one.reason)}</small>",
                _share(falls.hits, falls.hits + falls.missed) if falls else "–",
                _share(falls.hits, falls.hits + falls.false_alarms) if falls else "–",
                _signed(one.reward_bias_per_step),
                _signed(one.reward_bias_per_dream),
            ]
        )
    event = words(report.task).event
    columns = ["scenario", "verdict", f"{event} foreseen", "alarms that were right"]
    columns += ["reward bias a step", "… a dream"]
    true_reward = overall.true_reward_per_step
    return table(columns, rows, left=2) + paragraph(
        f"{event[0].upper()}{event[1:]} foreseen (recall) and alarms that were right (precision) are counted by the "
        "end of the dream, with 95% intervals (Wilson). Reward bias is imagined minus true: above zero the dream "
        "flatters." + ("" if true_reward is None else f" The true reward is {number(true_reward)} a step on average."),
        "muted",
    )


def _falls_table(report: Report, audit: AuditReport) -> str:
    """F1 of imagined against true falls, a row a scenario and a column a horizon."""
    rows = [*audit.scenarios, audit.overall]
    horizons = sorted({falls.horizon for one in rows for falls in one.falls})
    within = any(one.falls_within_trust for one in rows)
    columns = ["scenario", *(f"within {h} steps" for h in horizons)] + (["within the trust horizon"] if within else [])
    found = []
    for one in rows:
        at = {falls.horizon: falls for falls in one.falls}
        cells = [_f1(at.get(h)) for h in horizons]
        if within:
            trusted = one.falls_within_trust
            cells.append(_f1(trusted) + (f"<br><small>median {trusted.horizon} steps</small>" if trusted else ""))
        found.append([escape(one.scenario), *cells])
    event = words(report.task).event
    return table(columns, found) + paragraph(
        f"F1: twice the {event} that were dreamt and came true, over all that were dreamt and all that came true. "
        "In small print: dreamt and true, dreamt only, true only. A dream whose truth was cut off before that horizon "
        "is not counted there.",
        "muted",
    )


def _f1(falls: Falls | None) -> str:
    if falls is None:
        return "–"
    return f"{number(falls.f1)}<br><small>{falls.hits}, {falls.false_alarms}, {falls.missed}</small>"


def _horizon_table(audit: ScenarioAudit) -> str:
    kinds = [("dream", audit.error), ("persistence", audit.persistence)]
    if audit.sensitivity is not None:
        kinds.append(("PyBullet, kicked", audit.sensitivity))
    columns = ["steps ahead", "dreams compared", *(f"{name}: median (mean)" for name, _ in kinds)]
    rows = [
        [
            str(audit.horizon[i]),
            str(audit.compared[i]),
            *(f"{number(curve.median[i])} <small>({number(curve.mean[i])})</small>" for _, curve in kinds),
        ]
        for i in _milestones(audit.horizon)
    ]
    return table(columns, rows)


def _audited_channels(audit: ScenarioAudit) -> str:
    at = [i for i in _milestones(audit.horizon) if i][-2:]
    columns = ["channel", "unit", f"error by horizon, to {audit.horizon[-1]} steps"]
    columns += [f"dream, {audit.horizon[i]} steps" for i in at] + [f"persistence, {audit.horizon[i]}" for i in at[-1:]]
    rows = [
        [
            *(escape(word) for word in name_and_unit(channel.name)),
            _pair_sparkline(channel.name, audit.horizon, channel.dream, channel.persistence),
            *(number(channel.dream[i]) for i in at),
            *(number(channel.persistence[i]) for i in at[-1:]),
        ]
        for channel in audit.channels
    ]
    return table(columns, rows, left=2)


def _milestones(horizon: Sequence[int]) -> list[int]:
    """Indices of 1, 2, 5, 10, 15, 25, 50, 100 steps and of the last."""
    wanted = {1, 2, 5, 10, 15, 25, 50, 100, horizon[-1]}
    return [i for i, h in enumerate(horizon) if h in wanted]


def _share(k: int, n: int) -> str:
    if not n:
        return "0 of 0"
    share = Share(k, n)
    return f"{k} of {n}<br><small>{interval_text(share)}</small>"


def _signed(value: float | None) -> str:
    return number(value) if value is None or value < 0 else f"+{number(value)}"
