"""One process at a time on a run folder: a night, or a world model that learns.

The kernel holds the lock, and gives it up with the process, however that ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import UserError

LOCK = "night.lock"  # stays where it is: unlinked, two processes could each hold one of that name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Raises:
        UserError: another process holds the lock, with its id, which is all that the file is for.
    """
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            whose = file.read().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by process {whose}; wait until it is over, stop it with Ctrl-C, "
                "or give another --run"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
