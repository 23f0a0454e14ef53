"""HDF5, read with care: what Minari, robomimic and D4RL files share.

An HDF5 file can point at other files (external links, external storage, virtual datasets) and can claim far more than
it holds (fill values, compressed chunks). Only what lies in the file itself is read, after a look at its size.
"""

import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs import UserError
from worldmodel.logs.formats import first_bytes, need
from worldmodel.logs.guards import MOST_BYTES, MOST_TEXT, check_size

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # whose unpacking is bounded, here or by themselves
_GZIP_AT_MOST = 1032
"""Times that a byte of deflate can grow."""


def is_hdf5(path: Path) -> bool:
    return first_bytes(path, len(MAGIC)) == MAGIC


@contextlib.contextmanager
def opened(path: Path) -> Iterator["h5py.File"]:
    """The file, to be read. Whatever HDF5 finds wrong in it, then or later, becomes a UserError that names it."""
    h5py = need("h5py", "hdf5")
    if not is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file, or its beginning is damaged; copy it again")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {str(error)[:200]}; copy it again") from None


def find(group: "h5py.Group", name: str) -> "h5py.Group | h5py.Dataset | None":
    """What lies under `name`, or None. A UserError where a link leads out of the file, or could."""
    import h5py

    found: h5py.Group | h5py.Dataset = group
    for part in name.split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None  # `in` would follow it
        if link is None or not isinstance(found, h5py.Group):
            return None
        if not isinstance(link, h5py.HardLink):
            raise UserError(
                f"{found.file.filename}: {f'{found.name}/{part}'.strip('/')} is a link, which can lead to other files; "
                "nothing outside is read: copy the data themselves into the file (h5copy, h5repack)"
            )
        there = found[part]
        if not isinstance(there, h5py.Group | h5py.Dataset):
            return None
        found = there
    return found


def group_in(group: "h5py.Group", name: str) -> "h5py.Group | None":
    import h5py

    found = find(group, name)
    return found if isinstance(found, h5py.Group) else None


def datasets(node: "h5py.Group | h5py.Dataset", name: str = "") -> dict[str, "h5py.Dataset"]:
    """The dataset itself, or all below the group, as `obs/robot0_eef_pos`."""
    import h5py

    found: dict[str, h5py.Dataset] = {}
    seen: set[h5py.Group] = set()  # a group can lie in itself
    waiting = [(name, node)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, h5py.Dataset):
            found[name] = node
        elif node not in seen:
            seen.add(node)
            below = [(f"{name}/{key}".lstrip("/"), find(node, str(key))) for key in node]
            waiting += [(key, one) for key, one in reversed(below) if one is not None]
    return found


def where(node: "h5py.Group | h5py.Dataset") -> str:
    """File and place, for messages."""
    return f"{node.file.filename}: {(node.name or '').strip('/')}".removesuffix(": ")


def is_series(data: "h5py.Dataset") -> bool:
    """Whether it holds a number, or a row of numbers, for each step (or an image of the size that models see)."""
    shape = data.shape or ()
    numbers = data.dtype.kind in "fiub"
    return numbers and (len(shape) in (1, 2) or (shape[1:] == (64, 64, 3) and data.dtype == np.uint8))


class Series:
    """A dataset with a row a step, of numbers that lie in the file itself."""

    def __init__(self, data: "h5py.Dataset"):
        if data.external or data.is_virtual:
            raise UserError(
                f"{where(data)} lies in other files; nothing outside is read: copy it into this one (h5repack)"
            )
        if not is_series(data):
            raise UserError(f"{where(data)} holds {data.dtype} of shape {data.shape}, expected numbers, a row a step")
        if data.chunks is not None:
            _check_chunks(data)
        self.data = data

    def __len__(self) -> int:
        return self.data.shape[0]

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        stop = len(self) if stop is None else stop
        width = int(np.prod(self.data.shape[1:], dtype=object))
        check_size((stop - start) * width * self.data.dtype.itemsize, where(self.data))
        return self.data[start:stop]


def series(node: "h5py.Group | h5py.Dataset", name: str) -> tuple[dict[str, Series], list[str]]:
    """All at and below the node, by names that begin with `name`; and what cannot be learnt from (text, images)."""
    found = datasets(node, name)
    usable = {key: Series(data) for key, data in found.items() if is_series(data)}
    return usable, [key for key in found if key not in usable]


def columns(found: Mapping[str, Series]) -> dict[str, np.ndarray]:
    """All rows of each; what they take together is looked at before the first is read."""
    total = sum(int(np.prod(one.data.shape, dtype=object)) * one.data.dtype.itemsize for one in found.values())
    for one in found.values():
        check_size(total, f"what {one.data.file.filename} holds of {str(one.data.name).rpartition('/')[0] or '/'}")
    return {name: one.rows() for name, one in found.items()}


def numbered(group: "h5py.Group", pattern: re.Pattern[str]) -> list[str]:
    """Members such as demo_0, demo_1, ..., demo_10, in that order."""
    matches = [match for match in map(pattern.fullmatch, group) if match]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def text(value: object) -> str | None:
    """An attribute that holds text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def texts(data: "h5py.Dataset") -> list[str]:
    """A dataset of names."""
    check_size(int(np.prod(data.shape, dtype=object)) * max(data.dtype.itemsize, 1), where(data), MOST_TEXT)
    if data.external or data.is_virtual or data.dtype.kind not in "SO":
        raise UserError(f"{where(data)} holds {data.dtype}, expected names")
    return [text(value) or "" for value in data[()].reshape(-1)]


def _check_chunks(data: "h5py.Dataset") -> None:
    """HDF5 unpacks a chunk for as long as its data go on, whatever size the chunk is said to have."""
    filters = [data.id.get_create_plist().get_filter(i)[0] for i in range(data.id.get_create_plist().get_nfilters())]
    for code in filters:
        if code not in _FILTERS:
            raise UserError(f"{where(data)} is packed with filter {code}; repack it: h5repack -f GZIP=4 OLD NEW")
    size = int(np.prod(data.chunks or (), dtype=object)) * data.dtype.itemsize
    check_size(size, where(data))

    def check(chunk: "h5py.h5d.StoreInfo") -> None:
        if chunk.filter_mask & 1 << filters.index(1) or chunk.size * _GZIP_AT_MOST <= MOST_BYTES:
            return
        packed = data.id.read_direct_chunk(chunk.chunk_offset)[1]
        if len(zlib.decompressobj().decompress(packed, size + 1)) > size:
            raise UserError(f"{where(data)}: a chunk unpacks to more than the {size:,} bytes it should; it is damaged")

    if 1 in filters:
        data.id.chunk_iter(check)
