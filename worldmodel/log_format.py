"""The files of a log folder, as bytes: schema, rows, images, index. `storage.py` says what they promise."""

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from worldmodel.episode import Episode

VERSION, WITH_IMAGES = 1, 2  # of logs without images, and of logs that have them in a file of their own
ROWS, IMAGES, INDEX, SCHEMA = "rows.npy", "images.npy", "episodes.jsonl", "schema.json"
STEP_FIELDS = ("action", "applied_action", "demonstrated", "reward", "push")
RECORD_KEYS = {"start", "length", "terminated", "truncated", "physics", "info", "crc32"}
_MAGIC = b"\x93NUMPY\x01\x00"
_COUNT_DIGITS = 20


def make_schema(
    task: str,
    control_hz: float,
    vector_names: Sequence[str],
    action_names: Sequence[str],
    action_low: Sequence[float],
    action_high: Sequence[float],
    image_shape: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The schema of a log whose observation is a float32 vector and, with `image_shape` (H, W, 3), a uint8 image."""
    observation: dict[str, Any] = {
        "vector": {"shape": [len(vector_names)], "dtype": "float32", "names": list(vector_names)}
    }
    if image_shape:
        observation["image"] = {"shape": list(image_shape), "dtype": "uint8"}
    action = {
        "names": list(action_names),
        "low": [float(x) for x in action_low],
        "high": [float(x) for x in action_high],
    }
    return {
        "version": WITH_IMAGES if image_shape else VERSION,
        "task": task,
        "control_hz": float(control_hz),
        "observation": observation,
        "action": action,
    }


def check_schema(schema: Any, where: str) -> dict[str, Any]:
    """Returns it as JSON would give it back; a UserError names what is missing or contradicts itself."""
    try:
        schema = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is not plain JSON: {error}") from None
    wanted = {"version": int, "task": str, "control_hz": (int, float), "observation": dict, "action": dict}
    for key, kind in wanted.items():
        if not isinstance(schema, dict) or not isinstance(schema.get(key), kind):
            raise UserError(f"{where} lacks a valid {key}; it needs {', '.join(wanted)}")
    if schema["version"] not in (VERSION, WITH_IMAGES):
        known = f"{VERSION} and {WITH_IMAGES}"
        raise UserError(f"{where} has version {schema['version']}; this program reads versions {known}")
    if not schema["control_hz"] > 0:
        raise UserError(f"{where}: control_hz is {schema['control_hz']}, expected above 0")
    if "vector" not in schema["observation"]:
        raise UserError(f'{where}: the observation lacks "vector"')
    for key in schema["observation"]:
        if key in STEP_FIELDS:
            raise UserError(f'{where}: an observation may not be called "{key}"; that is a column of its own')
    sizes = {key: len(schema["action"].get(key) or []) for key in ("names", "low", "high")}
    if len(set(sizes.values())) != 1 or not sizes["names"]:
        raise UserError(f"{where}: action needs as many names as low and high bounds, not {sizes}")
    try:
        row_dtypes(schema)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: every observation needs a shape and a dtype ({error})") from None
    return schema


def read_schema(folder: Path) -> dict[str, Any]:
    path = folder / SCHEMA
    if not folder.is_dir():
        what = "is a file, not a log folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; give a folder that record-rollouts wrote")
    if not path.is_file():
        inside = sorted(entry.parent.name for entry in folder.glob(f"*/{SCHEMA}"))
        advice = f"did you mean {folder / inside[0]}?" if inside else "give a folder that record-rollouts wrote"
        raise UserError(f"{folder} is not a log folder (no {SCHEMA} in it); {advice}")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a log of the same task") from None
    return check_schema(schema, str(path))


def check_same_schema(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    for key in sorted([*there, *wanted], key="version".__eq__):  # another version says less than what else differs
        if there.get(key) != wanted.get(key):
            raise UserError(
                f"{folder} holds logs of another kind: {_difference(key, there.get(key), wanted.get(key))}; "
                "choose another folder"
            )


def _difference(key: str, there: Any, wanted: Any) -> str:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for inner in [*there, *wanted]:
            if there.get(inner) != wanted.get(inner):
                return _difference(f"{key} {inner}", there.get(inner), wanted.get(inner))
    return f"{key} there is {_short(there)}, here {_short(wanted)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def row_dtypes(schema: Mapping[str, Any]) -> dict[str, np.dtype]:
    """One row of each file of rows, by the file's name: packed, little-endian.

    Images are a thousand times what numbers are. In a file of their own they do not have to be read, nor be in memory,
    where numbers are looked through. Logs of version 1 have them between the numbers.
    """
    actions = (len(schema["action"]["names"]),)
    fields: dict[str, Any] = {
        key: (key, np.dtype(entry["dtype"]).newbyteorder("<"), tuple(entry["shape"]))
        for key, entry in schema["observation"].items()
    }
    apart = [fields.pop("image")] if schema["version"] == WITH_IMAGES and "image" in fields else []
    rows = list(fields.values())
    rows += [(name, "<f4", actions) for name in ("action", "applied_action", "demonstrated")]
    rows += [("reward", "<f4"), ("push", "<f4")]
    return {ROWS: np.dtype(rows), **({IMAGES: np.dtype(apart)} if apart else {})}


def columns(schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the columns of an episode's arrays, as `Episode.check` takes them."""
    names = {key: schema["action"]["names"] for key in ("action", "applied_action", "demonstrated")}
    return {**names, "observation vector": schema["observation"]["vector"].get("names") or []}


def npy_header(dtype: np.dtype, count: int) -> bytes:
    """NPY format 1.0, padded so that its length does not depend on the count, which can then grow in place."""
    text = f"{{'descr': {dtype.descr!r}, 'fortran_order': False, 'shape': ({count},), }}"
    text += " " * (_COUNT_DIGITS - len(str(count)))
    text += " " * (-(len(_MAGIC) + 2 + len(text) + 1) % 64) + "\n"
    return _MAGIC + struct.pack("<H", len(text)) + text.encode("ascii")


def pack(episode: Episode, schema: Mapping[str, Any], name: str) -> list[np.ndarray]:
    """(T + 1,) structured rows for each file of rows. A UserError names the array that does not fit the schema."""
    parts = [np.zeros(episode.length + 1, dtype) for dtype in row_dtypes(schema).values()]
    if set(episode.observation) != set(schema["observation"]):
        has, expected = ", ".join(episode.observation), ", ".join(schema["observation"])
        raise UserError(f"{name}: the observation has {has}; these logs hold {expected}")
    for key, array in episode.observation.items():
        (part,) = (part for part in parts if key in (part.dtype.names or ()))
        _fill(part[key], array, f"{name}: observation {key}")
    for key in STEP_FIELDS:
        _fill(parts[0][key][:-1], getattr(episode, key), f"{name}: {key}")
    return parts


def _fill(target: np.ndarray, array: np.ndarray, name: str) -> None:
    if array.shape != target.shape:
        raise UserError(f"{name} has shape {array.shape}, these logs hold {target.shape}")
    if not np.can_cast(array.dtype, target.dtype, "same_kind"):
        raise UserError(f"{name} is {array.dtype}, these logs hold {target.dtype}")
    with np.errstate(over="ignore"):
        target[...] = array
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        row = np.argwhere(~np.isfinite(target))[0][0]
        raise UserError(f"{name} in row {row} is too large for {target.dtype}")


def index_line(record: Mapping[str, Any], parts: Sequence[np.ndarray], name: str) -> bytes:
    """The record as a line of the index, its CRC added."""
    try:
        text = json.dumps(record, allow_nan=False, default=_plain_number)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: physics and info must be plain JSON ({error})") from None
    record = json.loads(text)  # keys that are no text became text: the CRC is of what will be read back
    return (json.dumps({**record, "crc32": record_crc(record, parts)}) + "\n").encode("ascii")


def record_crc(record: Mapping[str, Any], parts: Sequence[np.ndarray]) -> int:
    """Args: parts: the episode's rows in each file."""
    text = json.dumps({key: value for key, value in record.items() if key != "crc32"})
    crc = 0
    for rows in parts:
        crc = zlib.crc32(rows.tobytes(), crc)
    return zlib.crc32(text.encode("ascii"), crc)


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.60} is not")


def read_index(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete lines and where the last of them ends, in bytes. What follows is the tail of a crash."""
    path = folder / INDEX
    if not path.exists():
        return [], 0
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    records, start = [], 0
    for number, line in enumerate(data[:end].split(b"\n")[:-1], 1):
        record = _parse_line(line)
        if record is None or record["start"] != start:
            raise UserError(
                f"{path} line {number} is damaged; restore the file, or delete that line and all after it "
                f"to keep the first {number - 1} episodes"
            )
        start += record["length"] + 1
        records.append(record)
    return records, end


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= RECORD_KEYS else None


def count_rows(records: Sequence[Mapping[str, Any]]) -> int:
    return records[-1]["start"] + records[-1]["length"] + 1 if records else 0


def check_rows_file(path: Path, dtype: np.dtype, records: Sequence[Mapping[str, Any]]) -> int:
    """Where the first row begins, in bytes. A UserError where the file holds other rows, or fewer, than it should."""
    wanted = count_rows(records)
    header = npy_header(dtype, 0)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            found = file.read(len(header))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; copy the whole folder") from None
    fixed = header.index(b"'shape'")
    if len(found) == len(header) and found[:fixed] != header[:fixed]:
        raise UserError(f"{path} does not hold the rows that {SCHEMA} describes; copy the whole folder again")
    present = max(0, size - len(header)) // dtype.itemsize
    if present < wanted:
        whole = sum(record["start"] + record["length"] + 1 <= present for record in records)
        raise UserError(
            f"{path} is cut short: {present} of {wanted} rows; copy it again, or keep only the first {whole} lines "
            f"of {INDEX} to go on with the episodes that are whole"
        )
    return len(header)


def write_at(file: int, data: bytes, offset: int) -> None:
    """All of it: the system may take a part at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
