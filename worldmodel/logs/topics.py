"""Messages of many topics to columns on clocks of their own."""

import io
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from configs import UserError
from worldmodel.logs.formats import RawEpisode, need
from worldmodel.logs.guards import MOST_BYTES, check_size
from worldmodel.logs.ros_messages import Decoder, UndecodableError, stamp_ns

_SAME_CLOCK_NS = 10 * 10**9
"""Stamps further than this from when they were logged are of another clock (a simulation's, a device's own)."""
_COLUMNS = 10_000  # of a recording, at most
_MOST_MESSAGE = 2**26  # bytes


def unpack_zstd(data: bytes, most: int) -> bytes:
    """At most one byte more than `most`, whatever the data claim. ValueError: they are damaged."""
    zstandard = need("zstandard", "ros")
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(io.BytesIO(data)) as reader:
            return reader.read(most + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


@dataclass
class _Alike:
    """Messages of a topic with the same fields."""

    logged_ns: array = field(default_factory=lambda: array("q"))
    stamped_ns: array = field(default_factory=lambda: array("q"))
    numbers: array = field(default_factory=lambda: array("d"))


class Topics:
    """Collects messages; a topic's name, a dot and the field name a column: `/joint_states.position[elbow]`.

    Args:
        where: the recording, for messages.
        wanted: whether a topic is.
        packed: each message is, with zstd.
    """

    def __init__(self, where: str, wanted: Callable[[str], bool], packed: bool = False):
        self._where, self._wanted, self._packed = where, wanted, packed
        self._alike: dict[str, dict[tuple[str, ...], _Alike]] = {}
        self._size = self._columns = 0
        self._refused: set[str] = set()
        self.repairs: Counter[str] = Counter()

    def add(self, topic: str, logged_ns: int, data: bytes, decoder: Callable[[], Decoder]) -> None:
        """A message; one that cannot be decoded counts as a repair."""
        if not self._wanted(topic) or topic in self._refused:
            return
        if self._packed:
            data = unpack_zstd(data, _MOST_MESSAGE)
            check_size(len(data), f"a message of {topic}", _MOST_MESSAGE)
        try:
            decode = decoder()
        except UndecodableError as error:
            self._refused.add(topic)
            self.repairs[f"topics left out: {topic}, as {error}"] += 1
            return
        try:
            values = decode(data)
        except UndecodableError as error:
            self.repairs[f"messages of {topic} left out, as {error}"] += 1
            return
        alike = self._alike.setdefault(topic, {}).setdefault(tuple(values), _Alike())
        if not alike.logged_ns:
            self._columns += len(values)
            if self._columns > _COLUMNS:
                raise UserError(f"{self._where}: more than {_COLUMNS:,} fields; {topic}'s change between messages")
        stamped_ns = stamp_ns(values)
        usable = stamped_ns is not None and abs(stamped_ns - logged_ns) < _SAME_CLOCK_NS
        alike.logged_ns.append(logged_ns)
        alike.stamped_ns.append(stamped_ns if usable and stamped_ns is not None else -1)
        alike.numbers.extend(values.values())
        self._size += 8 * len(values) + 16
        check_size(self._size, f"{self._where}: what its topics say", MOST_BYTES)

    def episode(self, source: str) -> RawEpisode:
        columns: dict[str, list[np.ndarray]] = {}
        clocks: dict[str, list[np.ndarray]] = {}
        for topic, kinds in self._alike.items():
            stamped = all(min(alike.stamped_ns) >= 0 for alike in kinds.values())
            if not stamped and any("header.stamp.sec" in names for names in kinds):
                count = sum(len(alike.logged_ns) for alike in kinds.values())
                self.repairs[f"messages of {topic} timed by when they were logged, as their stamps are not"] += count
            for names, alike in kinds.items():
                table = np.frombuffer(alike.numbers, np.float64).reshape(-1, max(1, len(names)))
                time_ns = np.frombuffer(alike.stamped_ns if stamped else alike.logged_ns, np.int64)
                for i, name in enumerate(names):
                    if name.startswith("header.stamp."):
                        continue  # it is the clock
                    columns.setdefault(f"{topic}.{name}", []).append(table[:, i])
                    clocks.setdefault(f"{topic}.{name}", []).append(time_ns)
        if not columns:
            reasons = "; ".join(self.repairs) or "it holds no messages"
            raise UserError(f"{self._where} gives no numbers: {reasons}")
        begin_ns = min(int(time_ns.min()) for parts in clocks.values() for time_ns in parts)
        episode = RawEpisode(self._where, source, {}, repairs=self.repairs)
        for name, parts in columns.items():
            time_ns = np.concatenate(clocks[name])
            order = np.argsort(time_ns, kind="stable")
            episode.columns[name] = np.concatenate(parts)[order]
            episode.clocks[name] = (time_ns[order] - begin_ns) / 1e9
        return episode
