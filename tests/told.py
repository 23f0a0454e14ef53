"""What a test sees of a console script: exit code, standard output, standard error."""

from collections.abc import Callable

import pytest

from configs import run_command


class Told:
    """What a call of a command ended with."""

    def __init__(self, code: int | str | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, *parts: str) -> bool:
        """One clear line on stderr that holds these parts, exit code 2, no traceback."""
        for part in parts:
            assert part in self.err, f"{part!r} is not in {self.err!r}"
        return self.code == 2 and self.err.startswith("error: ") and self.err.count("\n") == 1


def told(capsys, script: Callable[[list[str]], None], arguments: tuple[object, ...]) -> Told:
    """Run a command's function as its console script would."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: script([str(a) for a in arguments]))
    out, err = capsys.readouterr()
    return Told(end.value.code, out, err)
