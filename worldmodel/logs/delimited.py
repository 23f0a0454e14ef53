"""Tables of text (CSV and its relatives): a file is an episode, unless a column says where they begin."""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from configs import UserError
from worldmodel.logs.formats import Format, RawEpisode, Source, files_in, relative
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.table_text import NOTHING, Dialect, dialect_of, is_comment, lines_of, looks_like_a_table

SUFFIXES = {".csv", ".tsv", ".txt", ".dat", ".log", ".asc", ".tab", ""}
CUT_SHORT, TOO_LONG = "rows left out that are cut short", "rows left out that have too many cells"
RAGGED_SHARE = 0.05  # of rows of the wrong length; with more the file is not what it seems
CHUNK = 20_000  # rows
TRUE, FALSE = {"true", "yes"}, {"false", "no"}


def detects(data: Path) -> bool:
    if data.is_file():
        return looks_like_a_table(data)
    return data.is_dir() and bool(tables_in(data, None, at_most=1))


def tables_in(data: Path, pattern: str | None, at_most: int | None = None) -> list[Path]:
    """The files of a folder that are tables; by a look at each, of those whose suffix does not speak against it."""
    found: list[Path] = []
    for path in files_in(data, pattern):
        if len(found) == at_most:
            break
        if path == data or (path.suffix.lower() in SUFFIXES and looks_like_a_table(path)):
            found.append(path)
    return found


def read(data: Path, mapping: LogMapping | None) -> Source:
    files = tables_in(data, mapping.files if mapping else None)
    if not files:
        raise UserError(f"{data} holds no tables" + (f" among {mapping.files}" if mapping and mapping.files else ""))
    return Source(files, lambda: (read_table(path, relative(path, data)) for path in files))


def read_table(path: Path, source: str) -> RawEpisode:
    """One file, whole. Memory is a few times its size."""
    dialect = dialect_of(path)
    repairs: Counter[str] = Counter()
    columns = _fast(path, dialect)
    if columns is None:
        columns = _slow(path, dialect, repairs)
    return RawEpisode(str(path), source, columns, repairs=repairs)


def _fast(path: Path, dialect: Dialect) -> dict[str, np.ndarray] | None:
    """NumPy's reader, for a table of numbers alone without anything odd; else None."""
    if dialect.decimal_comma:
        return None
    try:
        with open(path, encoding=dialect.encoding) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of no rows: said below
            table = np.loadtxt(
                lines_of(file, path),
                delimiter=None if dialect.separator == " " else dialect.separator,
                skiprows=dialect.skip,
                comments=None,
                ndmin=2,
            )
    except (ValueError, UnicodeDecodeError):
        return None
    if not table.size or table.shape[1] != len(dialect.names):
        return None
    return dict(zip(dialect.names, np.ascontiguousarray(table.T), strict=True))


def _slow(path: Path, dialect: Dialect, repairs: Counter[str]) -> dict[str, np.ndarray]:
    """Cell by cell: quotes, missing values, text, comments, rows of the wrong length."""
    texts: set[int] = set()
    while True:  # a column turns out to be text, at most each once; what was read of it as numbers is read again
        repairs.clear()
        found, more = _columns(path, dialect, texts, repairs)
        if not more:
            return dict(zip(dialect.names, found, strict=True))
        texts |= more


def _columns(path: Path, dialect: Dialect, texts: set[int], repairs: Counter[str]) -> tuple[list[np.ndarray], set[int]]:
    """All columns, those in `texts` as text; and which of the others hold text after all."""
    count = len(dialect.names)
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    more: set[int] = set()
    rows = 0
    for chunk in _chunks(path, dialect, repairs):
        rows += len(chunk)
        for column, cells in enumerate(zip(*chunk, strict=True)):
            if column in texts:
                parts[column].append(np.array(cells, object))  # as wide as each is, not as the widest
            elif column not in more:
                numbers = _numbers(cells, dialect.decimal_comma)
                if numbers is None:
                    more.add(column)
                else:
                    parts[column].append(numbers)
    ragged = repairs[CUT_SHORT] + repairs[TOO_LONG]
    if ragged > 1 and ragged > RAGGED_SHARE * (rows + ragged):
        raise UserError(
            f"{path}: {ragged:,} of {rows + ragged:,} rows have not the {count} cells of the first; export it again"
        )
    if not rows:
        raise UserError(f"{path} holds a header and no rows; leave it out or export it again")
    if more:
        return [], more
    return [np.concatenate(part) for part in parts], more


def _chunks(path: Path, dialect: Dialect, repairs: Counter[str]) -> Iterator[list[list[str]]]:
    count, chunk, rows_read = len(dialect.names), [], 0
    try:
        with open(path, encoding=dialect.encoding, errors="replace", newline="") as file:
            lines = lines_of(file, path)
            for _ in range(dialect.skip):
                next(lines, None)
            kept = (line for line in lines if line.strip() and not is_comment(line))
            rows = (line.split() for line in kept) if dialect.separator == " " else _quoted(kept, dialect.separator)
            for cells in rows:
                rows_read += 1
                while len(cells) > count and not cells[-1].strip():
                    cells.pop()  # a separator at the end of the line
                if len(cells) != count:
                    repairs[CUT_SHORT if len(cells) < count else TOO_LONG] += 1
                    continue
                chunk.append([cell.strip() for cell in cells])
                if len(chunk) == CHUNK:
                    yield chunk
                    chunk = []
    except csv.Error as error:
        raise UserError(f"{path}: row {rows_read + 1}: {error}; export it again") from None
    if chunk:
        yield chunk


def _quoted(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _numbers(cells: Sequence[str], comma: bool) -> np.ndarray | None:
    """(T,) float64, NaN where nothing was logged and 1 or 0 for true and false; None for text."""
    try:
        return np.array(cells, np.float64)
    except ValueError:
        pass
    values = np.empty(len(cells))
    for i, cell in enumerate(cells):
        low = cell.lower()
        if low in NOTHING:
            values[i] = np.nan
        elif low in TRUE or low in FALSE:
            values[i] = low in TRUE
        else:
            try:
                values[i] = float(cell.replace(",", ".") if comma else cell)
            except ValueError:
                return None
    return values


FORMAT = Format(
    "csv",
    "tables of text, a file an episode: comma, semicolon, tab or space between cells; needs a mapping",
    detects,
    read,
)
