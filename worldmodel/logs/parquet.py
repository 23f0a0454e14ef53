"""Parquet tables: a file is an episode, unless a column says where they begin. Needs pyarrow."""

from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from worldmodel.logs.formats import Format, RawEpisode, Source, files_in, first_bytes, need, relative
from worldmodel.logs.guards import MOST_BYTES, check_size
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.parquet_footer import check_pages, column_chunks

MAGIC = b"PAR1"
MOST = 1 << 30  # bytes that a column may always unpack to
RATIO = 200  # times the file's size that a larger one may
LIKELY_RATIO = 20  # times the file's size that all of a large one may


def detects(data: Path) -> bool:
    if data.is_dir():
        return any(path.suffix == ".parquet" and first_bytes(path, 4) == MAGIC for path in files_in(data))
    return data.suffix == ".parquet" or first_bytes(data, 4) == MAGIC


def read(data: Path, mapping: LogMapping | None) -> Source:
    need("pyarrow", "parquet")
    files = [path for path in files_in(data, mapping.files if mapping else None) if detects(path)]
    if not files:
        raise UserError(f"{data} holds no Parquet files" + (f" among {mapping.files}" if mapping else ""))
    return Source(files, lambda: (read_table(path, relative(path, data)) for path in files))


def read_table(path: Path, source: str) -> RawEpisode:
    """All columns of numbers, lists of numbers of one length, times and text; what is nested deeper is left out."""
    table = _table(path)
    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        value = _values(table.column(name), f"{path}: {name}")
        if value is not None:
            columns[name.strip()] = value
    if not columns or not table.num_rows:
        raise UserError(f"{path} holds no rows; leave it out or export it again")
    return RawEpisode(str(path), source, columns)


def _table(path: Path) -> Any:
    pa, parquet = need("pyarrow", "parquet"), need("pyarrow.parquet", "parquet")
    # pyarrow believes whatever a page says of itself
    unpacked = sum(check_pages(path, chunk) for chunk in column_chunks(path))
    check_size(unpacked, f"{path}: what it unpacks to", max(MOST_BYTES, LIKELY_RATIO * path.stat().st_size))
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
        texts = [one.name for one in schema if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)]
        # A text that comes in every row is in the file once, and so it shall be in memory.
        with parquet.ParquetFile(path, memory_map=True, read_dictionary=texts) as file:
            size, width = path.stat().st_size, max(1, len(file.schema_arrow.names))
            if 8 * file.metadata.num_rows * width > max(MOST, RATIO * size):
                raise UserError(
                    f"{path} claims {file.metadata.num_rows:,} rows of {width} columns in {size / 1e6:.1f} MB; "
                    "write it in parts"
                )
            return file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or no Parquet file ({reason}); export or copy it again") from None


def _values(column: Any, name: str) -> np.ndarray | None:
    """(T,), or (T, k) of lists of one length; None for what is neither number, time nor text."""
    pa = need("pyarrow", "parquet")
    kind, types = column.type, pa.types
    if types.is_timestamp(kind) or types.is_duration(kind):
        if column.null_count:
            raise UserError(f"{name}: {column.null_count} rows have no time; leave them out")
        return np.asarray(column.to_numpy())
    if types.is_boolean(kind):
        return np.array([np.nan if one is None else float(one) for one in column.to_pylist()])
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        if types.is_decimal(kind):
            column = column.cast(pa.float64())
        value = np.asarray(column.to_numpy())  # nulls become NaN
        return value.astype(np.float64) if value.dtype.kind == "f" else value
    if types.is_dictionary(kind):
        if not (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)):
            return _values(column.cast(kind.value_type), name)
        parts = [np.array([*one.dictionary.to_pylist(), ""], object)[_places(one)] for one in column.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, object)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array(["" if one is None else one for one in column.to_pylist()], object)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(column, name)
    return None


def _places(texts: Any) -> np.ndarray:
    """Where in its dictionary each row's text is; -1, the last, where nothing was logged."""
    return np.asarray(texts.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _lists(column: Any, name: str) -> np.ndarray | None:
    pa = need("pyarrow", "parquet")
    inner = column.type.value_type
    if not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        return None
    parts = [np.asarray(one.flatten().to_numpy(zero_copy_only=False), np.float64) for one in column.chunks]
    flat, rows = np.concatenate(parts) if parts else np.zeros(0), len(column)
    if column.null_count or len(need("pyarrow.compute", "parquet").list_value_length(column).unique()) != 1:
        raise UserError(f"{name} holds lists of different lengths, expected one length throughout")
    return flat.reshape(rows, -1)


FORMAT = Format(
    "parquet",
    "Parquet tables, a file an episode; needs a mapping, and pyarrow: pip install digital-dreaming[parquet]",
    detects,
    read,
)
