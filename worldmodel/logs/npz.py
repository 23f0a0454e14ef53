"""NumPy archives of robot logs: a `.npz` and a small YAML that says what its arrays mean, to a log folder.

The arrays are (E, T, ·), or flat (N, ·) with the start and length of each episode. A log samples observation and
command together, so T samples of an episode make T - 1 steps; the last command led to nothing that was recorded.
"""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, suggest
from worldmodel.episode import Episode
from worldmodel.log_format import SCHEMA, read_schema
from worldmodel.logs.mapping import Channels, LogMapping, find_mapping
from worldmodel.storage import LogWriter, make_schema


def as_log_folder(data: str | Path, into: str | Path, mapping: str | Path | None = None) -> Path:
    """The log folder behind `--data`: itself, or `into`, filled from the `.npz` that `data` is or holds.

    Args:
        mapping: YAML file or name of a packaged one; by default the YAML of the same name beside the archive, or the
            packaged one made for a file of that name.
    """
    data, into = Path(data), Path(into)
    if (data / SCHEMA).is_file():
        return data
    archive = _find_archive(data)
    return import_npz(archive, into, find_mapping(archive, mapping))


def import_npz(archive: Path, into: Path, mapping: LogMapping) -> Path:
    """Fills the folder `into`, all or nothing; does nothing if that archive was imported there before."""
    with open(archive, "rb") as file:
        source = {"file": archive.name, "crc32": zlib.crc32(file.read())}
    if (into / SCHEMA).is_file():
        before = read_schema(into).get("source")
        if before != source:
            there = f"an import of {before['file']}, or another version of it" if before else "other logs"
            raise UserError(f"{into} already holds {there}; choose another run folder for {archive}")
        return into
    arrays = _Archive(archive)
    schema = {**_schema(arrays, mapping), "show": _show(mapping), "source": source}
    aside = into.with_name(into.name + ".importing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with LogWriter(aside, schema, sync=False) as writer:
            for episode in _episodes(arrays, mapping):
                writer.append(episode)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if into.is_dir():
        if any(into.iterdir()):
            raise UserError(f"{into} is not empty and holds no logs; choose another run folder")
        into.rmdir()
    aside.rename(into)
    return into


def _find_archive(data: Path) -> Path:
    if data.is_dir():
        archives = sorted(data.glob("*.npz"))
        if len(archives) == 1:
            return archives[0]
        if archives:
            raise UserError(f"{data} holds several .npz files; give one: {', '.join(path.name for path in archives)}")
        read_schema(data)  # says what is wrong with it as a log folder
    if not data.exists():
        raise UserError(f"{data} does not exist; give a folder that record-rollouts wrote, or an .npz file")
    if data.suffix != ".npz":
        raise UserError(f"{data} is not an .npz file; give one, or a folder that record-rollouts wrote")
    return data


class _Archive:
    """Arrays by name, with errors that name the file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = np.load(path, allow_pickle=False)  # a pickle runs code of whoever wrote the file
        except (ValueError, EOFError, zipfile.BadZipFile):
            raise UserError(f"{path} is damaged or not an .npz archive; export or copy it again") from None
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds a single array; save the arrays with np.savez")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._file.files:
            raise UserError(f"{self.path}: array {suggest(name, self._file.files)}")
        try:
            return self._file[name]
        except ValueError as error:
            advice = "save it as numbers or text" if "pickle" in str(error) else "export or copy the file again"
            raise UserError(f"{self.path}: array {name} cannot be read; {advice}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise UserError(f"{self.path}: array {name} is damaged; export or copy the file again") from None


def _schema(arrays: _Archive, mapping: LogMapping) -> dict[str, Any]:
    for channels in (mapping.observation, mapping.action):
        array = arrays[channels.array]
        if array.ndim not in (2, 3):
            raise UserError(f"{arrays.path}: {channels.array} has shape {array.shape}, expected (E, T, ·) or (N, ·)")
        for key in ("names", "low", "high"):
            values = getattr(channels, key)
            if values is not None and len(values) != array.shape[-1]:
                raise UserError(
                    f"{arrays.path}: {channels.array} has {array.shape[-1]} columns, but the mapping gives "
                    f"{len(values)} {key}"
                )
        if array.size == 0:
            raise UserError(f"{arrays.path}: {channels.array} holds no samples")
    low, high = _bounds(arrays[mapping.action.array], mapping.action)
    names = mapping.observation.names, mapping.action.names
    return make_schema(mapping.task, _control_hz(arrays, mapping), *names, low, high)


def _show(mapping: LogMapping) -> list[str]:
    for name in mapping.show:
        if name not in mapping.observation.names:
            raise UserError(f"the mapping's show: {suggest(name, mapping.observation.names)}")
    return mapping.show


def _bounds(array: np.ndarray, channels: Channels) -> tuple[list[float], list[float]]:
    flat = array.reshape(-1, array.shape[-1])
    flat = flat.astype(np.float64) if flat.dtype.kind in "iuf" else flat[:0]
    flat = flat[np.isfinite(flat).all(axis=1)] if len(flat) else flat
    if not len(flat):  # the check of the first episode will say what is wrong
        return [-1.0] * array.shape[-1], [1.0] * array.shape[-1]
    low, high = flat.min(axis=0), flat.max(axis=0)
    low, high = np.where(low < high, low, low - 1), np.where(low < high, high, high + 1)  # a constant command
    return channels.low or low.tolist(), channels.high or high.tolist()


def _control_hz(arrays: _Archive, mapping: LogMapping) -> float:
    if (mapping.control_hz is None) == (mapping.dt_s is None):
        raise UserError(f"the mapping of {arrays.path} must give control_hz or dt_s, and not both")
    if mapping.control_hz is not None:
        return mapping.control_hz
    dt_s = arrays[mapping.dt_s] if isinstance(mapping.dt_s, str) else np.array(mapping.dt_s)
    if dt_s.size != 1 or not dt_s.item() > 0:
        raise UserError(f"{arrays.path}: dt_s must be one number above 0, not {dt_s}")
    return 1 / float(dt_s.item())


def _episodes(arrays: _Archive, mapping: LogMapping) -> Iterator[Episode]:
    observation, action = arrays[mapping.observation.array], arrays[mapping.action.array]
    samples = observation.shape[:-1]
    _check_samples(action.shape[:-1], samples, mapping.action.array, arrays)
    reward = arrays[mapping.reward] if mapping.reward else None
    if reward is not None:
        _check_samples(reward.shape, samples, mapping.reward, arrays)
    slices = _slices(arrays, mapping, samples)
    labels = {**mapping.info, **({"split": mapping.split} if mapping.split else {})}
    columns = {key: _per_episode(arrays, name, len(slices)) for key, name in labels.items()}
    ends = _ends(arrays, mapping, slices, samples)
    for i, where in enumerate(slices):
        name = f"{arrays.path}: episode {i}"
        vector, commands = observation[where], action[where][:-1]
        if len(vector) < 2:
            raise UserError(f"{name} has {len(vector)} samples; a step needs two")
        info = {"task": mapping.task, "source": arrays.path.name, "source_episode": i, "policy": "log"}
        yield Episode(
            observation={"vector": vector},
            action=commands,
            applied_action=commands,
            reward=np.zeros(len(commands), np.float32) if reward is None else reward[where][:-1],
            push=np.zeros(len(commands), np.float32),
            terminated=ends[i],
            truncated=not ends[i],
            info={
                **info,
                **({"reward": "none"} if reward is None else {}),
                **{key: column[i].item() for key, column in columns.items()},
            },
        ).check(name)


def _check_samples(shape: tuple[int, ...], samples: tuple[int, ...], array: str | None, arrays: _Archive) -> None:
    if shape != samples:
        raise UserError(f"{arrays.path}: {array} has {shape} samples, the observation has {samples}")


def _slices(arrays: _Archive, mapping: LogMapping, samples: tuple[int, ...]) -> list[Any]:
    """What to index an array of samples with, for each episode."""
    if len(samples) == 2:
        if mapping.episodes:
            raise UserError(f"{arrays.path}: {mapping.observation.array} has a dimension of episodes; drop `episodes`")
        return list(range(samples[0]))
    if mapping.episodes is None:
        return [slice(0, samples[0])]
    starts, lengths = arrays[mapping.episodes.start], arrays[mapping.episodes.length]
    if starts.ndim != 1 or starts.shape != lengths.shape or {starts.dtype.kind, lengths.dtype.kind} - set("iu"):
        raise UserError(
            f"{arrays.path}: {mapping.episodes.start} {starts.dtype}{starts.shape} and {mapping.episodes.length} "
            f"{lengths.dtype}{lengths.shape} must be whole numbers, one an episode"
        )
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if start < 0 or length < 0 or start + length > samples[0]:
            raise UserError(
                f"{arrays.path}: episode {i} (from {start}, {length} samples) leaves the {samples[0]} there are"
            )
    return [slice(int(start), int(start + length)) for start, length in zip(starts, lengths, strict=True)]


def _per_episode(arrays: _Archive, name: str, episodes: int) -> np.ndarray:
    column = arrays[name]
    if column.shape != (episodes,):
        raise UserError(
            f"{arrays.path}: {name} has shape {column.shape}, expected one value for each of {episodes} episodes"
        )
    return column


def _ends(arrays: _Archive, mapping: LogMapping, slices: list[Any], samples: tuple[int, ...]) -> list[bool]:
    if mapping.terminated is None:
        return [False] * len(slices)
    flags = arrays[mapping.terminated]
    if flags.shape == (len(slices),) and flags.shape != samples:
        return [bool(flag) for flag in flags]
    _check_samples(flags.shape, samples, mapping.terminated, arrays)
    for i, where in enumerate(slices):
        if flags[where][:-2].any():
            raise UserError(f"{arrays.path}: episode {i} goes on after {mapping.terminated}; split it there")
    return [bool(flags[where].any()) for where in slices]
