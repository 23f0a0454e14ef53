"""The section on a night that was to find its own what-ifs: how far each factor was followed, and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from dreaming.report.charts import Line, legend, line_chart, number, responsive
from dreaming.report.data import Explored, Factor, Report
from dreaming.report.markup import bullets, folded, paragraph, section, table

ROW, BAR, EDGE = 56, 14, 8  # pixels
KINDS = (("in the logs", "demonstrator"), ("vouched for by held-out logs", "c2"), ("by audits too", "c0"))


def explored_section(report: Report) -> str:
    found = report.explored
    if found is None or not found.factors:
        return ""
    picture = responsive(lambda width: _picture(found.factors, width))
    names = [*KINDS, ("refused by an audit", "c4")]
    return section(
        "explored",
        "What the night looked for",
        paragraph(
            "The night sought its own what-ifs. Each bar is one factor of physics, from end to end of what was looked "
            "at: what the logs hold, how much further held-out logs vouch for dreams, and where audits of dreams "
            "widened or refused that. The bracket below is where dreams went, which grows as the policy survives. A "
            "world beyond the logs in several factors at once inherits from each; none was audited in combination."
        ),
        f'<div class="chart">{picture}{legend(names, "square")}</div>',
        _growth(found),
        paragraph("The worst worlds within reach that the last search met, in dreams:") if found.failing else "",
        bullets(found.failing),
        folded("These borders in numbers", _numbers(found.factors)),
    )


def _picture(factors: Sequence[Factor], width: int) -> str:
    rows = "".join(_row(factor, k * ROW + 4, width) for k, factor in enumerate(factors))
    height = len(factors) * ROW + 8
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="How far each factor was followed beyond the logs">{rows}</svg>'
    )


def _row(factor: Factor, y: float, width: int) -> str:
    """One factor's bar, the wider regions beneath the narrower."""
    room = width - 2 * EDGE

    def px(value: float) -> float:
        return EDGE + _share(factor, value) * room

    def bar(ends: Sequence[float], kind: str, tip: str) -> str:
        place = f'x="{px(ends[0]):.1f}" y="{y + 16}" width="{max(0.0, px(ends[1]) - px(ends[0])):.1f}" height="{BAR}"'
        title = f"{tip}: {number(ends[0])} to {number(ends[1])} {factor.unit}"
        return f'<rect class="fill {kind}" {place}><title>{escape(title)}</title></rect>'

    text = f"{factor.name}{', ' + factor.unit if factor.unit else ''}"
    parts = [f'<text class="label" x="{EDGE}" y="{y + 11}">{escape(text)}</text>']
    parts.append(f'<rect class="outside" x="{EDGE}" y="{y + 16}" width="{room}" height="{BAR}"/>')
    regions = (factor.trusted, factor.calibrated, factor.logged)
    parts += [bar(ends, kind, tip) for ends, (tip, kind) in zip(regions, KINDS[::-1], strict=True)]
    parts += [bar(ends, "c4", "refused by an audit") for ends in factor.refused]
    parts.append(f'<path class="line dream" d="M{px(factor.reach[0]):.1f} {y + 32}v5H{px(factor.reach[1]):.1f}v-5"/>')
    for value, x, anchor in zip(factor.explored, (EDGE, width - EDGE), ("start", "end"), strict=True):
        parts.append(f'<text class="tick" x="{x}" y="{y + 46}" text-anchor="{anchor}">{number(value)}</text>')
    return "".join(parts)


def _growth(found: Explored) -> str:
    """Shares of the explored range that the reach spans, over time."""
    if len(found.growth) < 2:
        return ""
    minutes = [row["seconds"] / 60 for row in found.growth]
    lines = [
        Line(factor.name, minutes, [_span(factor, row[factor.name]) for row in found.growth], f"c{k % 8}")
        for k, factor in enumerate(found.factors)
    ]
    chart = responsive(
        lambda width: line_chart(
            lines,
            width,
            title="The reach over time",
            x_label="minutes since the first night began",
            y_label="share of what was looked at that the reach spans",
            height=220,
        )
    )
    return f'<div class="chart">{chart}</div>'


def _span(factor: Factor, ends: Sequence[float]) -> float:
    low, high = ends
    return _share(factor, high) - _share(factor, low)


def _share(factor: Factor, value: float) -> float:
    """Where a value lies in what was looked at, from 0 to 1."""
    low, high = factor.explored
    if factor.logarithmic:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _numbers(factors: Sequence[Factor]) -> str:
    ends = lambda pair: f"{number(pair[0])} to {number(pair[1])}"  # noqa: E731
    rows = [
        [
            escape(factor.name),
            escape(factor.unit or "no unit"),
            *(ends(pair) for pair in (factor.logged, factor.calibrated, factor.trusted, factor.reach)),
            "; ".join(ends(pair) for pair in factor.refused) or "–",
        ]
        for factor in factors
    ]
    return table(["factor", "unit", "logs", "held-out logs vouch", "audits too", "dreamt", "refused"], rows, left=2)
