"""The night on the terminal: worldmodel's screen, once a phase."""

import time
from types import TracebackType

from worldmodel.console import Screen, clock

TITLES = {
    "record": "recording demonstrations",
    "learn": "learning the world model",
    "clone": "imitating the logs",
    "dream": "dreaming what-ifs",
    "wake": "learning from the simulator where dreams are wrong",
    "dream again": "dreaming after the wake",
    "audit": "auditing dreams",
    "survival": "trying policies in the simulator",
    "report": "writing the report",
}


class NightScreen:
    """Shows phases as they pass. A context manager."""

    def __init__(self) -> None:
        self._screen = Screen("")
        self._seconds, self._begun = 0.0, time.monotonic()

    def __enter__(self) -> "NightScreen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)

    def phase(self, name: str, seconds: float) -> None:
        self.complete()
        self._seconds, self._begun = seconds, time.monotonic()
        title = TITLES.get(name, name)
        self._screen = Screen(f"{title:<33}")
        self._screen.say(f"{title} ({clock(seconds)})")
        self._screen.__enter__()

    def progress(self, share: float, text: str) -> None:
        self._screen.progress(share, self._seconds - (time.monotonic() - self._begun), text)

    def complete(self) -> None:
        self._screen.complete()
        self._screen.__exit__(None, None, None)

    def note(self, text: str) -> None:
        self._screen.note(text)

    def say(self, text: str = "") -> None:
        self._screen.say(text)
