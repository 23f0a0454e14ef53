"""One episode as a file has it to the channels that a mapping asks for: picked, in SI, by our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import UserError, suggest
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.mapping import Channels, Column, as_column

_INDEXED = re.compile(r"(.+)\[(\d+)\]")
_BRACKET = re.compile(r"\s*[\[(][^\])]*[\])]\s*$")
CONSTANT = 1e-6  # of its size: a factor that varies less within an episode is one value


@dataclass
class Channel:
    """Columns (T, k) of the file, named as ours, in SI, with their own clock if they have one."""

    names: list[str]
    value: np.ndarray  # (T, k) float64; an array of the log that is to be taken as it is keeps its type
    clock_s: np.ndarray | None
    angle: str | None
    low: list[float | None]
    high: list[float | None]


def find(raw: RawEpisode, names: list[str]) -> tuple[str, np.ndarray]:
    """The first of these columns that the file has, and its values. Units in brackets behind a name may be left out."""
    for name in names:
        if (there := _whole_name(raw, name)) is not None:
            return there, raw.columns[there]
        if (match := _INDEXED.fullmatch(name)) and (inner := _whole_name(raw, match[1])) is not None:
            value, index = raw.columns[inner], int(match[2])
            if value.ndim != 2 or index >= value.shape[1]:
                raise UserError(f"{raw.where}: there is no {name}; {inner} has shape {value.shape}")
            return inner, value[:, index]
    raise UserError(f"{raw.where}: column {suggest(names[0], raw.columns)}")


def _whole_name(raw: RawEpisode, name: str) -> str | None:
    """The column's name in the file. A UserError where several fit: which unit is meant is not for us to say."""
    if name in raw.columns:
        return name
    fit = [column for column in raw.columns if _BRACKET.sub("", column) == name]
    if len(fit) > 1:
        raise UserError(f'{raw.where}: "{name}" may be {" or ".join(fit[:8])}; give the whole name')
    return fit[0] if fit else None


def has(raw: RawEpisode, name: str) -> bool:
    """Whether `find` would find it, or several that it may be."""
    return name in raw.columns or name in {_BRACKET.sub("", one) for one in raw.columns}


def channels(raw: RawEpisode, wanted: Channels) -> list[Channel]:
    if wanted.array:
        return [_whole_array(raw, wanted)]
    found = []
    for name, spec in wanted.specs.items():
        column, value = find(raw, spec.names)
        if value.ndim > 2 or value.shape[1:] == (0,):
            raise UserError(f"{raw.where}: {column} has shape {value.shape}, expected (T,) or (T, k)")
        value = value[:, None] if value.ndim == 1 else value
        value = numbers(value, f"{raw.where}: {column}", spec.values) * spec.factor
        count = value.shape[1]
        names = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        if spec.angle == "sin_cos":
            names = [f"{one}_{part}" for one in names for part in ("sin", "cos")]
        ends = [[bound] * len(names) for bound in (spec.low, spec.high)]
        found.append(Channel(names, value, raw.clocks.get(column), spec.angle, *ends))
    for key in ("low", "high"):
        if given := getattr(wanted, key):
            _check_count(raw.where, key, given, sum(len(one.names) for one in found), "the mapping")
            rest = iter(given)
            for one in found:
                setattr(one, key, [next(rest) for _ in one.names])
    return found


def _whole_array(raw: RawEpisode, wanted: Channels) -> Channel:
    assert wanted.array
    column, value = find(raw, [wanted.array])
    if value.ndim != 2:
        raise UserError(f"{raw.where}: {column} has shape {value.shape}, expected (T, k)")
    count = value.shape[1]
    for key in ("names", "low", "high"):
        if (given := getattr(wanted, key)) is not None:
            _check_count(raw.where, key, given, count, column)
    names = wanted.names or [f"{column}_{i}" for i in range(count)]
    low: list[float | None] = [*(wanted.low or [None] * count)]
    high: list[float | None] = [*(wanted.high or [None] * count)]
    return Channel(list(names), value, raw.clocks.get(column), None, low, high)


def _check_count(where: str, key: str, given: list[Any], count: int, column: str) -> None:
    if len(given) != count:
        raise UserError(f"{where}: {column} has {count} columns, but the mapping gives {len(given)} {key}")


def numbers(value: np.ndarray, name: str, meaning: Mapping[str, float] | None = None) -> np.ndarray:
    """As float64; text by what the mapping says it stands for."""
    if value.dtype.kind in "fiub" and not meaning:
        return value.astype(np.float64)
    flat = value.ravel().astype(str)
    if meaning:
        known = {str(key): number for key, number in meaning.items()}
        unknown = next((text for text in flat if text not in known), None)
        if unknown is not None:
            raise UserError(f"{name}: the mapping's values: {suggest(unknown, known)}")
        return np.array([known[text] for text in flat]).reshape(value.shape)
    for row, text in enumerate(flat):
        try:
            float(text)
        except ValueError:
            raise UserError(
                f"{name}: {text[:40]!r} in row {row} is no number; say what text stands for with `values`"
            ) from None
    return flat.astype(np.float64).reshape(value.shape)


def clock(raw: RawEpisode, spec: Column | str) -> np.ndarray:
    """(T,) seconds of the mapping's `time`; text is read as a date."""
    spec = as_column(spec)
    column, value = find(raw, spec.names)
    if value.ndim != 1:
        raise UserError(f"{raw.where}: the clock {column} has shape {value.shape}, expected (T,)")
    if value.dtype.kind in "mM":
        value, spec = value.astype(f"{value.dtype.kind}8[ns]").astype(np.int64), Column(spec.names, unit="ns")
    elif value.dtype.kind in "OUS":
        try:
            stamps = np.array([str(text).strip().removesuffix("Z") for text in value], "datetime64[ns]")
        except ValueError as error:
            raise UserError(f"{raw.where}: the clock {column} is neither a number nor a date: {error}") from None
        value, spec = stamps.astype(np.int64), Column(spec.names, unit="ns")
    if value.dtype.kind in "iu" and len(value):  # nanoseconds since 1970 would lose their last digits as floats
        value = value - value[0]
    with np.errstate(over="ignore"):  # a stamp that no number can hold is as good as none
        time = numbers(value, f"{raw.where}: the clock {column}") * spec.factor
        return time - time[np.isfinite(time)][0] if np.isfinite(time).any() else time


def changes(value: np.ndarray) -> list[int]:
    """Rows that differ from the row before; NaN is like NaN."""
    both_missing = (value[1:] != value[1:]) & (value[:-1] != value[:-1])
    return (np.flatnonzero((value[1:] != value[:-1]) & ~both_missing) + 1).tolist()


def one_value(raw: RawEpisode, name: str) -> Any:
    """A label of the episode, or a column that holds one value throughout, as plain JSON."""
    if name in raw.labels:
        return raw.labels[name]
    if not has(raw, name):
        raise UserError(f"{raw.where}: label {suggest(name, [*raw.labels, *raw.columns])}")
    column, value = find(raw, [name])
    kept = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    if not len(kept):
        raise UserError(f"{raw.where}: {column} is empty, expected one value for the episode")
    same = np.ptp(kept) <= CONSTANT * np.abs(kept).max() if kept.dtype.kind in "fiu" else (kept == kept[0]).all()
    if value.ndim != 1 or not same:
        some = ", ".join(str(one) for one in np.unique(kept)[:3])
        raise UserError(
            f"{raw.where}: {column} is not one value for the episode ({some}, ...); "
            "split at its changes with `episode`, or leave it out"
        )
    return kept[0].item() if isinstance(kept[0], np.generic) else kept[0]
