"""Files as they come from broken disks and from people who mean harm."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from configs import UserError
from worldmodel.logs.formats import Format


def damaged(whole: bytes, cuts: int = 20, changes: int = 60) -> Iterator[bytes]:
    """Cut short at many places, and with bytes turned over, put in and taken out."""
    yield from (whole[:size] for size in np.linspace(0, len(whole) - 1, cuts).astype(int))
    random = np.random.default_rng(0)
    for _ in range(changes):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 8)).tolist():
            changed[place] = (0, 1, 127, 128, 255, int(random.integers(256)))[random.integers(6)]
        place, length = int(random.integers(0, len(whole))), int(random.integers(0, 16))
        if random.random() < 0.2:
            changed[place:place] = random.bytes(length)
        elif random.random() < 0.2:
            del changed[place : place + length]
        yield bytes(changed)


def check_survives(one: Format, place: Path, file: Path) -> None:
    """Whatever is in `file`, a part of the logs at `place`: numbers or a UserError that names it; no file changes."""
    beside = {path for path in place.parent.rglob("*")}
    for content in damaged(file.read_bytes()):
        file.write_bytes(content)
        try:
            if one.detects(place):
                one.draft(place)
                for episode in one.read(place, None).episodes():
                    assert sum(column.nbytes for column in episode.columns.values()) < 2**31
        except UserError as error:
            assert str(place) in str(error)
        assert file.read_bytes() == content
        assert {path for path in place.parent.rglob("*")} == beside
