"""What a Parquet file says of its columns, read from its footer and page headers (Apache Thrift's compact protocol).

A page of a few bytes can stand for billions of equal numbers, and pyarrow makes them all. It does not show the pages'
headers, and asking version 26 for the columns of a damaged footer ends the process (a C++ exception that nobody
catches), where reading the same file only raises. https://parquet.apache.org/docs/file-format/metadata
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs import UserError
from worldmodel.logs.guards import MOST_TEXT, check_size

MAGIC = b"PAR1"
_DEEP = 32
# Numbers of the fields that are looked at, by the structures of parquet.thrift.
_ROW_GROUPS, _COLUMNS, _ROWS, _OTHER_FILE, _CHUNK = 4, 1, 3, 1, 3
_PATH, _VALUES, _PACKED, _DATA_AT, _DICTIONARY_AT = 3, 5, 7, 9, 11
_PAGE_SIZE, _PAGE_PACKED, _PAGE_KINDS, _DATA_PAGES, _PAGE_VALUES = 2, 3, (5, 7, 8), (5, 8), 1
_MOST_HEADER = 2**16  # bytes of a page's header, statistics included


@dataclass(frozen=True)
class ColumnChunk:
    """One column in one group of rows."""

    path: str
    """As `action.list.element`."""
    rows: int
    values: int
    """Numbers in these rows, as the footer says."""
    begin: int
    """Byte of its first page."""
    packed: int
    """Bytes of all its pages."""


def check_pages(path: Path, chunk: ColumnChunk) -> int:
    """Bytes that it takes in memory, where a text that comes again is there once.

    Raises:
        UserError: its pages hold more numbers than the footer says, or unpack to more than may be in memory.
    """
    size = values = 0
    try:
        with open(path, "rb") as file:
            at, end = chunk.begin, chunk.begin + chunk.packed
            while at < end:
                file.seek(at)
                reader = _Reader(file.read(_MOST_HEADER))
                header = reader.struct()
                if header[_PAGE_PACKED] < 0 or header[_PAGE_SIZE] < 0:
                    raise ValueError("a page of less than nothing")
                kind = next(kind for kind in _PAGE_KINDS if kind in header)
                values += header[kind][_PAGE_VALUES] if kind in _DATA_PAGES else 0
                size += header[_PAGE_SIZE]
                check_size(size, f"{path}: {chunk.path}")
                if not 0 <= values <= chunk.values:
                    raise UserError(f"{path}: {chunk.path} has more numbers than its rows can; it is damaged")
                at += reader.at + header[_PAGE_PACKED]
        return max(size, 8 * chunk.values)
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise UserError(f"{path} is damaged in {chunk.path} ({str(error)[:80]}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def column_chunks(path: Path) -> list[ColumnChunk]:
    """UserError: the footer is damaged, or a column lies in another file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            length, magic = struct.unpack("<I4s", file.read(8))
            if magic != MAGIC or length > size - 8:
                raise ValueError("its end is missing")
            check_size(length, f"{path}: the footer", MOST_TEXT)
            file.seek(size - 8 - length)
            footer = _Reader(file.read(length)).struct()
        return [_chunk(chunk, int(group[_ROWS]), path) for group in footer[_ROW_GROUPS] for chunk in group[_COLUMNS]]
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is damaged or no Parquet file ({str(error)[:80]}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _chunk(chunk: dict[int, Any], rows: int, path: Path) -> ColumnChunk:
    if _OTHER_FILE in chunk:
        raise UserError(f"{path}: a column lies in another file; nothing outside is read: write it again as one file")
    content = chunk[_CHUNK]
    begin = content[_DATA_AT]
    if 0 < content.get(_DICTIONARY_AT, 0) < begin:  # as pyarrow decides it; some writers put a zero here
        begin = content[_DICTIONARY_AT]
    name = ".".join(part.decode() for part in content[_PATH])
    return ColumnChunk(name, rows, int(content[_VALUES]), int(begin), int(content[_PACKED]))


class _Reader:
    def __init__(self, data: bytes):
        self._data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Values by the number of the field."""
        if depth > _DEEP:
            raise ValueError("structures without end")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)  # a flag is its own value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            return self._list(head & 15, head >> 4 if head >> 4 < 15 else self._varint(), depth)
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"a field of kind {kind}")  # parquet.thrift has no maps

    def _list(self, kind: int, count: int, depth: int) -> list[Any]:
        if count > len(self._data) - self.at:
            raise ValueError("a list is longer than the footer")
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise ValueError("a text is longer than the footer")
        self.at += count
        return self._data[self.at - count : self.at]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise ValueError("a number without end")

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
