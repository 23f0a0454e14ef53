"""One NPY file of structured rows that grows, open for writing."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def close_all(files: Sequence[RowFile]) -> None:
    """Syncs and closes each, whatever befalls the others."""
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(file.close)
            stack.callback(file.sync)  # the last comes first
