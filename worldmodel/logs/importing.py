"""Raw logs of any format to a log folder, all or nothing."""

import json
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import UserError, to_dict
from worldmodel.checkpoint import write_atomically
from worldmodel.episode import Episode
from worldmodel.log_format import SCHEMA, make_schema, read_schema
from worldmodel.logs.episodes import EMPTY, Converter, mapped_names
from worldmodel.logs.formats import Format, detect
from worldmodel.logs.mapping import ForeignCodeError, LogMapping, PythonReward, find_mapping
from worldmodel.storage import LogWriter

AT_ONCE = 1 << 20  # bytes


def as_log_folder(
    data: str | Path, into: str | Path, mapping: str | Path | None = None, reward: str | None = None
) -> Path:
    """The log folder behind `--data`: itself, or `into`, filled from the logs that `data` is or holds.

    Args:
        mapping: YAML file or name of a packaged one; by default the one beside the logs (`find_mapping`).
        reward: instead of the mapping's: a column, an expression, or a Python file (.py).
    """
    data, into = Path(data), Path(into)
    if (data / SCHEMA).is_file():
        if reward is not None:
            raise UserError(f"{data} holds imported or recorded logs, whose reward is set; --reward is for an import")
        return data
    one, found = find_format(data)
    return import_logs(one, found, into, with_reward(reward, found, mapping, one.draft(found), data))


def with_reward(
    reward: str | None, data: Path, mapping: str | Path | None, draft: LogMapping | None, named: Path
) -> LogMapping:
    """`find_mapping`'s, with this reward, if any, in place of its own."""
    try:
        found = find_mapping(data, mapping, draft, named)
    except ForeignCodeError as refused:
        if reward is None:
            raise
        found = refused.mapping
    if reward is None:
        return found
    return replace(found, reward=PythonReward(reward) if reward.endswith(".py") else reward)


def find_format(data: Path) -> tuple[Format, Path]:
    """How to read these logs; a folder that holds a single file of a format stands for that file."""
    if not data.exists():
        raise UserError(
            f"{data} does not exist; give a folder that record-rollouts wrote, an .npz file, or logs of another format "
            "(train-world-model --formats)"
        )
    found = detect(data)
    if found is None:
        if data.is_dir():
            read_schema(data)  # says what is wrong with it as a log folder
        raise UserError(f"{data} is of no format that is read; train-world-model --formats lists them")
    if data.is_dir():
        inside = [path for path in sorted(data.iterdir()) if path.is_file() and found.detects(path)]
        if len(inside) == 1 and not any(path.is_dir() for path in data.iterdir()):
            return found, inside[0]
    return found, data


def import_logs(one: Format, data: Path, into: Path, mapping: LogMapping) -> Path:
    """Fills the folder `into`; does nothing if these logs were imported there before, under the same mapping."""
    source = one.read(data, mapping)
    origin = {
        "file": data.name,
        "crc32": _checksum(source.files),
        "mapping": zlib.crc32(_content(mapping)),
    }
    if (into / SCHEMA).is_file():
        _check_same(into, data, origin)
        return into
    aside = into.with_name(into.name + ".importing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        converter = Converter(mapping)
        episodes = (episode for raw in source.episodes() for episode in converter.convert(raw))
        schema = _write(aside, converter, episodes, data)
        converter.check_reward(data)
        repairs = {what: count for what, count in sorted(converter.repairs.items()) if count}
        schema |= {"show": mapped_names(converter.observation, mapping.show), "source": {**origin, "repairs": repairs}}
        schema["action"] |= dict(zip(("low", "high"), converter.bounds(), strict=True))
        write_atomically(aside / SCHEMA, (json.dumps(schema, indent=2) + "\n").encode())
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if into.is_dir():
        if any(into.iterdir()):
            shutil.rmtree(aside)
            raise UserError(f"{into} is not empty and holds no logs; choose another run folder")
        into.rmdir()
    aside.rename(into)
    return into


def _content(mapping: LogMapping) -> bytes:
    """What another mapping would have otherwise: of a reward in Python the code, wherever it lies."""
    given = to_dict(mapping)
    if isinstance(mapping.reward, PythonReward):
        file = Path(mapping.reward.python)
        given["reward"] = zlib.crc32(file.read_bytes()) if file.is_file() else str(file)
    return json.dumps(given, sort_keys=True).encode()


def repairs_of(schema: dict[str, Any]) -> list[str]:
    """What the import of these logs mended, one line each."""
    return [f"{count:,} {what}" for what, count in (schema.get("source") or {}).get("repairs", {}).items()]


def _write(folder: Path, converter: Converter, episodes: Iterable[Episode], data: Path) -> dict[str, Any]:
    """Writes the episodes; their schema, whose bounds of the commands are known only afterwards."""
    writer = schema = None
    try:
        for episode in episodes:
            if writer is None:
                image, room = episode.observation.get("image"), [0.0] * len(converter.action)
                shape = None if image is None else image.shape[1:]
                names = converter.observation, converter.action
                schema = make_schema(converter.mapping.task, converter.hz, *names, room, room, shape)
                writer = LogWriter(folder, schema, sync=False)
            writer.append(episode)
    finally:
        if writer is not None:
            writer.close()
    if schema is None:
        raise UserError(f"{data} gives no episode. {_why_nothing(converter)}")
    return schema


def _why_nothing(converter: Converter) -> str:
    mended = ", ".join(f"{count:,} {what}" for what, count in converter.repairs.items() if count and what != EMPTY)
    if not mended:
        return "It holds no rows."
    steps = converter.mapping.gap_steps
    return (
        f"There were {mended}. At control_hz {converter.hz:g} and gap_steps {steps:g} a hole of "
        f"{steps / converter.hz:g} s splits an episode: give a lower control_hz, or more gap_steps."
    )


def _check_same(into: Path, data: Path, origin: dict[str, Any]) -> None:
    before = read_schema(into).get("source")
    if before is None:
        raise UserError(f"{into} already holds other logs; choose another run folder for {data}")
    for key, what in (("file", "version of it"), ("crc32", "version of it"), ("mapping", "mapping")):
        if before.get(key, origin[key]) != origin[key]:  # older imports have no mapping's checksum
            held = f"an import of {before['file']}, or another version of it"
            if what == "mapping":
                held = f"an import of {before['file']} under another mapping"
            raise UserError(f"{into} already holds {held}; choose another run folder for {data}")


def _checksum(files: Sequence[Path]) -> int:
    """Of the content, and with several files of their names."""
    checksum = 0
    for path in files:
        if len(files) > 1:
            checksum = zlib.crc32(path.name.encode(), checksum)
        with open(path, "rb") as file:
            while chunk := file.read(AT_ONCE):
                checksum = zlib.crc32(chunk, checksum)
    return checksum
