"""What every reader of a container checks before it believes a file: where a path leads, how much it would unpack.

Logs come from elsewhere. A file that names other files may name any file of the machine, and a kilobyte may claim to
be a terabyte. So paths are followed only inside the folder that was named, and sizes are looked at before reading.
"""

import json
from pathlib import Path
from typing import Any

from configs import UserError

MOST_BYTES = 2**31
"""That one episode, or one array of it, may take in memory."""
MOST_TEXT = 2**24
"""Bytes of a file of metadata."""


def inside(folder: Path, name: str | Path, where: str) -> Path:
    """The file `name` of `folder`, as `where` gives it. A UserError if it lies outside, also by way of a link."""
    path = folder / name
    try:
        within, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a circle of links
        raise UserError(f"{where} names {str(name)[:80]!r}, which is no usable path") from None
    if not within:
        raise UserError(
            f"{where} leads to {str(name)[:80]!r}, outside {folder}; nothing outside is read: copy the files "
            "themselves into the folder (cp -rL follows links)"
        )
    if not there:
        raise UserError(f"{path} is missing (named by {where}); copy the whole folder")
    return path


def check_size(size: int, where: str, most: int = MOST_BYTES) -> None:
    """A UserError where something takes, or says that it will, more than may be in memory at once."""
    if size > most:
        raise UserError(
            f"{where} takes {size / 2**20:,.0f} MiB; at most {most / 2**20:,.2f} MiB are read at once: "
            "split it, or it is damaged"
        )


def printable(text: str) -> str:
    """As one line that moves no cursor and changes no colour: names come from files of others."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    check_size(len(data), str(path), MOST_TEXT)
    return parse_json(data, str(path))


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({str(error)[:120]}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} holds {type(content).__name__}, expected a JSON object")
    return content
