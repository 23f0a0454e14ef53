"""A night that tells where it is, and kills itself in the midst of a write if it is told to.

    python benchmarks/killing/victim.py DIARY WRITE MOMENT NUMBER -- arguments of `dream`

DIARY is a file that gets a line "phase seconds time" as each phase begins: the seconds that it is given, and the time
since the epoch. WRITE is a pattern of file names, or "" for none; the process kills itself (SIGKILL) at the NUMBERth
write to one of them: MOMENT is `half` (of the bytes are written), `before` (written aside, not renamed) or `after`
(renamed; what should follow does not). No phase has a least time, as none has in a night of hours.
"""

import fnmatch
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

SHARES = {"record": 0.05, "learn": 0.22, "clone": 0.1, "dream": 0.3, "audit": 0.08, "survival": 0.13, "report": 0.12}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Stands in for the calls that every write of a run folder ends in."""

    def __init__(self, pattern: str, moment: str, number: int) -> None:
        self.pattern, self.moment, self.left = pattern, moment, number
        self.replace, self.pwrite = os.replace, os.pwrite
        os.replace, os.pwrite = self._replace, self._pwrite

    def _due(self, path: Path) -> bool:
        if fnmatch.fnmatch(path.name, self.pattern):
            self.left -= 1
        return self.left == 0

    def _replace(self, source: Any, target: Any) -> None:
        due = self._due(Path(target))
        if due and self.moment == "half":
            os.truncate(source, os.path.getsize(source) // 2)
        if due and self.moment != "after":
            die()
        self.replace(source, target)
        if due:
            die()

    def _pwrite(self, file: int, data: Any, offset: int) -> int:
        """Logs are appended to in place."""
        due = self._due(Path(os.readlink(f"/proc/self/fd/{file}")))
        if due and self.moment == "before":
            die()
        written = self.pwrite(file, data[: len(data) // 2] if due and self.moment == "half" else data, offset)
        if due:
            die()
        return written

    def line(self, metrics: Path, line: str) -> None:
        """The metrics are appended to through a file object."""
        if self._due(metrics):
            with open(metrics, "a", encoding="utf-8") as file:
                file.write(line[: len(line) // 2] if self.moment == "half" else line * (self.moment == "after"))
            die()


def main(diary: Path, trap: Trap | None, arguments: list[str]) -> None:
    import json

    from dreaming import cli
    from dreaming.clock import Share
    from dreaming.commands import dream
    from dreaming.run import RunFolder

    log = RunFolder.log

    class Night(dream.Night):
        def __init__(self, config, run, budget, listener, *rest) -> None:
            super().__init__(config, run, budget, listener, *rest)
            shown = listener.phase

            def phase(name: str, seconds: float) -> None:
                with open(diary, "a", encoding="utf-8") as file:
                    file.write(f"{name} {seconds:.2f} {time.time():.3f}\n")
                shown(name, seconds)

            listener.phase = phase

    def trapped(run: RunFolder, *records: dict[str, Any]) -> None:
        if trap is not None:
            trap.line(run.metrics, "".join(json.dumps(record) + "\n" for record in records))
        log(run, *records)

    shares = [Share(name, share) for name, share in SHARES.items()]
    with (
        patch.object(dream, "Night", Night),
        patch.object(dream, "SHARES", shares),
        patch.object(RunFolder, "log", trapped),
        patch.object(sys, "argv", ["dream", *arguments]),
    ):
        cli.main()


if __name__ == "__main__":
    diary, write, moment, number, dashes, *arguments = sys.argv[1:]
    main(Path(diary), Trap(write, moment, int(number)) if write else None, arguments)
