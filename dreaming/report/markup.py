"""The few HTML pieces that every section uses. Whatever is text is escaped here; cells and bodies are HTML already."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

MANY_ROWS = 12


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def section(anchor: str, heading: str, *body: str) -> str:
    return f'<section id="{anchor}"><h2>{escape(heading)}</h2>{"".join(body)}</section>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, outside: Sequence[bool] = ()) -> str:
    """The first `left` columns hold words and are set left, the others numbers and are set right.

    `rows` hold HTML; `outside` marks rows about worlds that no log holds.
    """
    head = "".join(f"<th{_class('r' if i >= left else '')}>{escape(name)}</th>" for i, name in enumerate(columns))
    body = []
    for k, row in enumerate(rows):
        cells = "".join(f"<td{_class('r' if i >= left else '')}>{cell}</td>" for i, cell in enumerate(row))
        body.append(f"<tr{_class('outside' if outside and outside[k] else '')}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def folded(summary: str, body: str, unfolded: bool = False) -> str:
    return f"<details{' open' if unfolded else ''}><summary>{escape(summary)}</summary>{body}</details>"


def tile(name: str, value: str, note: str) -> str:
    return (
        f'<div class="tile"><span class="name">{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(note)}</span></div>"
    )


def bullets(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def duration(seconds: float) -> str:
    """'48 s', '12 min', '7 h 58 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes % 60 else f"{minutes // 60} h"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
