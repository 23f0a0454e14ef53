"""The night on the terminal: one bar a phase with the time left; plain lines where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

TITLES = {
    "record": "recording demonstrations",
    "learn": "learning the world model",
    "clone": "imitating the logs",
    "dream": "dreaming what-ifs",
    "audit": "auditing dreams",
    "survival": "trying policies in the simulator",
    "report": "writing the report",
}


def clock(seconds: float) -> str:
    seconds = max(0, round(seconds))
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


class Screen:
    """Shows phases as they pass. Use as a context manager."""

    def __init__(self, plain_every_s: float = 20.0) -> None:
        self.console = Console(highlight=False)
        self.live = self.console.is_terminal
        self.plain_every_s = plain_every_s
        columns = (TextColumn("  {task.description:<34}"), BarColumn(24), TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"))
        self.bars = Progress(*columns, console=self.console, refresh_per_second=5)
        self.bar: TaskID | None = None
        self.name, self.seconds, self.begun, self.printed = "", 0.0, 0.0, 0.0

    def __enter__(self) -> "Screen":
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._complete()
        self.bars.stop()

    def phase(self, name: str, seconds: float) -> None:
        self._complete()
        self.name, self.seconds, self.begun = TITLES.get(name, name), seconds, time.monotonic()
        self.printed = self.begun
        if self.live:
            self.bar = self.bars.add_task(self.name, total=1.0, text="")
        else:
            self.console.print(f"  {self.name} ({clock(seconds)})")

    def progress(self, share: float, text: str) -> None:
        left = self.seconds - (time.monotonic() - self.begun)
        line = f"{clock(left)} left  {text}"
        if self.live and self.bar is not None:
            self.bars.update(self.bar, completed=min(share, 1.0), text=line)
        elif time.monotonic() - self.printed > self.plain_every_s:
            self.printed = time.monotonic()
            self.console.print(f"    {min(share, 1.0):4.0%}  {line}")

    def note(self, text: str) -> None:
        self.console.print(f"  [yellow]note:[/yellow] {text}")

    def say(self, text: str = "") -> None:
        self.console.print(text, soft_wrap=True)

    def _complete(self) -> None:
        if self.live and self.bar is not None:
            took = clock(time.monotonic() - self.begun)
            self.bars.update(self.bar, completed=1.0, text=f"{took}")
        self.bar = None
