"""ROS 2 recordings without ROS: rosbag2 folders (SQLite or MCAP storage), and MCAP files on their own.

A recording is an episode; its topics have rates of their own. Times are those of the messages' headers where these are
on the recorder's clock, else those of logging.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from configs import UserError, parse_yaml, to_dict
from worldmodel.logs import mcap
from worldmodel.logs.formats import Format, RawEpisode, Source, files_in, first_bytes, is_named, need, relative
from worldmodel.logs.guards import MOST_TEXT, check_size, inside
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.ros_messages import Decoder, UndecodableError, decoder
from worldmodel.logs.topics import Topics

METADATA = "metadata.yaml"
_MARK = b"rosbag2_bagfile_information"
_SQLITE = b"SQLite format 3\0"
_MOST_MESSAGE = 2**26  # bytes


def detects(path: Path) -> bool:
    return bool(_recordings(path))


def read(path: Path, mapping: LogMapping | None) -> Source:
    text = None if mapping is None else json.dumps(to_dict(mapping), ensure_ascii=False)

    def wanted(topic: str) -> bool:
        return text is None or f"{topic}." in text

    recordings = {place: _storage(place) for place in _recordings(path, mapping.files if mapping else None)}
    if not recordings:
        raise UserError(f"{path} holds no recordings" + (f" among {mapping.files}" if mapping else ""))

    def episodes() -> Iterator[RawEpisode]:
        for place, (files, packed) in recordings.items():
            topics = Topics(str(place), wanted, packed)
            for file in files:
                if first_bytes(file, len(mcap.MAGIC)) == mcap.MAGIC:
                    mcap.add_messages(file, topics)
                else:
                    _add_sqlite(file, topics)
            yield topics.episode(relative(place, path))

    metadata = [place / METADATA for place in recordings if place.is_dir()]
    return Source([*metadata, *(file for files, _ in recordings.values() for file in files)], episodes)


def _recordings(path: Path, pattern: str | None = None) -> list[Path]:
    """Folders with rosbag2's metadata, and storage files that are in none of them. `pattern`: of it or a file in it."""
    files = files_in(path)
    folders = [file.parent for file in files if file.name == METADATA and _MARK in first_bytes(file)]
    alone = [file for file in files if file.parent not in folders and _is_storage(file)]
    named = {place for file in files if is_named(file, path, pattern) for place in (file, file.parent)}
    return sorted(place for place in [*folders, *alone] if place in named or is_named(place, path, pattern))


def _is_storage(file: Path) -> bool:
    start = first_bytes(file, len(_SQLITE))
    return start.startswith(mcap.MAGIC) or (file.suffix == ".db3" and start == _SQLITE)


def _storage(place: Path) -> tuple[list[Path], bool]:
    """The files of a recording, and whether each of its messages is packed."""
    if place.is_file():
        return [place], False
    path = place / METADATA
    information = _metadata(path)
    if str(information.get("compression_mode", "")).lower() == "file" and information.get("compression_format"):
        raise UserError(f"{path}: its files are packed as a whole; unpack them: ros2 bag convert, or zstd -d")
    names = information.get("relative_file_paths")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: relative_file_paths is {str(names)[:80]!r}, expected names of files")
    files = []
    for name in names:
        name = name if (place / name).is_file() else name.removeprefix(f"{place.name}/")  # as early versions wrote
        files.append(inside(place, name, f"{path}: relative_file_paths"))
        if not _is_storage(files[-1]):
            raise UserError(f"{files[-1]} is neither MCAP nor SQLite, or its beginning is damaged; copy it again")
    return files, str(information.get("compression_mode", "")).lower() == "message"


def _metadata(path: Path) -> dict[str, Any]:
    check_size(path.stat().st_size, str(path), MOST_TEXT)
    content = parse_yaml(path.read_bytes(), str(path))
    information = content.get(_MARK.decode()) if isinstance(content, dict) else None
    if not isinstance(information, dict):
        raise UserError(f"{path} lacks {_MARK.decode()}; copy it again")
    return information


def _add_sqlite(path: Path, topics: Topics) -> None:
    need("rosbags", "ros")
    if (journal := path.with_name(path.name + "-wal")).is_file() and journal.stat().st_size:
        raise UserError(
            f"{journal} holds messages that are not in {path.name} yet; merge them in a copy: "
            "sqlite3 COPY.db3 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    try:
        # Immutable: not even a lock is written beside the file.
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be opened: {error}") from None
    try:
        # A table of a hostile file can compute its cells; so they are bounded, and may call nothing.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_MESSAGE)
        connection.execute("PRAGMA trusted_schema=OFF")
        _add_rows(connection, topics)
    except (sqlite3.Error, UnicodeDecodeError, ValueError, OverflowError, TypeError) as error:
        raise UserError(f"{path} is damaged: {str(error)[:120]}; copy it again") from None
    finally:
        connection.close()


def _add_rows(connection: sqlite3.Connection, topics: Topics) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"topics", "messages"} <= tables:
        raise ValueError("it has no tables of topics and messages")
    definitions: dict[str, tuple[str, str]] = {}
    if "message_definitions" in tables:
        query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        size = 0
        for kind, encoding, text in connection.execute(query):
            size += len(str(text))
            if size > MOST_TEXT:
                raise ValueError(f"its message_definitions take more than {MOST_TEXT:,} bytes")
            definitions[kind] = encoding, text
    makers: dict[int, tuple[str, Callable[[], Decoder]]] = {}
    for number, name, kind, form in connection.execute("SELECT id, name, type, serialization_format FROM topics"):
        encoding, text = definitions.get(kind, ("", ""))
        makers[number] = str(name), _maker(str(form), str(encoding), str(text).encode(), str(kind))
    for number, logged_ns, data in connection.execute("SELECT topic_id, timestamp, data FROM messages"):
        if number not in makers or not isinstance(data, bytes):
            raise ValueError(f"a message of topic {number!r}, which is not listed, or not of bytes")
        topic, make = makers[number]
        topics.add(topic, int(logged_ns), data, make)


def _maker(form: str, encoding: str, text: bytes, kind: str) -> Callable[[], Decoder]:
    made: list[Decoder] = []

    def make() -> Decoder:
        if not made:
            if form != "cdr":
                raise UndecodableError(f"their encoding is {form[:40]!r}, and cdr is read")
            made.append(decoder(form, encoding, text, kind))
        return made[0]

    return make


FORMAT = Format(
    name="rosbag2",
    what='rosbag2 folders (.db3, .mcap) and MCAP files, without ROS; pip install "digital-dreaming[ros]"',
    detects=detects,
    read=read,
)
