"""Saving that a full disk pauses: what does not fit waits, and is written when there is room again.

What was saved last stays as it is meanwhile, and the night goes on in memory. Of each thing only the latest waits, so
that waiting costs no more memory than the things themselves.
"""

import errno
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

RETRY_S = 10.0  # a disk that was full is tried no more often
WAIT_S = 600.0  # for room, when a night is over that did not fit


def no_space(error: BaseException | None) -> bool:
    """Whether the disk, or the user's share of it, is full; also where an error of ours says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


class Saving:
    """Call it with a name, a function that writes, and its arguments.

    Args:
        told: hears when saving pauses, and when it goes on.
    """

    def __init__(self, told: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._told, self._now = told, now
        self._waiting: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._full_since: float | None = None
        self._tried = 0.0

    @property
    def full(self) -> bool:
        return self._full_since is not None

    def __call__(self, name: str, write: Callable[..., Any], *arguments: Any) -> bool:
        """Writes in the order of the calls; False if it waits. What waits under this name already gives its place up to
        it; but progress speaks of what was saved before it, and goes last.
        """
        if name == "progress":
            self._waiting.pop(name, None)
        self._waiting[name] = write, arguments
        if self.full and self._now() - self._tried < RETRY_S:
            self._waiting[name] = write, deepcopy(arguments)
            return False
        return self.retry()

    def retry(self) -> bool:
        """Writes all that waits, the oldest first, until something does not fit; whether all of it did."""
        self._tried = self._now()
        while self._waiting:
            name, (write, arguments) = next(iter(self._waiting.items()))
            try:
                write(*arguments)
            except OSError as error:
                if not no_space(error):
                    raise
                self._waiting = {name: (write, deepcopy(args)) for name, (write, args) in self._waiting.items()}
                if not self.full:
                    self._full_since = self._tried
                    self._told(
                        f"no space left on the disk ({error.filename or name}): saving pauses and what was saved "
                        "before stays; free some, and it goes on by itself"
                    )
                return False
            del self._waiting[name]
        if self._full_since is not None:
            seconds, self._full_since = self._tried - self._full_since, None
            self._told(f"there is room on the disk again: saving went on after {seconds:.0f} seconds")
        return True

    def waiting(self, name: str) -> tuple[Any, ...] | None:
        """The arguments that are to be written, if they wait."""
        return self._waiting[name][1] if name in self._waiting else None

    def settle(self, stopped: Callable[[], bool] = lambda: False, wait_s: float = WAIT_S) -> None:
        """At the end of a night: waits for room, if it must.

        Raises:
            OSError: there was none, or the user wants to stop; what was saved before is what there is.
        """
        end = self._now() + wait_s
        while self.full and not self.retry():
            if stopped() or self._now() > end:
                name = next(iter(self._waiting))
                raise OSError(errno.ENOSPC, "No space left on device", name)
            time.sleep(1.0)
