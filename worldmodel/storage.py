"""A log folder: episodes on disk, safe against crashes, appendable, readable by others.

    rows.npy        standard NPY (numpy's format 1.0), one structured row an observation: a field for each observation
                    key but the image, then action, applied_action, demonstrated,
                    reward, push. An episode of T steps takes T + 1 rows; its last
                    row has no action, and zeros in its place. `np.load("rows.npy", mmap_mode="r")` reads it.
    images.npy      with a camera, likewise: the image of each of these rows.
    episodes.jsonl  one line of JSON an episode: start (its first row), length (T), terminated, truncated, physics,
                    info, crc32 (of its rows' bytes, continued over the line's own text without the crc32 entry).
    schema.json     task, control_hz, and names, shapes, bounds of what the rows hold.

The index decides what exists. An append writes the rows, syncs, writes the index line, syncs, and last corrects the
row count in the NPY headers, which only readers other than this module use. Whatever a crash leaves behind the last
complete index line is a torn tail: readers ignore it, the next writer cuts it off.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from worldmodel import log_format
from worldmodel.episode import Episode
from worldmodel.log_format import IMAGES, INDEX, ROWS, SCHEMA, STEP_FIELDS, make_schema
from worldmodel.row_file import ReadRows, RowFile, close_all, datasync
from worldmodel.spikes import AT_ONCE, Spikes

__all__ = ["LogReader", "LogWriter", "make_schema"]

READ_THROUGH = 4 * 1024**3  # bytes, of logs that are compared with their checksums whenever they are learnt from


@contextlib.contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left on the disk while {doing}; free some and run it again") from error
        raise UserError(f"{error.strerror} while {doing}") from error


class LogWriter:
    """Appends episodes to a log folder, new or existing. One writer at a time; readers may look on.

    Args:
        sync: False leaves syncing to `close`, for a folder that counts only once it is whole.

    Raises:
        UserError: the folder holds something else, or logs of another schema; another process is writing to it.
    """

    def __init__(self, folder: str | Path, schema: Mapping[str, Any], sync: bool = True) -> None:
        self.folder = Path(folder)
        self._sync_each = sync
        self.schema = log_format.check_schema(dict(schema), "schema")
        with _disk_errors(f"opening {self.folder} for writing"):
            self._claim_folder()
            self._index_file = os.open(self.folder / INDEX, os.O_RDWR | os.O_CREAT, 0o644)
            dtypes = log_format.row_dtypes(self.schema)
            self._row_files = [RowFile(self.folder / name, dtype) for name, dtype in dtypes.items()]
        self._open = True
        try:
            self._lock()
            self._recover()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._episodes

    def append(self, episode: Episode) -> None:
        """Writes one episode; when it returns, the episode is on the disk.

        Raises:
            UserError: the episode does not fit the schema or holds NaN; the disk is full. The log stays as it was.
        """
        if not self._open:
            raise ValueError(f"the writer of {self.folder} is closed")
        name = f"{self.folder}: episode {self._episodes}"
        parts = log_format.pack(episode.check(name, log_format.columns(self.schema)), self.schema, name)
        record = {
            "start": self._rows,
            "length": episode.length,
            "terminated": bool(episode.terminated),
            "truncated": bool(episode.truncated),
            "physics": episode.physics,
            "info": episode.info,
        }
        line = log_format.index_line(record, parts, name)
        try:
            with _disk_errors(f"writing episode {self._episodes} to {self.folder}; the episodes before it are safe"):
                for file, rows in zip(self._row_files, parts, strict=True):
                    file.write(rows, self._rows)
                    if self._sync_each:
                        file.sync()
                log_format.write_at(self._index_file, line, self._index_end)
                if self._sync_each:
                    datasync(self._index_file)
        except BaseException:  # a Ctrl-C too must not leave half a line that the next append would run into
            try:
                self._cut_tail()
            except OSError:
                self.close()  # a tail that stays must not be written over; the next opening will cut it
            raise
        self._rows += len(parts[0])
        self._episodes += 1
        self._index_end += len(line)
        with contextlib.suppress(OSError):  # the episode is safe; the next opening corrects the header
            self._write_header()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            with _disk_errors(f"writing to {self.folder}"):
                close_all(self._row_files)
                datasync(self._index_file)
        finally:
            os.close(self._index_file)

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _claim_folder(self) -> None:
        schema_path = self.folder / SCHEMA
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file; logs need a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if schema_path.exists():
            log_format.check_same_schema(log_format.read_schema(self.folder), self.schema, self.folder)
            return
        for name in (ROWS, IMAGES, INDEX):
            if (self.folder / name).exists():
                raise UserError(f"{self.folder} holds {name} but no {SCHEMA}; choose a new or an empty folder")
        aside = schema_path.with_suffix(".json.new")
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(self.schema, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, schema_path)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._index_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.folder} is being written by another process; wait or choose another") from None

    def _recover(self) -> None:
        records, self._index_end = log_format.read_index(self.folder)
        self._episodes = len(records)
        self._rows = log_format.count_rows(records)
        with _disk_errors(f"opening {self.folder} for writing"):
            if records:
                for name, dtype in log_format.row_dtypes(self.schema).items():
                    log_format.check_rows_file(self.folder / name, dtype, records)
            self._cut_tail()
            self._write_header()
            for file in self._row_files:
                file.sync()
            self._sync_folder()

    def _cut_tail(self) -> None:
        os.ftruncate(self._index_file, self._index_end)
        for file in self._row_files:
            file.cut(self._rows)

    def _sync_folder(self) -> None:
        """Makes the files' names as durable as their contents."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write_header(self) -> None:
        for file in self._row_files:
            file.write_header(self._rows)


class LogReader:
    """Reads a log folder, memory-mapped, also while a `LogWriter` appends to it (episodes up to the opening).

    Raises:
        UserError: no such folder, no log in it, no episodes, fewer rows than the index says, a damaged index.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.schema = log_format.read_schema(self.folder)
        self.episodes, _ = log_format.read_index(self.folder)
        if not self.episodes:
            raise UserError(f"{self.folder} holds no episodes; record some, for example with record-rollouts")
        self.total_rows = log_format.count_rows(self.episodes)
        self._parts = [self._map(name, dtype) for name, dtype in log_format.row_dtypes(self.schema).items()]
        self.rows = self._parts[0]
        with_image = [part for part in self._parts if "image" in (part.dtype.names or ())]
        self.images = with_image[0]["image"] if with_image else None  # (rows, H, W, 3) uint8
        self._image_file = ReadRows(self.folder / IMAGES, self._parts[1].dtype) if len(self._parts) > 1 else None

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        offset = log_format.check_rows_file(self.folder / name, dtype, self.episodes)
        rows = np.memmap(self.folder / name, dtype, mode="r", offset=offset, shape=(self.total_rows,))
        return rows.view(np.ndarray)  # a plain view of the same pages: np.memmap itself is slow to take rows of

    def __len__(self) -> int:
        return len(self.episodes)

    def __reduce__(self) -> tuple[type["LogReader"], tuple[Path]]:
        """To another process it goes by its name, not with all its rows."""
        return LogReader, (self.folder,)

    def episode(self, i: int) -> Episode:
        """Episode i, copied out of the file."""
        record = self.episodes[i]
        rows, *_ = parts = self._rows_of(record)
        found = {name: part[name] for part in parts for name in part.dtype.names or ()}
        steps = {field: np.ascontiguousarray(rows[field][:-1]) for field in STEP_FIELDS}
        return Episode(
            observation={key: np.ascontiguousarray(found[key]) for key in self.schema["observation"]},
            terminated=record["terminated"],
            truncated=record["truncated"],
            physics=dict(record["physics"]),
            info=dict(record["info"]),
            **steps,
        )

    def take_images(self, row: np.ndarray) -> np.ndarray:
        """Images (..., H, W, 3) of the rows with these numbers (...).

        They are read, not taken from the mapped file: around each place that is looked at there, the system would
        bring in megabytes that nobody asked for, and pages of it would fill this process.
        """
        if self.images is None:
            raise ValueError(f"{self.folder} holds no images")
        if self._image_file is None:
            return self.images[row]
        return self._image_file.take(row)["image"]

    def check(self) -> None:
        """A UserError names the first number that is not finite, and episodes that are not as they were written.

        `LogWriter` lets no such number in; others may have written. Gigabytes are not read through for the second.
        """
        columns = log_format.columns(self.schema)
        for i in range(len(self)) if self._may_hold_nan() else ():
            self.episode(i).check(f"{self.folder}: episode {i}", columns)
        if sum(part.nbytes for part in self._parts) > READ_THROUGH:
            return
        if changed := self.verify():
            which = ", ".join(str(i) for i in changed[:3]) + (", ..." if len(changed) > 3 else "")
            raise UserError(
                f"{self.folder}: {len(changed)} of {len(self)} episodes have changed since they were written "
                f"({which}); restore the folder from a copy, or record or import it anew"
            )

    def _may_hold_nan(self) -> bool:
        """Looks at all numbers but those of images; what an episode's last row holds of commands means nothing."""
        floats = [name for name in self.rows.dtype.names or () if self.rows.dtype[name].base.kind == "f"]
        chunks = (self.rows[at : at + AT_ONCE] for at in range(0, len(self.rows), AT_ONCE))
        physics = (value for record in self.episodes for value in record["physics"].values())
        return not (
            all(np.isfinite(chunk[name]).all() for chunk in chunks for name in floats)
            and all(np.isfinite(value) for value in physics)
        )

    def some_rows(self, episodes: Sequence[int] | np.ndarray, limit: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of at most about `limit` rows of these episodes, of whole ones, and which begin an episode."""
        start, counts = (np.array([self.episodes[i][key] for i in episodes], np.int64) for key in ("start", "length"))
        counts += 1
        every = max(1, int(counts.sum()) // limit)
        # Not every so manieth: what alternates from episode to episode would be seen from one side only.
        chosen = np.sort(np.random.default_rng(0).permutation(len(start))[: -(-len(start) // every)])
        start, counts = start[chosen], counts[chosen]
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(start, counts) + step, step == 0

    @cached_property
    def spikes(self) -> Spikes:
        start, length = (np.array([record[key] for record in self.episodes], np.int64) for key in ("start", "length"))
        return Spikes.find(self.rows["vector"], start, length + 1)

    def mended(self, i: int) -> Episode:
        """Episode `i` without spikes, as it is learnt from."""
        episode, start = self.episode(i), self.episodes[i]["start"]
        vector = episode.observation["vector"]
        mended = self.spikes.mend(vector, start + np.arange(len(vector)))
        return replace(episode, observation={**episode.observation, "vector": mended})

    def verify(self) -> list[int]:
        """Reads everything; the episodes whose rows or index line have changed since they were written."""
        return [i for i, record in enumerate(self.episodes) if not self._intact(record)]

    def _intact(self, record: Mapping[str, Any]) -> bool:
        return log_format.record_crc(record, self._rows_of(record)) == record["crc32"]

    def _rows_of(self, record: Mapping[str, Any]) -> list[np.ndarray]:
        """Copies, of each file; images are read, as in `take_images`."""
        begin, end = record["start"], record["start"] + record["length"] + 1
        images = [self._image_file.take(np.arange(begin, end))] if self._image_file is not None else []
        return [np.array(self.rows[begin:end]), *images]
