"""The formats that raw logs come in, and what a reader of one gives: episodes as named time series.

A format is a module of this package with a `FORMAT`. Its reader knows files and nothing of models; `importing.py` knows
nothing of files and makes Episodes of what the reader gives. Modules are light to import: what a reader needs beyond
NumPy it imports when it reads, through `need`.
"""

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from configs import UserError
from worldmodel.logs.mapping import LogMapping

# Asked in this order; what is sure of itself (a magic number, a marker file) comes before tables of text.
MODULES = (
    "dreamer_chunks",  # .npz too, named as no other
    "npz",
    "hdf5",
    "lerobot",
    "rosbag2",
    "parquet",
    "delimited",
)
MANY = 100_000  # files in a folder of logs, at most


@dataclass
class RawEpisode:
    """One recording as the file has it: its own names, units and clock."""

    where: str
    """File and place, for messages: `runs/3.csv`, `log.npz: episode 7`."""
    source: str
    """The file, relative to what the user named; kept in the episode's info."""
    columns: dict[str, np.ndarray]
    """(T,), (T, k) or images (T, H, W, 3) uint8. Row t: what was observed, the command that was then sent, what that
    command earned and whether it ended the task. A column of T - 1 rows lacks the last one (a step has no row there).
    NaN, or None in text, where nothing was logged."""
    time_s: np.ndarray | None = None
    """(T,) seconds, as logged: it may be uneven, stand still or go back. None where rows have no clock."""
    clocks: dict[str, np.ndarray] = field(default_factory=dict)
    """Seconds on the same clock, ascending, for columns that have rows of their own times (several topics or rates)."""
    terminated: bool | None = None
    """The recording's end was the task's (a fall); None if the format does not say."""
    labels: dict[str, Any] = field(default_factory=dict)
    """One value for the whole episode, plain JSON: split, floor, seed."""
    repairs: Counter[str] = field(default_factory=Counter)
    """What the reader mended, counted by a sentence fragment: `rows cut short`. Reported to the user."""


@dataclass(frozen=True)
class Source:
    """Files that were opened, and a way to their episodes. One episode at a time is in memory."""

    files: Sequence[Path]
    """All that is read, so that a changed file is noticed."""
    episodes: Callable[[], Iterator[RawEpisode]]
    """Reads from the beginning, each time it is called."""


@dataclass(frozen=True)
class Format:
    """One format. None of its functions writes anything, unpickles, or leaves the folder that was named."""

    name: str
    what: str
    """One line for `--formats`: which files, and what they need."""
    detects: Callable[[Path], bool]
    """Whether this file or folder is one, by a look at the content; quick, and never raises for strange content."""
    read: Callable[[Path, LogMapping | None], Source]
    """Without a mapping (`--describe`) all columns. UserError: damaged files, with file and place."""
    draft: Callable[[Path], LogMapping | None] = lambda _: None
    """The mapping, where the format itself says what its fields mean; then the user need not write one."""


def formats() -> list[Format]:
    return [importlib.import_module(f"worldmodel.logs.{name}").FORMAT for name in MODULES]


def detect(data: Path) -> Format | None:
    """The format of a file or folder, by what is in it."""
    return next((one for one in formats() if one.detects(data)), None)


def need(module: str, extra: str) -> ModuleType:
    """An optional package's module; a UserError gives the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f'these logs need {package}: pip install "digital-dreaming[{extra}]"') from None


def first_bytes(file: Path, count: int = 4096) -> bytes:
    """Empty for what is no readable file."""
    try:
        with open(file, "rb") as opened:
            return opened.read(count)
    except OSError:
        return b""


def files_in(data: Path, pattern: str | None = None) -> list[Path]:
    """`data` itself, or the files below it by name: no hidden ones, no links, which could lead out of the folder.

    Args:
        pattern: of those, the ones whose path below `data` ends so, as `trajectory.csv` or `run_*/*.csv`.
    """
    if data.is_file():
        return [data]
    found = []
    for folder, below, names in os.walk(data):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
        if len(found) > MANY:
            raise UserError(f"{data} holds more than {MANY:,} files; give the folder with the logs alone")
    return sorted(path for path in found if is_named(path, data, pattern))


def is_named(path: Path, data: Path, pattern: str | None) -> bool:
    """Whether the path below `data` ends as the pattern says."""
    return pattern is None or path == data or path.relative_to(data).match(pattern.removeprefix("**/"))


def files_here(folder: Path, pattern: str) -> list[Path]:
    """Files right in the folder, by name: no pipes, no links, which could lead out of it."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())


def relative(path: Path, data: Path) -> str:
    """A file's path below what the user named, and its name where that is the file."""
    return path.name if path == data else path.relative_to(data).as_posix()
