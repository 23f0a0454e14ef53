"""The messages of an MCAP file, one record after the other. https://mcap.dev/spec

The index at the end is not used: a recording that was cut off has none, and what lies before the cut is still good.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from configs import UserError
from worldmodel.logs.formats import need
from worldmodel.logs.guards import check_size
from worldmodel.logs.ros_messages import Decoder, decoder
from worldmodel.logs.topics import Topics, unpack_zstd

if TYPE_CHECKING:
    from mcap.records import Channel, Chunk, Schema

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_MOST_RECORD = 2**28
"""Bytes of a chunk or message, packed and unpacked; recorders cut chunks at a few MB."""
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, logged and published at (ns)


def add_messages(path: Path, topics: Topics) -> None:
    """All messages of the file.

    Raises:
        UserError: the file is damaged; it says at which byte.
    """
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    decoders: dict[int, Decoder] = {}
    at = 0
    try:
        for at, code, body in _unpacked(path, topics):  # noqa: B007
            if code == _SCHEMA:
                schema = _parse("Schema", body)
                schemas[schema.id] = schema
            elif code == _CHANNEL:
                channel = _parse("Channel", body)
                channels[channel.id] = channel
            else:
                number, _, logged_ns, _ = _MESSAGE_HEAD.unpack_from(body)
                if number not in channels:
                    raise ValueError(f"a message of channel {number}, which was not announced")
                make = _maker(channels[number], schemas, decoders)
                topics.add(channels[number].topic, min(logged_ns, 2**63 - 1), body[_MESSAGE_HEAD.size :], make)
    except _broken() as error:
        raise _damaged(path, at, error) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _broken() -> tuple[type[Exception], ...]:
    """What reading nonsense raises."""
    return need("mcap.exceptions", "ros").McapError, struct.error, ValueError, EOFError, OverflowError


def _damaged(path: Path, at: int, error: Exception) -> UserError:
    return UserError(f"{path} is damaged at byte {at:,}, or in what lies there: {str(error)[:120]}; copy it again")


def _maker(channel: "Channel", schemas: dict[int, "Schema"], made: dict[int, Decoder]) -> Callable[[], Decoder]:
    def make() -> Decoder:
        if channel.id not in made:
            schema = schemas.get(channel.schema_id)
            described = (schema.encoding, schema.data, schema.name) if schema else ("", b"", "a message without schema")
            made[channel.id] = decoder(channel.message_encoding, *described)
        return made[channel.id]

    return make


def _unpacked(path: Path, topics: Topics) -> Iterator[tuple[int, int, bytes]]:
    """Where each schema, channel and message lies in the file (its chunk's place), its code and its content."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for at, code, body in _records(file, size, (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK), topics):
            if code == _CHUNK:
                try:
                    content = _unpack(_parse("Chunk", body), f"{path}: the chunk at byte {at:,}")
                except _broken() as error:
                    raise _damaged(path, at, error) from None
                inside = _records(io.BytesIO(content), len(content), (_SCHEMA, _CHANNEL, _MESSAGE), None)
                yield from ((at, inner, record) for _, inner, record in inside)
            else:
                yield at, code, body


def _records(
    file: io.BufferedIOBase, size: int, wanted: tuple[int, ...], topics: Topics | None
) -> Iterator[tuple[int, int, bytes]]:
    """Args:
    topics: a file may end within a record, which is counted there; inside of a chunk (None) it may not.
    """
    at = 0 if topics is None else len(MAGIC)
    file.seek(at)
    while at < size:
        head = file.read(9)
        code, length = struct.unpack("<BQ", head) if len(head) == 9 else (0, size)
        if at + 9 + length > size:
            if topics is None:
                raise ValueError("a record is longer than its chunk")
            topics.repairs["recordings cut off: what came before is used"] += 1
            return
        if code == _DATA_END:
            return
        if code in wanted:
            check_size(length, f"{getattr(file, 'name', 'a chunk')}: a record at byte {at:,}", _MOST_RECORD)
            yield at, code, file.read(length)
        at += 9 + length
        file.seek(at)


def _parse(kind: str, body: bytes):
    records, streams = need("mcap.records", "ros"), need("mcap.data_stream", "ros")
    return getattr(records, kind).read(streams.ReadDataStream(io.BytesIO(body)))


def _unpack(chunk: "Chunk", where: str) -> bytes:
    """The chunk's records, of the size that it states and no more."""
    size = chunk.uncompressed_size
    check_size(size, where, _MOST_RECORD)
    if chunk.compression == "":
        data = chunk.data
    elif chunk.compression == "zstd":
        data = unpack_zstd(chunk.data, size)
    elif chunk.compression == "lz4":
        data = need("lz4.frame", "ros").LZ4FrameDecompressor().decompress(chunk.data, max_length=size + 1)
    else:
        raise ValueError(f"its chunks are packed with {chunk.compression[:20]!r}; lz4 and zstd are read")
    if len(data) != size or (chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc):
        raise ValueError("a chunk does not hold what it should")
    return data
