"""Wall clock as an argument: a budget, its division into phases, and the wish to stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class Budget:
    """Seconds from now on, shared out to phases.

    A phase gets its share of what is left when it begins, so that one that ran long or short is made good by the rest.
    """

    def __init__(
        self, seconds: float, shares: Sequence[tuple[str, float]], now: Callable[[], float] = time.monotonic, used: float = 0.0
    ) -> None:
        self.now = now
        self.total = seconds
        self.begun = now() - used
        self.shares = list(shares)
        self.stop = threading.Event()
        self.stop_reason = ""

    def elapsed(self) -> float:
        return self.now() - self.begun

    def remaining(self) -> float:
        return self.total - self.elapsed()

    def phase(self, name: str) -> "Phase":
        """Begin a phase; phases before it in the list are taken to be over."""
        names = [n for n, _ in self.shares]
        later = self.shares[names.index(name) :]
        share = later[0][1] / sum(s for _, s in later)
        return Phase(self, name, max(0.0, self.remaining()) * share)

    def ask_to_stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason
        self.stop.set()


class Phase:
    def __init__(self, budget: Budget, name: str, seconds: float) -> None:
        self.budget, self.name, self.seconds = budget, name, seconds
        self.begun = budget.now()

    def elapsed(self) -> float:
        return self.budget.now() - self.begun

    def spent(self) -> float:
        """Share of the phase's time that is spent; at least 1 once the user wants to stop."""
        if self.budget.stop.is_set():
            return 1.0
        return self.elapsed() / self.seconds if self.seconds > 0 else 1.0


@contextmanager
def stop_on_signals(budget: Budget) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the running phase in good order; a second one ends at once."""

    def asked(number: int, _frame: object) -> None:
        if budget.stop.is_set():
            raise KeyboardInterrupt
        budget.ask_to_stop("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
