"""One NPY file of structured rows: growing, or read at any place."""

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs import UserError
from worldmodel import log_format

datasync = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync


class RowFile:
    """Rows count from 0; what stands behind the last one that the index names is overwritten or cut off."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._header_size = len(log_format.npy_header(dtype, 0))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def write(self, rows: np.ndarray, at: int) -> None:
        log_format.write_at(self._file, rows.tobytes(), self._place(at))

    def cut(self, count: int) -> None:
        os.ftruncate(self._file, self._place(count))

    def write_header(self, count: int) -> None:
        """The count is for readers other than `LogReader`."""
        log_format.write_at(self._file, log_format.npy_header(self.dtype, count), 0)

    def sync(self) -> None:
        datasync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _place(self, row: int) -> int:
        return self._header_size + row * self.dtype.itemsize


class ReadRows:
    """Rows of a file by number: images, which are better read than mapped (`LogReader.take_images`)."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype, self._begin = dtype, len(log_format.npy_header(dtype, 0))
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with the last reference)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing beyond what is asked for

    def take(self, row: np.ndarray) -> np.ndarray:
        """(...) rows with these numbers (...); those that follow one another are read at once."""
        flat = row.reshape(-1)
        taken = np.empty(len(flat), self.dtype)
        whole = taken.view(np.uint8).data
        cuts = [0, *(np.flatnonzero(np.diff(flat) != 1) + 1).tolist(), len(flat)]
        for begin, end in itertools.pairwise(cuts):
            left = whole[begin * self.dtype.itemsize : end * self.dtype.itemsize]
            at = self._begin + int(flat[begin]) * self.dtype.itemsize if left else 0
            while left:
                count = os.preadv(self._file.fileno(), [left], at)
                if not count:
                    raise UserError(f"{self._file.name} was cut short while it was read")
                left, at = left[count:], at + count
        return taken.reshape(row.shape)


def close_all(files: Sequence[RowFile]) -> None:
    """Syncs and closes each, whatever befalls the others."""
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(file.close)
            stack.callback(file.sync)  # the last comes first
