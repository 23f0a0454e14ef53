"""What lies in a folder never seen before, and a mapping for it. All of it is YAML: what is no mapping is a comment."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from configs import UserError, from_dict
from worldmodel.logs import guessing
from worldmodel.logs.drafting import Header, as_yaml, complete, drafted, merged, without_defaults
from worldmodel.logs.formats import Format, RawEpisode
from worldmodel.logs.guards import printable
from worldmodel.logs.guessing import Seen
from worldmodel.logs.importing import find_format, import_logs, with_reward
from worldmodel.logs.mapping import ForeignCodeError, LogMapping, as_column

LOOKED_AT = 200  # recordings, spread over all of them
PAUSE = 5.0  # times the usual step of the clock: a gap


def describe(data: Path, mapping: str | Path | None = None, reward: str | None = None) -> Iterator[str]:
    """Lines: what there is, a mapping (drafted where there is none yet), and what the logs can teach under it."""
    named = data
    one, data = find_format(data)
    source = one.read(data, None)
    headers = look(source.episodes())
    yield f"# {printable(str(data))}: {one.name}, {one.what.partition(';')[0]}"
    given = draft = content = None
    try:
        draft = one.draft(data)
        given = with_reward(reward, data, mapping, draft, named)
    except ForeignCodeError:
        raise
    except UserError:
        if mapping is not None:
            raise
    if given is None:
        content = drafted(data, headers)
        given = from_dict(LogMapping, content, "the draft") if complete(content) else None
    yield from _told(headers, _used(given))
    if content is not None:
        yield "#"
        yield "# A draft, guessed by names. Correct it, save it, and give it as --mapping."
        yield from as_yaml(content)
    elif draft is not None and given is draft:
        yield "#"
        yield "# The format itself says what its columns mean; this need not be saved, but can be changed:"
        yield from as_yaml(without_defaults(draft))
    yield "#"
    if given is None:
        yield "# The draft lacks what is marked as missing. With it, this command tells what the logs can teach."
    else:
        yield from _ready(one, data, given)


def look(episodes: Iterator[RawEpisode]) -> list[Header]:
    headers: dict[tuple[str, ...], Header] = {}
    for number, raw in enumerate(episodes):
        if number >= LOOKED_AT:
            break
        here = {name: _seen(value) for name, value in raw.columns.items()}
        header = headers.setdefault(tuple(here), Header({}))
        header.recordings.append(raw.source)
        header.rows += max((len(value) for value in raw.columns.values()), default=0)
        header.columns = {name: merged(header.columns.get(name), seen) for name, seen in here.items()}
        _look_at_clock(raw, here, header)
    if not headers:
        raise UserError("there are no recordings in it")
    return list(headers.values())


def _seen(value: np.ndarray) -> Seen:
    width = value.shape[1] if value.ndim == 2 else None
    if value.dtype.kind not in "fiub" or value.ndim > 2:
        same = value.ndim == 1 and len(value) > 0 and bool((value == value[0]).all())
        return Seen(math.nan, math.nan, width, True, same, 0)
    known = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    if not known.size:
        return Seen(math.nan, math.nan, width, False, True, 0)
    low, high = float(known.min()), float(known.max())
    turns = guessing.turns(value.astype(np.float64)) if value.ndim == 1 else 0
    return Seen(low, high, width, False, low == high, turns)


def _look_at_clock(raw: RawEpisode, columns: Mapping[str, Seen], header: Header) -> None:
    name = next((name for name, seen in columns.items() if guessing.role(name, seen) == "time"), None)
    time = raw.time_s if raw.time_s is not None else (None if name is None else raw.columns[name])
    if time is None or time.ndim != 1 or time.dtype.kind not in "fiuM":
        return
    step = np.diff(time.astype("M8[ns]").astype(np.int64) if time.dtype.kind == "M" else time).astype(np.float64)
    ahead = step[step > 0]
    if not len(ahead):
        return
    usual = float(np.median(ahead))
    header.step.append(usual)
    header.longest = max(header.longest, float(ahead.max()))
    header.uneven["rows with the time of the row before"] += int((step == 0).sum())
    header.uneven["rows that go back in time"] += int((step < 0).sum())
    header.uneven[f"gaps of more than {PAUSE:g} times the usual step"] += int((ahead > PAUSE * usual).sum())


def _used(mapping: LogMapping | None) -> dict[str, str]:
    """What the mapping takes each column for."""
    if mapping is None:
        return {}
    kinds = {"reward": mapping.reward, "terminated": mapping.terminated, "episode": mapping.episode}
    used = {name: kind for kind, name in (*kinds.items(), ("split", mapping.split)) if isinstance(name, str)}
    used |= dict.fromkeys(mapping.info.values(), "label")
    if mapping.time is not None:
        used |= dict.fromkeys(as_column(mapping.time).names, "time")
    for kind, channels in (("observation", mapping.observation), ("action", mapping.action)):
        used |= {name.partition("[")[0]: kind for spec in channels.specs.values() for name in spec.names}
    return used


def _told(headers: list[Header], used: Mapping[str, str]) -> Iterator[str]:
    for number, header in enumerate(headers, 1):
        count, title = len(header.recordings), f", header {number} of {len(headers)}" if len(headers) > 1 else ""
        first = printable(header.recordings[0])
        files = f"{count} recordings, {first} and others" if count > 1 else first
        yield f"#\n# {files}{title}: {header.rows:,} rows"
        if header.step:
            low, high = min(header.step), max(header.step)
            even = f"{low:.4g}" if high < 1.01 * low else f"{low:.4g} to {high:.4g}"
            yield f"#   clock: a row every {even}, the longest step {header.longest:.4g} (in the file's unit)"
            for what, times in header.uneven.items():
                if times:
                    yield f"#   clock: {times:,} {what}"
        shown = {name: printable(name) for name in header.columns}
        every = header.columns.items()
        titles = {name: f"{shown[name]} x {one.width}" if one.width else shown[name] for name, one in every}
        width = min(40, max(len(title) for title in titles.values()))
        for name, seen in every:
            kind = used.get(name) or used.get(name.partition("[")[0].strip()) or "-"
            if seen.is_text:
                what = "text, one value in each recording" if seen.constant_in_each else "text"
            else:
                what = f"{seen.low:.5g} to {seen.high:.5g}"
                what += ", never changes" if seen.low == seen.high else ""
                what += f", jumps by a turn {seen.turns} times" if seen.turns else ""
            yield f"#   {titles[name]:<{width}}  {kind:<12} {what}"


def _ready(one: Format, data: Path, mapping: LogMapping) -> Iterator[str]:
    from worldmodel.readiness import readiness
    from worldmodel.storage import LogReader

    with tempfile.TemporaryDirectory() as folder:
        try:
            logs = import_logs(one, data, Path(folder) / "logs", mapping)
        except UserError as error:
            yield f"# With this mapping the import fails: {printable(str(error))}"
            return
        yield "# With this mapping:"
        for line in readiness(LogReader(logs)).lines():
            yield f"# {printable(line)}"
