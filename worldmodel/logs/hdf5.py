"""HDF5 files of robot logs, by the layout of what is in them: Minari, robomimic, D4RL, or one recording a file."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from configs import UserError
from worldmodel.logs import d4rl, minari, robomimic
from worldmodel.logs.formats import Format, RawEpisode, Source, files_in
from worldmodel.logs.hdf5_file import columns, is_hdf5, opened, series, where
from worldmodel.logs.mapping import LogMapping

if TYPE_CHECKING:
    import h5py

_SUFFIXES = (".hdf5", ".h5", ".hdf")


def _files(path: Path, pattern: str | None = None) -> list[Path]:
    return [file for file in files_in(path, pattern) if file.suffix.lower() in _SUFFIXES and is_hdf5(file)]


def _layout(file: "h5py.File") -> ModuleType | None:
    return next((layout for layout in (minari, robomimic, d4rl) if layout.recognises(file)), None)


def _recording(file: "h5py.File", source: str) -> RawEpisode:
    """A file of another layout is one recording; only a mapping can say what its arrays are."""
    found, left_out = series(file, "")
    if not found:
        raise UserError(f"{where(file)} holds no arrays of numbers; expected a file of Minari, robomimic or D4RL")
    return RawEpisode(
        where=where(file),
        source=source,
        columns=columns(found),
        repairs=Counter({f"arrays left out (text, or images that are not 64 x 64): {name}": 1 for name in left_out}),
    )


def read(path: Path, mapping: LogMapping | None) -> Source:
    files = _files(path, mapping.files if mapping else None)
    if not files:
        raise UserError(f"{path} holds no HDF5 files" + (f" among {mapping.files}" if mapping else ""))

    def episodes() -> Iterator[RawEpisode]:
        for file in files:
            source = file.name if file == path else file.relative_to(path).as_posix()
            with opened(file) as content:
                layout = _layout(content)
                if layout is None:
                    yield _recording(content, source)
                else:
                    yield from layout.episodes(content, source, mapping)

    return Source(files, episodes)


def draft(path: Path) -> LogMapping | None:
    with opened(_files(path)[0]) as content:
        layout = _layout(content)
        return layout.draft(content, path.stem) if layout else None


FORMAT = Format(
    name="hdf5",
    what='.hdf5 of Minari, robomimic and D4RL, or one recording a file; pip install "digital-dreaming[hdf5]"',
    detects=lambda path: bool(_files(path)),
    read=read,
    draft=draft,
)
