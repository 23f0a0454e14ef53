"""How a table of text is written: its separator, header, comments, decimal comma. Found by looking at its beginning."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from configs import UserError
from worldmodel.logs.formats import first_bytes

SEPARATORS = (",", ";", "\t", "|", " ")
COMMENTS = ("#", "%", "//")
LOOKED_AT = 65_536  # bytes
LONGEST_LINE = 1 << 20  # characters
MOST_COLUMNS = 10_000
NOTHING = {"", "nan", "na", "n/a", "null", "none", "-nan", "nan(ind)"}  # in lower case: not logged
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Dialect:
    """How to read one file."""

    separator: str
    names: list[str]
    skip: int
    """Lines before the first row of data."""
    decimal_comma: bool
    encoding: str


def looks_like_a_table(path: Path) -> bool:
    try:
        return len(dialect_of(path).names) >= 2
    except UserError:
        return False


def dialect_of(path: Path) -> Dialect:
    """Raises: UserError: it is no table of text."""
    head = first_bytes(path, LOOKED_AT)
    if not head.strip():
        raise UserError(f"{path} is empty; leave it out or export it again")
    encoding = _encoding(head)
    if encoding is None:
        raise UserError(f"{path} is no table of text: it holds bytes that are no letters")
    text = head.decode(encoding, errors="ignore")
    lines = text.splitlines()
    if len(head) == LOOKED_AT and len(lines) > 1:
        lines.pop()  # cut off in the middle
    comments = [i for i, line in enumerate(lines) if is_comment(line)]
    data = [i for i, line in enumerate(lines) if line.strip() and i not in set(comments)]
    if not data:
        raise UserError(f"{path} holds no rows, only comments")
    separator = _separator([lines[i] for i in data[:50]])
    rows = [split(lines[i], separator) for i in data[:50]]
    comma = separator != "," and any(_COMMA_NUMBER.fullmatch(cell) for row in rows[1:] for cell in row)
    numeric = [all(_is_number(cell, comma) for cell in row) and any(row) for row in rows]
    if not numeric[0]:
        names, first = rows[0], 1
        if len(rows) > 2 and numeric[2] and not any(_is_number(cell, comma) for cell in rows[1] if cell):
            names = [f"{name} [{unit}]" if unit else name for name, unit in zip(names, rows[1], strict=False)]
            first = 2  # a row of units below the header
    else:
        names, first = [f"column_{i}" for i in range(len(rows[0]))], 0
        above = [lines[i].strip().lstrip("#%/ ") for i in comments if i < data[0]]
        if above and len(header := split(above[-1], separator)) == len(rows[0]):
            names = header  # as np.savetxt writes it
    if len(names) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(names):,} columns; at most {MOST_COLUMNS:,} are read")
    skip = data[first] if first < len(data) else len(lines)
    return Dialect(separator, _unique(names), skip, comma, encoding)


def lines_of(file: TextIO, path: Path) -> Iterator[str]:
    """A UserError before a line without an end fills the memory."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise UserError(f"{path}: line {number} is longer than {LONGEST_LINE:,} characters; it is no table")
        yield line


def is_comment(line: str) -> bool:
    return line.lstrip().startswith(COMMENTS)


def split(line: str, separator: str) -> list[str]:
    """Cells without the spaces around them."""
    if separator == " ":
        return line.split()
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _encoding(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in head:
        return None
    try:
        head[: -4 if len(head) == LOOKED_AT else None].decode("utf-8")
        return "utf-8-sig"
    except UnicodeDecodeError:
        odd = sum(byte < 32 and byte not in b"\t\r\n\f" for byte in head)
        return "latin-1" if odd == 0 else None


def _separator(lines: list[str]) -> str:
    """The one that gives the most columns of those that give nearly every line as many."""

    def score(separator: str) -> tuple[float, int]:
        counts = [len([cell for cell in split(line, separator)]) for line in lines]
        usual = max(set(counts), key=counts.count)
        agree = sum(count == usual for count in counts) / len(counts)
        return (agree if usual >= 2 else 0.0) > 0.8, usual

    return max(SEPARATORS, key=score)


def _is_number(cell: str, comma: bool) -> bool:
    if cell.lower() in NOTHING:
        return True
    try:
        float(cell.replace(",", ".") if comma else cell)
    except ValueError:
        return False
    return True


def _unique(names: list[str]) -> list[str]:
    """Names without stray spaces and quotes; a second `x` is `x_2`, and one without a name `column_3`."""
    seen: dict[str, int] = {}
    found = []
    while len(names) > 1 and not names[-1].strip():
        names = names[:-1]  # a separator at the end of each line
    for i, name in enumerate(names):
        name = name.strip().strip("\"'").strip() or f"column_{i}"
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found
