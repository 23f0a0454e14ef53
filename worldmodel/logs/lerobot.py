"""LeRobotDataset v3 folders, through pyarrow alone. https://huggingface.co/docs/lerobot/lerobot-dataset-v3

    meta/info.json                              rate, and the name, type and shape of each feature
    meta/episodes/chunk-000/file-000.parquet    how long each episode is, and in which file it lies
    data/chunk-000/file-000.parquet             a row a frame, several episodes one after the other

Videos and images are not read: what is learnt here is the state and the commands.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from worldmodel.logs import drafts
from worldmodel.logs.formats import Format, RawEpisode, Source
from worldmodel.logs.guards import check_size, inside, read_json
from worldmodel.logs.mapping import SPLITS, Channels, Column, LogMapping
from worldmodel.logs.parquet_file import batches

INFO = Path("meta/info.json")
_BOOKKEEPING = ("index", "frame_index", "task_index")
_PLACE = re.compile(r"\{(chunk_index|file_index)(?::0?(\d)d)?\}")
_TASK = "lerobot_task"
_LATE_S = 1e-4
"""Within which LeRobot holds its own frames to the stated rate."""


@dataclass(frozen=True)
class _Episode:
    number: int
    length: int
    file: Path
    tasks: list[str]


class _Dataset:
    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / INFO
        inside(folder, INFO, str(folder))
        self.info = read_json(self.path)
        version = str(self.info.get("codebase_version"))
        if not version.startswith("v3."):
            raise UserError(
                f"{self.path} is of a LeRobotDataset {version}; v3 is read: convert it with "
                "lerobot/datasets/v30/convert_dataset_v21_to_v30.py"
            )
        self.hz = self._get("fps", (int, float))
        if not 0 < self.hz < 1e6:
            raise UserError(f"{self.path}: fps is {self.hz}, expected above 0")
        self.widths, self.left_out = self._features(self._get("features", (dict,)))
        self.splits = self._splits()

    def _get(self, key: str, kinds: tuple[type, ...]) -> Any:
        value = self.info.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UserError(f"{self.path}: {key} is {str(value)[:80]!r}; it is damaged")
        return value

    def _features(self, features: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
        """How many numbers a frame has of each feature; and the names of those that are no row of numbers."""
        widths: dict[str, int] = {}
        left_out = []
        for name, feature in features.items():
            feature = feature if isinstance(feature, dict) else {}
            dtype, shape = str(feature.get("dtype")), feature.get("shape")
            width = shape[0] if isinstance(shape, list) and len(shape) == 1 else None
            numbers = dtype.rstrip("0123456789") in ("float", "int", "uint", "bool")
            if not numbers or not isinstance(width, int) or width < 1:
                left_out.append(name)
            elif name not in _BOOKKEEPING:
                widths[name] = width
        if widths.get("episode_index") != 1:
            raise UserError(f"{self.path}: the features lack episode_index, which every frame has; it is damaged")
        check_size(8 * sum(widths.values()), f"{self.path}: a frame of these features", 2**20)
        return widths, left_out

    def _splits(self) -> list[tuple[int, int, str]]:
        """From, to, name; [] where there is only one."""
        splits = self.info.get("splits")
        found = []
        for name, episodes in splits.items() if isinstance(splits, dict) else ():
            ends = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(episodes))
            if ends and name.lower() in SPLITS:
                found.append((int(ends[1]), int(ends[2]), SPLITS[name.lower()]))
        return found if len({name for *_, name in found}) > 1 else []

    def file(self, chunk: int, file: int) -> Path:
        template = self._get("data_path", (str,))
        numbers = {"chunk_index": chunk, "file_index": file}
        name = _PLACE.sub(lambda place: f"{numbers[place[1]]:0{int(place[2] or 0)}d}", template)
        if "{" in name:  # not str.format, which would let the file ask for attributes and for gigabytes of padding
            raise UserError(f"{self.path}: data_path is {template[:80]!r}; expected chunk_index and file_index in it")
        return inside(self.folder, name, f"{self.path}: data_path")

    def episodes(self) -> list[_Episode]:
        columns = {"episode_index": 1, "length": 1, "data/chunk_index": 1, "data/file_index": 1}
        found = []
        for path in sorted((self.folder / "meta" / "episodes").glob("*/*.parquet")):
            inside(self.folder, path.relative_to(self.folder), str(self.folder))
            for batch in batches(path, columns, texts=("tasks",)):
                for i, (number, length, chunk, file) in enumerate(zip(*(batch[key] for key in columns), strict=True)):
                    if min(number, length, chunk, file) < 0:
                        raise UserError(f"{path}: row {i} has a number below 0; it is damaged")
                    tasks = batch["tasks"][i] if "tasks" in batch else []
                    found.append(_Episode(int(number), int(length), self.file(int(chunk), int(file)), tasks))
        if not found:
            raise UserError(f"{self.folder / 'meta' / 'episodes'} holds no list of episodes; copy the whole folder")
        return sorted(found, key=lambda episode: episode.number)


def read(path: Path, mapping: LogMapping | None) -> Source:
    dataset = _Dataset(path)
    listed = dataset.episodes()
    files = list(dict.fromkeys(episode.file for episode in listed))

    def episodes() -> Iterator[RawEpisode]:
        for file in files:
            here = {one.number: one for one in listed if one.file == file}
            yield from _file(dataset, file, here, drafts.asks_other_rate(mapping, dataset.hz))

    return Source([dataset.path, *files], episodes)


def _file(dataset: _Dataset, file: Path, listed: dict[int, _Episode], resampled: bool) -> Iterator[RawEpisode]:
    """The episodes of a file, whose rows come one episode after the other; with stamps if they are to be resampled."""
    waiting = dict(listed)
    parts: list[dict[str, np.ndarray]] = []
    current: int | None = None

    def finish() -> Iterator[RawEpisode]:
        if current is None:
            return
        columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        episode, rows = waiting.pop(current), len(columns["episode_index"])
        if rows != episode.length:
            raise UserError(
                f"{file}: episode {current} has {rows} frames, but meta/episodes says {episode.length}; "
                "copy the whole folder again"
            )
        yield _raw(dataset, file, episode, columns, resampled)

    for batch in batches(file, dataset.widths):
        numbers = batch["episode_index"]
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            if stop == start:
                continue
            number = int(numbers[start])
            if number != current:
                yield from finish()
                if number not in waiting:
                    raise UserError(
                        f"{file}: episode {number} comes here, but meta/episodes does not say so; copy the folder again"
                    )
                check_size(waiting[number].length * 8 * sum(dataset.widths.values()), f"{file}: episode {number}")
                current, parts = number, []
            parts.append({key: column[start:stop] for key, column in batch.items()})
            if sum(len(part["episode_index"]) for part in parts) > waiting[number].length:
                raise UserError(f"{file}: episode {number} has more than the {waiting[number].length} frames it should")
    yield from finish()
    if waiting:
        raise UserError(f"{file} lacks episode {min(waiting)}, which meta/episodes puts there; copy the folder again")


def _raw(
    dataset: _Dataset, file: Path, episode: _Episode, columns: dict[str, np.ndarray], resampled: bool
) -> RawEpisode:
    even = np.arange(len(columns.pop("episode_index"))) / dataset.hz
    stamps = columns.pop("timestamp", even).astype(np.float64)
    if (np.abs(stamps - stamps[0] - even) <= _LATE_S).all():  # to a rounding of float32
        stamps = even if resampled else None
    done, success = columns.get("next.done"), columns.get("next.success")
    splits = [name for start, stop, name in dataset.splits if start <= episode.number < stop]
    labels: dict[str, Any] = {_TASK: "; ".join(episode.tasks)}
    return RawEpisode(
        where=f"{file}: episode {episode.number}",
        source=file.relative_to(dataset.folder).as_posix(),
        columns=columns,
        time_s=stamps,
        # `next.done` alone marks every recording's end; with `next.success` it says whose end was the task's.
        terminated=bool(done[-1] and success[-1]) if done is not None and success is not None else None,
        labels=labels | ({"split": splits[0]} if splits else {}),
        repairs=Counter(f"features left out (pictures, text): {name}" for name in dataset.left_out),
    )


def draft(path: Path) -> LogMapping | None:
    dataset = _Dataset(path)
    seen = [name for name in dataset.widths if name.startswith("observation.")]
    if not seen or "action" not in dataset.widths:
        return None
    robot = dataset.info.get("robot_type") or path.resolve().name
    tasks = {task for one in dataset.episodes() for task in one.tasks}
    return LogMapping(
        task=f"{robot}: {tasks.pop()}" if len(tasks) == 1 else str(robot),
        control_hz=float(dataset.hz),
        observation=Channels(columns=_named(dataset, seen)),
        action=Channels(columns=_named(dataset, ["action"])),
        reward="next.reward" if "next.reward" in dataset.widths else None,
        split="split" if dataset.splits else None,
        info={_TASK: _TASK},
    )


def _named(dataset: _Dataset, features: list[str]) -> dict[str, Column | str]:
    """Our name of each number, to its column: the dataset's own names where they are as many, and no two alike."""
    named: dict[str, Column | str] = {}
    for feature in features:
        width = dataset.widths[feature]
        short = feature.removeprefix("observation.")
        names = _own_names(dataset.info["features"][feature].get("names"))
        if len(names) != width or len(set(names)) != width or set(names) & set(named):
            names = [short] if width == 1 else [f"{short}_{i}" for i in range(width)]
        columns = [feature] if width == 1 else [f"{feature}[{i}]" for i in range(width)]
        named |= dict(zip((re.sub(r"\W+", "_", name) for name in names), columns, strict=True))
    return named


def _own_names(names: Any) -> list[str]:
    """A list, or lists by kind: {motors: [...]}."""
    if isinstance(names, dict):
        names = [name for values in names.values() if isinstance(values, list) for name in values]
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


FORMAT = Format(
    name="lerobot",
    what='a LeRobotDataset v3 folder, without its videos; pip install "digital-dreaming[lerobot]"',
    detects=lambda path: (path / INFO).is_file(),
    read=read,
    draft=draft,
)
