"""A long job on the terminal: one bar with the time left, or plain lines now and then where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn


def clock(seconds: float) -> str:
    """75 is 1:15, 4000 is 1:06:40."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Screen:
    """Says what happens. A context manager: within it the bar is alive."""

    def __init__(self, title: str, plain_every_s: float = 20.0) -> None:
        self.title, self.plain_every_s = title, plain_every_s
        self._console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}", markup=False),
        )
        self._bars = Progress(*columns, console=self._console, refresh_per_second=5)
        self._bar: TaskID | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def progress(self, share: float, left_s: float, text: str) -> None:
        """`share` of the work is done, `left_s` seconds remain."""
        share, line = min(share, 1.0), f"{clock(left_s)} left  {text}"
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = self._bars.add_task(self.title, total=1.0, text="")
            self._bars.update(self._bar, completed=share, text=line)
        elif time.monotonic() - self._printed > self.plain_every_s:
            self._printed = time.monotonic()
            self.say(f"  {share:4.0%}  {line}")

    def complete(self) -> None:
        """The work is done: the bar stands full, and what is said from now on comes below it."""
        if self._bar is not None:
            self._bars.update(self._bar, completed=1.0, text="")
            self._bars.stop()
            self._bar = None

    def say(self, text: str = "") -> None:
        self._console.print(text, markup=False)

    def note(self, text: str) -> None:
        """Something that the user should know of, at once."""
        self._console.print(f"  [yellow]note:[/yellow] {escape(text)}")
