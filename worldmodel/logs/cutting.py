"""One recording to episodes: cut where the mapping's `episode` changes, and ended where its `terminated` rises."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from configs import UserError
from worldmodel.logs import channels
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.mapping import LogMapping

AFTER_END, FALLEN = "recordings split where the task ended", "rows left out after the task ended"


def parts(raw: RawEpisode, mapping: LogMapping, repairs: Counter[str]) -> Iterator[tuple[RawEpisode, bool]]:
    """The episodes in a recording, and whether each ended for good; counts repairs."""
    cuts, up, ended, lengths = list[int](), None, bool(raw.terminated), dict[str, int]()
    if mapping.episode is not None:
        name, value = channels.find(raw, [mapping.episode])
        cuts, lengths[name] = channels.changes(value), len(value)
    if mapping.terminated in raw.labels:
        ended = bool(raw.labels[mapping.terminated])
    elif mapping.terminated is not None:
        name, flags = channels.find(raw, [mapping.terminated])
        if flags.ndim != 1:
            raise UserError(f"{raw.where}: {name} has shape {flags.shape}, expected (T,)")
        up = np.nan_to_num(channels.numbers(flags, f"{raw.where}: {name}")) != 0
        lengths[name] = len(up)
    if not lengths:
        yield raw, ended
        return
    length, found = max(lengths.values()), list[tuple[int, int, bool]]()
    for start, stop in pairwise([0, *cuts, length]):
        here = [(0, stop - start, ended and stop == length)] if up is None else until_ended(up[start:stop])
        found += [(start + first, start + last, fell) for first, last, fell in here]
        repairs[AFTER_END] += sum(fell for *_, fell in here[:-1])
        if up is not None:
            repairs[FALLEN] += len(up[start:stop]) - sum(last - first for first, last, _ in here)
    if len(found) == 1 and found[0][:2] == (0, length):
        yield raw, found[0][2]
        return
    clock_s = _clock(raw, list(lengths))
    for start, stop, fell in found:
        yield _cut(raw, start, None if stop == length else stop, clock_s), fell


def until_ended(up: np.ndarray) -> list[tuple[int, int, bool]]:
    """The rows (from, to, whether the task ended there) of one episode in which the flag (T,) is down.

    Each with the row in which it rises, and the next one if it is still up there: what the last command led to. On the
    row before the last it speaks of the step to the last. Up in every row, it is a label. A last row that stands alone
    behind an end makes no step, and is left out.
    """
    count = len(up)
    if not count or up.all():
        return [(0, count, bool(count))]
    edges = np.flatnonzero(np.diff(up, prepend=True, append=True)).tolist()
    found = []
    for first, rises in zip(edges[::2], edges[1::2], strict=True):
        last = rises + 1
        last += last < count and bool(up[last] or last == count - 1)
        if first == 0 or count - first > 1:
            found.append((first, min(last, count), rises < count))
    return found


def _clock(raw: RawEpisode, by: Sequence[str]) -> np.ndarray | None:
    """Seconds of the rows at which it is cut; None where all columns have the same rows."""
    if not raw.clocks:
        return None
    for name in raw.columns:
        if name not in raw.clocks:
            raise UserError(f"{raw.where}: {name} has no clock and cannot be cut by that of {by[0]}; split the file")
    if not all(np.array_equal(raw.clocks[name], raw.clocks[by[0]]) for name in by):
        raise UserError(f"{raw.where}: {' and '.join(by)} have clocks of their own; it is cut by one: split the file")
    return raw.clocks[by[0]]


def _cut(raw: RawEpisode, start: int, stop: int | None, clock_s: np.ndarray | None) -> RawEpisode:
    """Rows, or what was logged between the times of the first and the last of them; without `stop` to the end."""
    if clock_s is None:
        to = max(len(value) for value in raw.columns.values()) if stop is None else stop
        return replace(
            raw,
            where=f"{raw.where}: rows {start} to {to - 1}",
            columns={name: value[start:stop] for name, value in raw.columns.items()},
            time_s=None if raw.time_s is None else raw.time_s[start:stop],
        )
    begin_s, end_s = clock_s[start] if start else -np.inf, np.inf if stop is None else clock_s[stop - 1]
    rows = {
        name: slice(np.searchsorted(own_s, begin_s), np.searchsorted(own_s, end_s, side="right"))
        for name, own_s in raw.clocks.items()
    }
    return replace(
        raw,
        where=f"{raw.where}: {max(begin_s, clock_s[0]):g} to {min(end_s, clock_s[-1]):g} s",
        columns={name: value[rows[name]] for name, value in raw.columns.items()},
        clocks={name: own_s[rows[name]] for name, own_s in raw.clocks.items()},
    )
