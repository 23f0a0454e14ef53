"""ROS 2 messages to named numbers, by the definitions that a recording brings along.

`rosbags` parses the definitions; its own decoders are code that it generates from them and runs, which is nothing for
files from elsewhere. Here the parsed definition is walked along the message's bytes (CDR, OMG's Common Data
Representation, as ROS 2 writes it).
"""

import json
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from worldmodel.logs.formats import need
from worldmodel.logs.guards import check_size

LONGEST = 64
"""Numbers of an array that become columns; longer ones are pictures, point clouds, maps."""
_DEEP = 32
_MOST_DEFINITION = 2**18  # bytes of text
_NUMBERS = {
    "bool": "u1", "byte": "u1", "char": "u1", "uint8": "u1", "int8": "i1", "uint16": "u2", "int16": "i2",
    "uint32": "u4", "int32": "i4", "uint64": "u8", "int64": "i8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_SCALARS = {
    "u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q", "f4": "f", "f8": "d",
}  # fmt: skip
_READERS = {(order, kind): struct.Struct(order + code) for kind, code in _SCALARS.items() for order in "<>"}
_LABELS = ("name", "joint_names")
"""Fields whose texts name the elements of the arrays beside them, as in JointState."""
Decoder = Callable[[bytes], dict[str, float]]


class UndecodableError(Exception):
    """A message, or all of a topic, that gives no numbers; it says why."""


def decoder(message_encoding: str, schema_encoding: str, schema: bytes, message_type: str) -> Decoder:
    """What turns a topic's messages into numbers by name: `position[0]`, `header.stamp.sec`.

    Raises:
        UndecodableError: such messages cannot be.
    """
    if message_encoding == "json":
        return _json
    if message_encoding != "cdr":
        raise UndecodableError(f"their encoding is {message_encoding[:40]!r}, and cdr and json are read")
    return _Cdr(_definitions(schema_encoding, schema, message_type), message_type)


def _definitions(encoding: str, schema: bytes, message_type: str) -> Mapping[str, Any]:
    """Parsed definitions by type; the standard ones, where a recording brings none."""
    typesys = need("rosbags.typesys", "ros")
    standard = typesys.get_typestore(typesys.Stores.LATEST).fielddefs
    if not schema and message_type in standard:
        return standard
    if encoding not in ("ros2msg", "ros2idl") or not schema:
        raise UndecodableError(f"there is no definition of {message_type[:80]} that can be read")
    check_size(len(schema), f"the definition of {message_type[:80]}", _MOST_DEFINITION)
    try:
        if encoding == "ros2idl":
            return {**standard, **typesys.get_types_from_idl(schema.decode())}
        return {**standard, **typesys.get_types_from_msg(schema.decode(), message_type)}
    except Exception as error:  # a parser of hostile text: whatever it trips over, the topic cannot be read
        raise UndecodableError(f"the definition of {message_type[:80]} is damaged ({str(error)[:80]})") from None


class _Cdr:
    def __init__(self, types: Mapping[str, Any], message_type: str):
        self._types, self._type = types, message_type

    def __call__(self, data: bytes) -> dict[str, float]:
        if data[:1] != b"\0" or data[1:2] not in (b"\0", b"\1") or len(data) < 4:
            raise UndecodableError("they are not plain CDR")
        found: dict[str, float] = {}
        self._struct(_Cursor(data[4:], "<" if data[1] else ">"), self._type, "", found, 0)
        return found

    def _struct(self, cursor: "_Cursor", name: str, prefix: str, found: dict[str, float], depth: int) -> None:
        if name not in self._types or depth > _DEEP:
            raise UndecodableError(f"their definition lacks {name[:80]}, or nests it without end")
        labels: tuple[str, ...] = ()
        for field, (node, what) in self._types[name][1]:
            cursor.step()
            here = f"{prefix}{field}"
            if node == 1:
                self._base(cursor, what[0], here, found)
            elif node == 2:
                self._struct(cursor, what, f"{here}.", found, depth + 1)
            else:
                (inner, of), count = what
                count = count if node == 3 else int(cursor.number("u4"))
                if inner == 2:
                    for i in range(count):
                        cursor.step()
                        self._struct(cursor, of, f"{here}[{i}].", found if i < LONGEST else {}, depth + 1)
                elif of[0] == "string":
                    texts = [cursor.text() for _ in range(count)]
                    if field in _LABELS and count <= LONGEST and all(0 < len(text) <= 64 for text in texts):
                        labels = _labels(tuple(texts))
                else:
                    numbers = cursor.numbers(_kind(of[0]), count)
                    if count <= LONGEST:
                        names = _elements(here, labels if len(labels) == count else (), count)
                        found.update(zip(names, numbers.tolist(), strict=True))

    def _base(self, cursor: "_Cursor", kind: str, here: str, found: dict[str, float]) -> None:
        if kind == "string":
            cursor.text()
        else:
            found[here] = cursor.number(_kind(kind))


def _kind(base: str) -> str:
    if base not in _NUMBERS:
        raise UndecodableError(f"they have a field of type {base}")
    return _NUMBERS[base]


@lru_cache(256)
def _labels(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Names of joints, if they can name columns: all different and printable."""
    good = len(set(texts)) == len(texts) and all(text.isprintable() for text in texts)
    return texts if good and not any(character in text for text in texts for character in "[]") else ()


@lru_cache(64)
def _elements(array: str, labels: tuple[str, ...], count: int) -> list[str]:
    """Names of an array's elements, the same in every message."""
    return [f"{array}[{label}]" for label in labels or range(count)]


class _Cursor:
    """Where in a message we are. CDR aligns a number to its own size, counted from behind the four bytes of header."""

    def __init__(self, data: bytes, order: str):
        self._data, self._order, self._at = data, order, 0
        self._steps = 1000 + 4 * len(data)

    def step(self) -> None:
        """A definition can ask for more than the message has bytes: structures of nothing, in arrays of billions."""
        self._steps -= 1
        if self._steps < 0:
            raise UndecodableError("they are far shorter than their definition")

    def number(self, kind: str) -> float:
        """One; NumPy takes longer to begin than to read it."""
        reader = _READERS[self._order, kind]
        at = self._at + -self._at % reader.size
        if at + reader.size > len(self._data):
            raise UndecodableError("they end before their fields do")
        self._at = at + reader.size
        return reader.unpack_from(self._data, at)[0]

    def numbers(self, kind: str, count: int) -> np.ndarray:
        size = int(kind[1])
        if count:
            self._at += -self._at % size
        end = self._at + count * size
        if end > len(self._data):
            raise UndecodableError("they end before their fields do")
        found = np.frombuffer(self._data, f"{self._order}{kind}", count, self._at) if count else np.zeros(0)
        self._at = end
        return found

    def text(self) -> str:
        self.step()
        size = int(self.number("u4"))
        if self._at + size > len(self._data):
            raise UndecodableError("they end before their fields do")
        text = self._data[self._at : self._at + size].rstrip(b"\0").decode("utf-8", "replace")
        self._at += size
        return text


def _json(data: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    try:
        _flatten(json.loads(data), "", found)
    except (ValueError, RecursionError, OverflowError):
        raise UndecodableError("they are not JSON") from None
    return found


def _flatten(value: Any, name: str, found: dict[str, float]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else key, found)
    elif isinstance(value, list) and len(value) <= LONGEST:
        for i, inner in enumerate(value):
            _flatten(inner, f"{name}[{i}]", found)
    elif isinstance(value, int | float):
        found[name] = float(value)


def stamp_ns(values: Mapping[str, float]) -> int | None:
    """When the message's header says that it was taken."""
    try:
        seconds, nanoseconds = values["header.stamp.sec"], values.get("header.stamp.nanosec")
        return int(seconds) * 10**9 + int(values["header.stamp.nsec"] if nanoseconds is None else nanoseconds)
    except (KeyError, OverflowError, ValueError):
        return None
