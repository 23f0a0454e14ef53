"""Wall clock as an argument: a budget, its division into phases, and the wish to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

LEAST_JUMP_S = 20.0  # that clocks are apart in
LEAST_HALT_S = 180.0  # between two steps


@dataclass(frozen=True)
class Share:
    """What a phase is given: a share of the time, but no less and no more than so many seconds."""

    name: str
    share: float
    least: float = 0.0
    most: float = float("inf")


@dataclass(frozen=True)
class Place:
    """Where a phase is: seconds of its seconds are spent, and so many are left of the whole night."""

    elapsed: float
    seconds: float
    left: float


def allot(seconds: float, shares: Sequence[Share]) -> dict[str, float]:
    """Divides `seconds`; phases held at their least or most leave the rest to the others.

    Where even the leasts do not fit, all are cut alike.
    """
    given: dict[str, float] = {}
    least = sum(s.least for s in shares)
    if least >= seconds:
        return {s.name: max(0.0, seconds) * (s.least / least if least else 0.0) for s in shares}
    while waiting := [s for s in shares if s.name not in given]:
        left = seconds - sum(given.values())
        weight = sum(s.share for s in waiting)
        parts = {s.name: left * s.share / weight for s in waiting}
        short = {s.name: s.least for s in waiting if parts[s.name] < s.least}
        long = {s.name: s.most for s in waiting if parts[s.name] > s.most}
        if not short and not long:
            return given | parts
        # The side that is further off goes first: holding the other may then not be needed any more.
        lack = sum(short.values()) - sum(parts[name] for name in short)
        excess = sum(parts[name] for name in long) - sum(long.values())
        given |= short if lack > excess else long
    return given


class Budget:
    """Seconds, shared out to phases.

    A phase gets its share of what is left when it begins, so that one that ran long or short is made good by the rest.

    Args:
        used: seconds that have already gone, say for starting Python.
    """

    def __init__(
        self, seconds: float, shares: Sequence[Share], now: Callable[[], float] = time.monotonic, used: float = 0.0
    ) -> None:
        self.now = now
        self.total = seconds
        self.begun = now() - used
        self.shares = list(shares)
        self.stop = threading.Event()
        self.stop_reason = ""
        self.stop_signal = 0

    def elapsed(self) -> float:
        return self.now() - self.begun

    def remaining(self) -> float:
        return self.total - self.elapsed()

    def phase(self, name: str, before: Place | None = None) -> "Phase":
        """Begin a phase; phases before it in the list are taken to be over.

        Args:
            before: where it was when it was cut off. What was left of it is shared out with the phases that follow; on
                a clock that has stood still since, a simulated one, it goes on to the last bit as it would have.
        """
        names = [share.name for share in self.shares]
        this, *later = self.shares[names.index(name) :]
        left = self.remaining()
        if before is None:
            return Phase(self, name, allot(left, [this, *later])[name])
        rest = 1.0 - before.elapsed / before.seconds if before.seconds > 0 else 0.0
        if left == before.left or rest <= 0:
            return Phase(self, name, before.seconds, before.elapsed)
        ahead = replace(this, share=rest * this.share, least=rest * this.least, most=rest * this.most)
        seconds = allot(left, [ahead, *later])[name] / rest
        return Phase(self, name, seconds, (1.0 - rest) * seconds)

    def ask_to_stop(self, reason: str, number: int = 0) -> None:
        self.stop_reason = self.stop_reason or reason
        self.stop_signal = self.stop_signal or number
        self.stop.set()


class Jumps:
    """Compares the night's clock with the one on the wall.

    The night goes by the monotonic clock, which nobody sets and which stands still while the machine sleeps.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._now, self._wall = now, wall
        self._offset, self._last = wall() - now(), now()

    def look(self) -> str:
        """What happened since the last look, or nothing."""
        now = self._now()
        offset, stood = self._wall() - now, now - self._last
        moved, self._offset, self._last = offset - self._offset, offset, now
        if abs(moved) > LEAST_JUMP_S:
            way = "forward" if moved > 0 else "back"
            return (
                f"the wall clock went {way} by {abs(moved):.0f} seconds that were none for the night (it was set, or "
                "the machine slept): the night takes its hours all the same"
            )
        if stood > LEAST_HALT_S:
            return f"nothing happened for {stood:.0f} seconds (the machine or this process was halted): they are lost"
        return ""


class Phase:
    def __init__(self, budget: Budget, name: str, seconds: float, elapsed: float = 0.0) -> None:
        self.budget, self.name, self.seconds = budget, name, seconds
        self.begun = budget.now() - elapsed

    def place(self) -> Place:
        return Place(self.elapsed(), self.seconds, self.budget.remaining())

    def elapsed(self) -> float:
        return self.budget.now() - self.begun

    def left(self) -> float:
        """Seconds; none once the user wants to stop."""
        return 0.0 if self.budget.stop.is_set() else self.seconds - self.elapsed()

    def spent(self) -> float:
        """Share of the phase's time that is spent; at least 1 once the user wants to stop."""
        if self.budget.stop.is_set():
            return 1.0
        return self.elapsed() / self.seconds if self.seconds > 0 else 1.0


def process_age() -> float:
    """Seconds since this process began, imports and all; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


@contextmanager
def stop_on_signals(budget: Budget) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the running phase in good order; a second one ends at once."""

    def asked(number: int, _frame: object) -> None:
        if budget.stop.is_set():
            raise KeyboardInterrupt
        budget.ask_to_stop("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
