"""report/index.html: everything a night has to say, in one file that needs no network."""

from __future__ import annotations

import base64
from datetime import datetime
from html import escape
from pathlib import Path

from dreaming.report.accuracy import audit_section, open_loop_section, refused_section
from dreaming.report.charts import number
from dreaming.report.data import Report, Video, write_aside
from dreaming.report.effort import next_section, spent_section, training_section, warnings_section
from dreaming.report.explored import explored_section
from dreaming.report.markup import duration, paragraph, section, tile
from dreaming.report.style import CSS
from dreaming.report.summary import headline, nothing_kept_sentence, percent, pooled, split, within_logs_sentence
from dreaming.report.survival import cannot_section, survival_section

MOST_BYTES = 8_000_000  # of the whole page; what does not fit is linked instead


def write_report(run: Path) -> Path:
    """Reads only below `run`: report/data.json and the videos that it names. Complete or not at all."""
    run = Path(run)
    report = Report.load(run)
    path = run / "report" / "index.html"
    write_aside(path, page(report, run))
    return path


def page(report: Report, run: Path) -> str:
    body = [
        ("Survival", "survival", survival_section(report)),
        ("Still cannot", "cannot", cannot_section(report)),
        ("Videos", "videos", "{videos}" if report.videos else ""),
        ("Audit", "audit", audit_section(report)),
        ("Looked for", "explored", explored_section(report)),
        ("Beyond the logs", "refused", refused_section(report)),
        ("World model", "open-loop", open_loop_section(report)),
        ("Training", "training", training_section(report)),
        ("Spent", "spent", spent_section(report)),
        ("Warnings", "warnings", warnings_section(report)),
        ("Going on", "next", next_section(report, run)),
    ]
    body = [(name, anchor, html) for name, anchor, html in body if html]
    navigation = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor, _ in body)
    title = f"{report.task}: a night of dreaming"
    before = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>"
        f"<header><div>{_opening(report)}<nav>{navigation}</nav></div></header><main>"
    )
    after = f"</main>{_footer(report, run)}</body></html>"
    sections = [html for _, _, html in body]
    room = MOST_BYTES - len((before + "".join(sections) + after).encode())
    if report.videos:
        sections[sections.index("{videos}")] = _videos_section(report, run, room)
    return before + "".join(sections) + after


def _opening(report: Report) -> str:
    banner = ""
    if not report.audited:
        banner = (
            '<div class="banner">Not audited in a simulator<span>No dream and no policy of this night was checked '
            "against a simulator. What follows compares the world model with held-out logs only; whether the robot "
            "would survive is not known.</span></div>"
        )
    return (
        f'<p class="eyebrow">A night of dreaming · {escape(report.task)} · {escape(_date(report.finished))}</p>{banner}'
        f"<h1>{escape(report.headline or headline(report))}</h1>"
        f"{paragraph(within_logs_sentence(report), 'lede')}"
        f"{paragraph(nothing_kept_sentence(report), 'lede')}"
        f'<div class="tiles">{"".join(_tiles(report))}</div>'
    )


def _tiles(report: Report) -> list[str]:
    tiles = []
    for name, cells in zip(("Fails, no log holds it", "Fails, within the logs"), split(report.survival), strict=True):
        if cells:
            before, after = pooled(c.before for c in cells), pooled(c.after for c in cells)
            change = f"{percent(before.value)} → {percent(after.value)}"
            tiles.append(tile(name, change, f"before → after; {after.n:,} episodes in {len(cells)} worlds"))
    if report.audit is not None and report.audit.scenarios:
        scenarios = report.audit.scenarios
        believed = f"{sum(one.trusted for one in scenarios)} of {len(scenarios)} scenarios"
        against = "checked in PyBullet" if report.audit.simulator else "checked on held-out logs only"
        tiles.append(tile("Dreams to be trusted", believed, f"{report.audit.overall.dreams} dreams {against}"))
    spent = report.spent
    if spent.imagined_steps:
        imagined = f"{spent.imagined_steps:,} imagined steps, all learned from"
        tiles.append(tile("Robot time dreamt", f"{number(spent.robot_hours_dreamt)} h", imagined))
    if report.audited:
        learning, selection = (spent.simulator_steps.get(purpose, 0) for purpose in ("learning", "selection"))
        note = f"beyond the logs; {selection:,} more only chose among policies"
        tiles.append(tile("Simulator steps learned from", f"{learning:,}", note))
    tiles.append(tile("Took", duration(_took(report)), f"of {duration(report.hours * 3600)} asked for"))
    return tiles


def _videos_section(report: Report, run: Path, room: int) -> str:
    figures = []
    for video in report.videos:
        path = run / video.file
        data = path.read_bytes() if path.is_file() else b""
        cost = 4 * ((len(data) + 2) // 3) + 1000
        if not data:
            shown = paragraph(f"{video.file} is missing.", "muted")
        elif cost <= room:
            room -= cost
            shown = (
                '<video controls loop muted autoplay playsinline preload="auto" '
                f'src="data:video/mp4;base64,{base64.b64encode(data).decode()}"></video>'
            )
        else:
            link = escape(_from_page(video))
            shown = f'<p><a href="{link}">{link}</a> lies beside this page: too large to be part of it.</p>'
        figures.append(f"<figure>{shown}<figcaption>{escape(video.caption)}</figcaption></figure>")
    return section(
        "videos",
        "Dream and truth, side by side",
        paragraph(
            "Left, in violet, what the world model imagined; right, what PyBullet does from the same state with the "
            "same commands and the same physics."
            if report.audited
            else "Left, in violet, what the world model imagined; right, what the log holds."
        ),
        *figures,
    )


def _from_page(video: Video) -> str:
    """The page lies in report/, as videos usually do."""
    return video.file.removeprefix("report/") if video.file.startswith("report/") else f"../{video.file}"


def _footer(report: Report, run: Path) -> str:
    entries = {
        "ended": report.stopped,
        "command": report.command,
        "run": str(run),
        "machine": report.machine,
        "version": report.version,
        "started": _date(report.started),
        "finished": _date(report.finished),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items() if value)
    return (
        f"<footer><div><dl>{rows}</dl><p class='muted' style='margin-top:14px'>Every number on this page is in "
        "data.json beside it.</p></div></footer>"
    )


def _date(iso: str) -> str:
    moment = _moment(iso)
    return iso if moment is None else f"{moment.day} {moment:%B %Y, %H:%M}"


def _moment(iso: str) -> datetime | None:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None


def _took(report: Report) -> float:
    """Seconds of wall clock; phases may leave gaps, so their sum is only the second choice."""
    started, finished = _moment(report.started), _moment(report.finished)
    if started is not None and finished is not None:
        return (finished - started).total_seconds()
    return sum(report.spent.seconds.values())
