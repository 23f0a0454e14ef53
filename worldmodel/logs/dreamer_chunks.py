"""DreamerV3's replay folders (github.com/danijar/dreamerv3): chunks of 1024 steps in .npz files that name each other.

A file is called time-uuid-successor-length.npz. Following the successors gives the stream of one environment, episodes
one after the other. Row t holds an observation, the reward and flags that came with it, and the action that was then
taken: in our order the reward belongs to the row before.
"""

import io
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from worldmodel.episode import Episode
from worldmodel.logs import drafts
from worldmodel.logs.formats import Format, RawEpisode, Source, files_here
from worldmodel.logs.guards import check_size
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.npz import Archive

ROWS = 1024
"""Of a chunk, as the official code fills them."""
_NAME = re.compile(r"(\d{8}T\d{6}F\d{6})-([0-9a-zA-Z]{22})-([0-9a-zA-Z]{22})-(\d{1,9})\.npz")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOBODY = "0" * 22
_FLAGS = ("is_first", "is_last", "is_terminal")
_KNOWN = ("action", "reward", *_FLAGS)
_NOT_SEEN = re.compile(r"action|reward|is_(first|last|terminal)|reset|stepid|consec|priority|(log|enc|dyn|dec)/.*")


@dataclass(frozen=True)
class _Chunk:
    path: Path
    identity: str
    successor: str
    length: int


def detects(path: Path) -> bool:
    return path.is_dir() and any(_NAME.fullmatch(file.name) for file in files_here(path, "*.npz"))


def read(path: Path, mapping: LogMapping | None) -> Source:
    streams = _streams(path)

    def episodes() -> Iterator[RawEpisode]:
        for stream in streams:
            yield from (drafts.note_rate(raw, mapping) for raw in _episodes(stream))

    return Source([chunk.path for stream in streams for chunk in stream], episodes)


def draft(path: Path) -> LogMapping | None:
    rows = _load(_streams(path)[0][0])
    action = rows["action"]
    if action.ndim != 2 or action.dtype.kind != "f":
        raise UserError(f"{path}: action holds {action.dtype} of shape {action.shape[1:]}: choices; vectors are learnt")
    seen = [key for key in rows if not _NOT_SEEN.fullmatch(key)]
    images = [key for key in seen if rows[key].ndim == 4]
    return LogMapping(
        task=path.resolve().name,
        control_hz=drafts.UNSTATED_HZ,
        observation=drafts.observation([key for key in seen if key not in images]),
        action=drafts.action("action", action.shape[1]),
        reward="reward",
        image=images[0] if images else None,
    )


def _streams(folder: Path) -> list[list[_Chunk]]:
    """The chunks of each stream in their order; streams in the order in which they began."""
    matches = [match for match in (_NAME.fullmatch(path.name) for path in files_here(folder, "*.npz")) if match]
    chunks = {match[2]: _Chunk(folder / match[0], match[2], match[3], int(match[4])) for match in matches}
    followers = {chunk.successor for chunk in chunks.values()}
    streams = []
    for chunk in [chunk for identity, chunk in chunks.items() if identity not in followers]:
        stream = []
        following: _Chunk | None = chunk
        while following:
            stream.append(following)
            following = chunks.pop(following.identity) and chunks.get(following.successor)
        streams.append(stream)
    if chunks:
        raise UserError(f"{min(one.path for one in chunks.values())} and its successors name each other in a circle")
    return streams


def _load(chunk: _Chunk) -> dict[str, np.ndarray]:
    """The arrays of a chunk that can be learnt from, each of as many rows as its name says."""
    archive = Archive(chunk.path)
    rows: dict[str, np.ndarray] = {}
    total = 0
    for key in archive.names:
        if _NOT_SEEN.fullmatch(key) and key not in _KNOWN:
            continue
        array = archive[key]
        if array.ndim == 0 or len(array) != chunk.length:
            raise UserError(f"{chunk.path}: {key} has shape {array.shape}, but the name says {chunk.length} rows")
        total += array.nbytes
        check_size(total, str(chunk.path))
        image = array.shape[1:] == (64, 64, 3) and array.dtype == np.uint8
        if array.dtype.kind in "fiub" and (array.ndim < 3 or image):
            rows[key] = array
    for key in ("action", "reward", "is_first"):
        if key not in rows:
            raise UserError(f"{chunk.path} lacks {key} as numbers; a replay chunk of DreamerV3 has it")
    return rows


def _episodes(stream: list[_Chunk]) -> Iterator[RawEpisode]:
    """Cut before every first step, and after every last one."""
    parts: list[dict[str, np.ndarray]] = []
    began = stream[0].path
    for chunk in stream:
        rows = _load(chunk)
        if parts and rows.keys() != parts[0].keys():
            differing = ", ".join(sorted(rows.keys() ^ parts[0].keys()))
            raise UserError(f"{chunk.path} and the chunk before it differ in what they hold: {differing}")
        starts = rows["is_first"].astype(bool)
        if "is_last" in rows:
            starts[1:] |= rows["is_last"][:-1].astype(bool)
        for start, stop in zip([0, *np.flatnonzero(starts)], [*np.flatnonzero(starts), chunk.length], strict=True):
            if start != stop and (starts[start] or (parts and _ended(parts[-1]))):
                yield from _episode(parts, began)
                parts, began = [], chunk.path
            if start != stop:
                parts.append({key: array[start:stop] for key, array in rows.items()})
                check_size(sum(array.nbytes for part in parts for array in part.values()), f"{chunk.path}: an episode")
    yield from _episode(parts, began)


def _ended(part: dict[str, np.ndarray]) -> bool:
    return bool(part["is_last"][-1]) if "is_last" in part else False


def _episode(parts: list[dict[str, np.ndarray]], began: Path) -> Iterator[RawEpisode]:
    if sum(len(part["action"]) for part in parts) < 2:  # a start that nothing followed
        return
    try:
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    except ValueError:
        raise UserError(f"{began} and its successors differ in the shape of what they hold") from None
    first, _, terminal = (columns.pop(key, None) for key in _FLAGS)
    repairs: Counter[str] = Counter()
    if first is not None and not first[0]:
        repairs["episodes without their beginning, whose chunk is gone"] += 1
    yield RawEpisode(
        where=f"{began}: the episode that begins there",
        source=began.name,
        # What came with an observation was earned by the action before it; the last action led to nothing recorded.
        columns={**columns, "action": columns["action"][:-1], "reward": columns["reward"][1:]},
        terminated=None if terminal is None else bool(terminal[-1]),
        repairs=repairs,
    )


def write_chunks(episodes: Iterable[Episode], folder: str | Path) -> int:
    """Writes a replay folder that the official code loads (with `replay_context: 0`; we have no latents to give it).

    Returns the number of rows written, T + 1 for an episode of T steps.
    """
    from worldmodel.checkpoint import write_atomically  # brings torch, which reading does not need

    folder = Path(folder)
    if folder.is_dir() and any(folder.glob("*.npz")):
        raise UserError(f"{folder} already holds .npz files; choose another folder for the chunks")
    began, count, total = datetime.now(), 0, 0
    identity = _identity()
    waiting: dict[str, np.ndarray] = {}

    def save(rows: dict[str, np.ndarray], successor: str) -> None:
        length = len(rows["action"])
        stamp = began + timedelta(milliseconds=count)  # the official code reads a stream by the order of its files
        name = f"{stamp:%Y%m%dT%H%M%SF%f}-{identity}-{successor}-{length}.npz"
        steps = b"".join(_bytes(identity) + i.to_bytes(4, "big") for i in range(length))
        arrays: dict[str, Any] = {**rows, "stepid": np.frombuffer(steps, np.uint8).reshape(length, 20)}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        write_atomically(folder / name, file.getvalue())

    for episode in episodes:
        rows = _rows(episode)
        total += len(rows["action"])
        waiting = {key: np.concatenate([waiting[key], rows[key]]) for key in rows} if waiting else rows
        while len(waiting["action"]) > ROWS:
            following = _identity()
            save({key: array[:ROWS] for key, array in waiting.items()}, following)
            waiting = {key: array[ROWS:] for key, array in waiting.items()}
            identity, count = following, count + 1
    if waiting:
        save(waiting, _NOBODY)
    return total


def _rows(episode: Episode) -> dict[str, np.ndarray]:
    steps = np.arange(episode.length + 1)
    nothing = np.zeros((1, episode.action.shape[1]), np.float32)
    return {
        **episode.observation,
        "action": np.concatenate([episode.action, nothing]).astype(np.float32),
        "reward": np.concatenate([[0.0], episode.reward]).astype(np.float32),
        "is_first": steps == 0,
        "is_last": steps == episode.length,
        "is_terminal": (steps == episode.length) & episode.terminated,
    }


def _identity() -> str:
    """A random one, as the official code writes it: 128 bits in base 62."""
    number, digits = uuid.uuid4().int, ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits.rjust(22, "0")


def _bytes(identity: str) -> bytes:
    number = 0
    for digit in identity:
        number = 62 * number + _DIGITS.index(digit)
    return number.to_bytes(16, "big")


FORMAT = Format(
    name="dreamer_chunks",
    what="a replay folder of DreamerV3's official code (time-uuid-successor-length.npz)",
    detects=detects,
    read=read,
    draft=draft,
)
