"""Rows of numbers out of a Parquet file, some at a time, after a look at what it says it holds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import UserError
from worldmodel.logs.formats import need
from worldmodel.logs.parquet_footer import check_pages, column_chunks

if TYPE_CHECKING:
    import pyarrow

_ROWS = 16_384  # at once
_TEXTS = 100  # in a row, at most


def batches(path: Path, widths: Mapping[str, int], texts: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows, from the first, as arrays (n,) or (n, width) of the columns named.

    Args:
        widths: how many numbers a row has in each column.
        texts: further columns, as lists of each row's texts; empty where the file lacks the column.
    """
    pa = need("pyarrow", "lerobot")
    pq = need("pyarrow.parquet", "lerobot")
    listed = _check_sizes(path, widths, texts)  # each text once, however often it comes
    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False, read_dictionary=listed) as file:
            names = set(file.schema_arrow.names)
            for name in widths:
                if name not in names:
                    raise UserError(f"{path} lacks the column {name}; copy it again")
            texts = [name for name in texts if name in names]
            row = 0
            for batch in file.iter_batches(_ROWS, columns=[*widths, *texts], use_threads=False):
                where = f"{path} from row {row}"
                arrays = {key: _numbers(batch.column(key), width, f"{where}: {key}") for key, width in widths.items()}
                lists = {name: [_texts(value) for value in batch.column(name).to_pylist()] for name in texts}
                row += len(batch)
                yield arrays | lists
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged or no Parquet file: {str(error)[:200]}; copy it again") from None


def _check_sizes(path: Path, widths: Mapping[str, int], texts: Sequence[str]) -> list[str]:
    """Compares what is going to be made with the rows there are; the columns of text by their full names."""
    found: dict[str, None] = {}
    for chunk in column_chunks(path):
        name = chunk.path.partition(".list.")[0]
        if name in texts:
            found[chunk.path] = None
        elif name not in widths:
            continue
        width = widths.get(name, _TEXTS)
        if chunk.values > chunk.rows * width:
            raise UserError(
                f"{path}: {name} has {chunk.values:,} numbers in {chunk.rows:,} rows of {width}; it is damaged"
            )
        check_pages(path, chunk)
    return list(found)


def _numbers(column: "pyarrow.Array", width: int, where: str) -> np.ndarray:
    import pyarrow as pa

    rows = len(column)
    kind = column.type
    if isinstance(kind, pa.ExtensionType):
        column, kind = column.storage, kind.storage_type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    flat = column.flatten() if listed else column
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type) or pa.types.is_boolean(flat.type)):
        raise UserError(f"{where} holds {kind}, expected numbers")
    if flat.null_count and not pa.types.is_floating(flat.type):
        raise UserError(f"{where} has {flat.null_count} rows without a number")
    if len(flat) != rows * width:
        raise UserError(f"{where} holds {len(flat)} numbers in {rows} rows, expected {width} in each")
    numbers = flat.to_numpy(zero_copy_only=False)  # NaN where a row has none
    return numbers.reshape(rows, width) if listed and width > 1 else numbers


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]
