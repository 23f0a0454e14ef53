"""Small SVG charts as strings. They take their colours from the page's CSS, so dark mode comes for free.

Text does not scale with the picture: a chart is drawn twice, for wide and for narrow pages, and CSS shows one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDE, NARROW = 812, 350  # pixels
CURVE = 258  # of the small ones that stand three in a row
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
LABEL_CHARACTER = 7.0  # pixels, about, of a row's label
DOTTED = 40  # lines of up to so many points show a dot, with its value, at each


@dataclass
class Line:
    """`kind` is the CSS class that colours it: after, before, demonstrator, dream, persistence, sensitivity, c0..c7."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]  # None leaves a gap
    kind: str
    marked: Sequence[bool] = ()  # which points get a large dot

    @property
    def pairs(self) -> list[tuple[float, float] | None]:
        return [(x, y) if y is not None and math.isfinite(y) else None for x, y in zip(self.xs, self.ys, strict=True)]


@dataclass
class Dot:
    """A share with its interval, in [0, 1]."""

    kind: str
    share: float
    low: float
    high: float
    tip: str


@dataclass
class Row:
    label: str
    dots: list[Dot]
    outside: bool = False  # no log holds it
    note: str = ""


def responsive(draw: Callable[[int], str]) -> str:
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no exponent where a person would not write one."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude >= 5 or magnitude < -4:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-")
    text = f"{round(value, digits - 1 - magnitude):,.{max(0, digits - 1 - magnitude)}f}"
    return text.replace("-", "−")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]'s inside."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    lines: Sequence[Line],
    width: int,
    *,
    title: str,
    x_label: str,
    y_label: str,
    height: int = 300,
    names: bool = True,
) -> str:
    """Each line's name stands at its end, or below where it is narrow. y starts at zero or below."""
    points = [pair for line in lines for pair in line.pairs if pair is not None]
    if not points:
        return '<p class="muted">No finite values to draw.</p>'
    named = names and width >= 500 and len(lines) > 1  # at the line's end; else in a legend below
    room = 20 + 7.6 * max(len(line.name) for line in lines)
    left, right, top, bottom = 50, room if named else 16, 28, 44
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    y_low = min(0.0, y_low)
    y_high += 0.06 * ((y_high - y_low) or 1.0)

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [f'<text x="0" y="14" class="axis">{escape(y_label)}</text>']
    for y in ticks(y_low, y_high, 4):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(x_low, x_high, 6 if width > 500 else 4):
        parts.append(f'<text class="tick" x="{px(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:g}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    ends: list[tuple[float, str, str]] = []
    for line in lines:
        parts.append(f'<path class="line {line.kind}" d="{_path(line.pairs, px, py)}"/>')
        for i, pair in enumerate(line.pairs):
            large = bool(line.marked) and line.marked[i]
            if pair is None or (len(line.xs) > DOTTED and not large):
                continue
            tip = f"{line.name}: {number(pair[1])} at {number(pair[0])}"
            parts.append(
                f'<circle class="{"mark" if large else "point"} {line.kind}" cx="{px(pair[0]):.1f}" '
                f'cy="{py(pair[1]):.1f}" r="{5 if large else 2.5}"><title>{escape(tip)}</title></circle>'
            )
        last = next((pair for pair in reversed(line.pairs) if pair is not None), None)
        if last is not None:
            ends.append((py(last[1]), line.name, line.kind))
    if named:
        for y, (_, name, kind) in zip(spread([y for y, _, _ in ends], 16, top, height - bottom), ends, strict=True):
            parts.append(f'<text class="name {kind}" x="{width - right + 8}" y="{y + 4:.1f}">{escape(name)}</text>')
    svg = _svg(width, height, title, parts)
    if named or not names or len(lines) == 1:
        return svg
    return svg + legend([(name, kind) for _, name, kind in ends], "line")


def shortened(label: str, width: float) -> str:
    """What of it has room in so many pixels."""
    most = math.floor(width / LABEL_CHARACTER)
    return label if len(label) <= most else label[: most - 1].rstrip() + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels apart until neighbours are `gap` apart, keeping their order and, if they fit, the bounds."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + gap) if placed else max(wanted[i], low))
    limit = high
    for k in range(len(placed) - 1, -1, -1):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = [0.0] * len(wanted)
    for k, i in enumerate(order):
        result[i] = placed[k]
    return result


def dot_plot(groups: Sequence[tuple[str, Sequence[Row]]], width: int, *, title: str, x_label: str) -> str:
    """Shares from 0 to 100% by row, each with its interval; rows that no log holds lie on a tinted band."""
    narrow = width < 500
    left, right = (14 if narrow else 210), (18 if narrow else 26)
    head, margin = 28, 10

    def px(share: float) -> float:
        return left + share * (width - left - right)

    parts: list[str] = []
    y = 4.0
    for group, rows in groups:
        parts.append(f'<text class="group" x="0" y="{y + 18:.0f}">{escape(group)}</text>')
        y += head
        for row in rows:
            # A label stands over its dots where there is no room beside them.
            over = narrow or margin + LABEL_CHARACTER * len(row.label) > left
            above = 18 if over else 0
            row_height = 36 + above
            if row.outside:
                band = f'y="{y + 1:.0f}" width="{width}" height="{row_height - 2}" rx="3"'
                parts.append(f'<rect class="outside" x="0" {band}/>')
            for share in QUARTERS:
                ends = f'y1="{y + above + 2:.0f}" y2="{y + row_height - 1:.0f}"'
                parts.append(f'<line class="grid" x1="{px(share):.1f}" x2="{px(share):.1f}" {ends}/>')
            label_y = y + (15 if over else row_height / 2 + 4)
            label = escape(shortened(row.label, width - margin))
            if label != escape(row.label):
                label += f"<title>{escape(row.label)}</title>"
            parts.append(f'<text class="label" x="{margin}" y="{label_y:.0f}">{label}</text>')
            for k, dot in enumerate(row.dots):
                centre = y + (above + row_height) / 2 + (k - (len(row.dots) - 1) / 2) * 9
                parts.append(
                    f'<g class="dot {dot.kind}"><title>{escape(dot.tip)}</title>'
                    f'<line x1="{px(dot.low):.1f}" x2="{px(dot.high):.1f}" y1="{centre:.1f}" y2="{centre:.1f}"/>'
                    f"{_marker(dot.kind, px(dot.share), centre)}</g>"
                )
            y += row_height
    for share in QUARTERS:
        parts.append(f'<text class="tick" x="{px(share):.1f}" y="{y + 16:.0f}" text-anchor="middle">{share:.0%}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{y + 38:.0f}" text-anchor="middle">{escape(x_label)}</text>')
    return _svg(width, y + 46, title, parts)


def sparkline(lines: Sequence[Line], title: str, width: int = 110, height: int = 28) -> str:
    """Shape only: both axes from zero, no ticks."""
    points = [pair for line in lines for pair in line.pairs if pair is not None]
    if not points:
        return ""
    x_high = max(x for x, _ in points) or 1
    y_high = max(y for _, y in points) or 1

    def px(x: float) -> float:
        return 2 + x / x_high * (width - 4)

    def py(y: float) -> float:
        return height - 2 - max(0.0, y) / y_high * (height - 4)

    parts = []
    for line in lines:
        parts.append(f'<path class="line {line.kind}" d="{_path(line.pairs, px, py)}"/>')
    return _svg(width, height, title, parts)


def share_bar(parts: Sequence[tuple[str, float, str]], width: int, title: str) -> str:
    """One bar cut in proportion; `parts` are (name, amount, what to show)."""
    total = sum(amount for _, amount, _ in parts)
    if total <= 0:
        return ""
    drawn, x = [], 0.0
    for i, (name, amount, shown) in enumerate(parts):
        w = amount / total * width
        drawn.append(
            f'<rect class="fill c{i % 8}" x="{x:.1f}" y="0" width="{max(0.0, w - 1.5):.1f}" height="26">'
            f"<title>{escape(name)}: {escape(shown)}</title></rect>"
        )
        if w > 8 * len(shown) + 8:
            drawn.append(f'<text class="inbar" x="{x + 7:.1f}" y="17.5">{escape(shown)}</text>')
        x += w
    bar = _svg(width, 26, title, drawn)
    return bar + legend([(f"{name} {shown}", f"c{i % 8}") for i, (name, _, shown) in enumerate(parts)], "square")


def legend(entries: Sequence[tuple[str, str]], shape: str) -> str:
    """`shape` is line, dot or square."""
    items = []
    for name, kind in entries:
        if shape == "line":
            glyph = f'<path class="line {kind}" d="M1 7H21"/>'
        elif shape == "dot":
            glyph = f'<g class="dot {kind}"><line x1="1" x2="21" y1="7" y2="7"/>{_marker(kind, 11, 7)}</g>'
        else:
            glyph = f'<rect class="fill {kind}" x="5" y="1" width="12" height="12"/>'
        items.append(f'<li><svg width="22" height="14" aria-hidden="true">{glyph}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _marker(kind: str, x: float, y: float) -> str:
    """Shapes differ as well as colours: nobody has to tell two hues apart."""
    if kind == "before":
        return f'<circle class="hollow" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if kind == "demonstrator":
        return f'<path d="M{x - 4.5:.1f} {y:.1f}l4.5 -4.5l4.5 4.5l-4.5 4.5z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'


def _path(
    pairs: Sequence[tuple[float, float] | None], px: Callable[[float], float], py: Callable[[float], float]
) -> str:
    commands, pen_down = [], False
    for pair in pairs:
        if pair is None:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{px(pair[0]):.1f} {py(pair[1]):.1f}")
        pen_down = True
    return "".join(commands)


def _svg(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
