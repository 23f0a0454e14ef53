"""NumPy archives: arrays (E, T, ·), or flat (N, ·) with the start and length of each episode.

A log samples observation and command together, so T samples of an episode make T - 1 steps; the last command led to
nothing that was recorded.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, suggest
from worldmodel.logs.channels import changes
from worldmodel.logs.formats import Format, RawEpisode, Source, files_here, first_bytes, is_named
from worldmodel.logs.guards import MOST_BYTES
from worldmodel.logs.mapping import Column, LogMapping, Slices, as_column

MOST = 1 << 30  # bytes that an array may always unpack to
RATIO = 200  # times its packed size that a larger one may


def detects(data: Path) -> bool:
    if data.is_dir():
        return any(detects(path) for path in files_here(data, "*.npz"))
    return data.is_file() and (data.suffix == ".npz" or (first_bytes(data, 4) == b"PK\3\4" and _has_arrays(data)))


def read(data: Path, mapping: LogMapping | None) -> Source:
    files, pattern = files_here(data, "*.npz") if data.is_dir() else [data], mapping.files if mapping else None
    files = [path for path in files if is_named(path, data, pattern)]
    if not files:
        raise UserError(f"{data} holds no .npz files among {pattern}")

    def episodes() -> Iterator[RawEpisode]:
        for file in files:
            yield from _episodes(Archive(file), mapping)

    return Source(files, episodes)


def _has_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False


class Archive:
    """Arrays by name, with errors that name the file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = np.load(path, allow_pickle=False)  # a pickle runs code of whoever wrote the file
        except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile):
            raise UserError(f"{path} is damaged or not an .npz archive; export or copy it again") from None
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array; save the arrays with np.savez")
        self.names = list(self._file.files)
        with zipfile.ZipFile(path) as members:
            self._members = {info.filename.removesuffix(".npy"): info for info in members.infolist()}
        self._unpacked: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise UserError(f"{self.path}: array {suggest(name, self.names)}")
        member = self._members[name]
        if member.file_size > max(MOST, RATIO * member.compress_size):
            size = f"{member.compress_size / 1e6:.1f} MB to {member.file_size / 1e9:.1f} GB"
            raise UserError(f"{self.path}: array {name} would unpack from {size}; save it in parts")
        self._unpacked.add(name)
        self._check(self._unpacked)
        try:
            array = self._file[name]
        except ValueError as error:
            advice = "save it as numbers or text" if "pickle" in str(error) else "export or copy the file again"
            raise UserError(f"{self.path}: array {name} cannot be read; {advice}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, MemoryError):
            raise UserError(f"{self.path}: array {name} is damaged; export or copy the file again") from None
        if not isinstance(array, np.ndarray):  # a member that is no .npy comes as bytes
            raise UserError(f"{self.path}: {name} is not an array; save it with np.savez")
        return array

    def all(self) -> dict[str, np.ndarray]:
        self._check(self.names)
        return {name: self[name] for name in self.names}

    def _check(self, names: Iterable[str]) -> None:
        """What these take together; members may share their packed bytes, so that the file alone says how many."""
        size, packed = sum(self._members[name].file_size for name in names), self.path.stat().st_size
        if size > max(MOST_BYTES, RATIO * packed):
            told = f"{packed / 1e6:.1f} MB to more than {size / 1e9:.1f} GB"
            raise UserError(f"{self.path}: its arrays would unpack from {told}; save it in parts")


def _episodes(arrays: Archive, mapping: LogMapping | None) -> Iterator[RawEpisode]:
    """Of an archive, as the mapping says; without one, as the shapes suggest."""
    if mapping is None:
        yield from _unmapped(arrays)
        return
    rows, samples = _row_arrays(arrays, mapping)
    slices = _slices(arrays, mapping, samples)
    labels = {name: _per_episode(arrays, name, len(slices)) for name in _label_names(arrays, mapping, samples)}
    once = {}
    if isinstance(mapping.dt_s, str):
        dt_s = arrays[mapping.dt_s]
        once[mapping.dt_s] = dt_s.item() if dt_s.size == 1 else dt_s
    if mapping.terminated is not None:
        flags = arrays[mapping.terminated]
        if flags.shape == (len(slices),) and flags.shape != samples:
            labels[mapping.terminated] = flags
        else:
            _check_samples(flags.shape, samples, mapping.terminated, arrays)
            rows[mapping.terminated] = flags
    for i, where in enumerate(slices):
        columns = {name: array[where] for name, array in rows.items()}
        cuts = changes(columns[mapping.episode]) if mapping.episode is not None else []
        if mapping.terminated in rows and any(one[:-2].any() for one in np.split(columns[mapping.terminated], cuts)):
            raise UserError(f"{arrays.path}: episode {i} goes on after {mapping.terminated}; split it there")
        here = {name: column[i].item() for name, column in labels.items()}
        yield RawEpisode(f"{arrays.path}: episode {i}", arrays.path.name, columns, labels={**once, **here})


def _row_arrays(arrays: Archive, mapping: LogMapping) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Arrays with a row for each sample, and the shape of the samples: (E, T) or (N,)."""
    rows: dict[str, np.ndarray] = {}
    samples: tuple[int, ...] | None = None
    for channels in (mapping.observation, mapping.action):
        for spec in channels.specs.values():
            name = _name(arrays, spec)
            array = rows[name] = arrays[name]
            if array.ndim not in ((2, 3) if channels.array else (1, 2, 3)):
                raise UserError(f"{arrays.path}: {name} has shape {array.shape}, expected (E, T, ·) or (N, ·)")
            if array.size == 0:
                raise UserError(f"{arrays.path}: {name} holds no samples")
            here = array.shape[:-1] if channels.array or array.ndim == 3 else array.shape[:1]
            samples = samples or here
            _check_samples(here, samples, name, arrays)
    assert samples is not None
    others = [_name(arrays, as_column(mapping.time))] if mapping.time is not None else []
    others += [name for name in (mapping.image, mapping.episode) if name is not None]
    reward = mapping.reward if isinstance(mapping.reward, str) else None
    others += [reward] if reward in arrays.names else []  # else an expression
    for name in others:
        rows[name] = arrays[name]
        _check_samples(rows[name].shape[: len(samples)], samples, name, arrays)
        if name == mapping.reward:
            _check_samples(rows[name].shape, samples, name, arrays)
    return rows, samples


def _name(arrays: Archive, spec: Column) -> str:
    """The array that the column lies in: the first that there is."""
    plain = [name if name in arrays.names else name.partition("[")[0] for name in spec.names]
    return next((name for name in plain if name in arrays.names), plain[0])


def _label_names(arrays: Archive, mapping: LogMapping, samples: tuple[int, ...]) -> list[str]:
    """Arrays that the mapping takes one value an episode from."""
    physics = [as_column(one) for one in mapping.physics.values() if not isinstance(one, int | float)]
    names = [*mapping.info.values(), *([mapping.split] if mapping.split else [])]
    names += [_name(arrays, one) for one in physics]
    by_path = set(re.compile(mapping.path).groupindex) if mapping.path else set()
    return [name for name in dict.fromkeys(names) if name not in by_path]


def _check_samples(shape: tuple[int, ...], samples: tuple[int, ...], array: str, arrays: Archive) -> None:
    if shape != samples:
        raise UserError(f"{arrays.path}: {array} has {shape} samples, the observation has {samples}")


def _slices(arrays: Archive, mapping: LogMapping, samples: tuple[int, ...]) -> list[Any]:
    """What to index an array of samples with, for each episode."""
    if len(samples) == 2:
        if mapping.episodes:
            raise UserError(f"{arrays.path}: the observation has a dimension of episodes; drop `episodes`")
        return list(range(samples[0]))
    if mapping.episodes is None:
        return [slice(0, samples[0])]
    starts, lengths = arrays[mapping.episodes.start], arrays[mapping.episodes.length]
    if starts.ndim != 1 or starts.shape != lengths.shape or {starts.dtype.kind, lengths.dtype.kind} - set("iu"):
        raise UserError(
            f"{arrays.path}: {mapping.episodes.start} {starts.dtype}{starts.shape} and {mapping.episodes.length} "
            f"{lengths.dtype}{lengths.shape} must be whole numbers, one an episode"
        )
    pairs = [(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]
    for i, (start, length) in enumerate(pairs):
        if start < 0 or length < 0 or start + length > samples[0]:
            raise UserError(
                f"{arrays.path}: episode {i} (from {start}, {length} samples) leaves the {samples[0]} there are"
            )
    return [slice(start, start + length) for start, length in pairs]


def _per_episode(arrays: Archive, name: str, episodes: int) -> np.ndarray:
    column = arrays[name]
    if column.shape != (episodes,):
        raise UserError(
            f"{arrays.path}: {name} has shape {column.shape}, expected one value for each of {episodes} episodes"
        )
    return column


def _unmapped(arrays: Archive) -> Iterator[RawEpisode]:
    """The largest group of arrays that agree in their samples, cut into episodes where it has a dimension of them."""
    whole = arrays.all()
    samples = _likely_samples(whole)
    if not samples:
        raise UserError(f"{arrays.path} holds no arrays with rows; there are {', '.join(arrays.names) or 'none'}")
    rows = {name: array for name, array in whole.items() if array.shape[: len(samples)] == samples}
    where: list[Any] = list(range(samples[0])) if len(samples) == 2 else [slice(None)]
    if len(samples) == 1 and (found := likely_slices(whole, samples[0])):
        pairs = zip(whole[found.start].tolist(), whole[found.length].tolist(), strict=True)
        where = [slice(start, start + length) for start, length in pairs]
    labels = {name: array for name, array in whole.items() if array.shape == (len(where),) and name not in rows}
    for i, index in enumerate(where):
        columns = {name: array[index] for name, array in rows.items()}
        here = {name: array[i].item() for name, array in labels.items()}
        yield RawEpisode(f"{arrays.path}: episode {i}", arrays.path.name, columns, labels=here)


def _likely_samples(whole: dict[str, np.ndarray]) -> tuple[int, ...]:
    """(E, T) where most of the numbers lie in arrays (E, T, ·), else (N,)."""
    weight: Counter[tuple[int, ...]] = Counter()
    for array in whole.values():
        if array.ndim in (1, 2, 3) and array.size and array.dtype.kind in "fiub":
            weight[array.shape[:2] if array.ndim == 3 else array.shape[:1]] += array.size
    return weight.most_common(1)[0][0] if weight else ()


def likely_slices(whole: dict[str, np.ndarray], rows: int) -> Slices | None:
    """Two arrays that cut the rows without remainder: each start is where the episode before ends."""
    whole_numbers = {name: array for name, array in whole.items() if array.ndim == 1 and array.dtype.kind in "iu"}
    for start, starts in whole_numbers.items():
        for length, lengths in whole_numbers.items():
            if start != length and len(starts) == len(lengths) >= 1 and lengths.min() > 0:
                ends = np.cumsum(lengths)
                if ends[-1] == rows and np.array_equal(starts, ends - lengths):
                    return Slices(start, length)
    return None


FORMAT = Format("npz", "NumPy archives of arrays (E, T, k) or (N, k); needs a mapping", detects, read)
