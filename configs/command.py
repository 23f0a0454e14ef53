"""What every console script shares: arguments to a dataclass, and a clear line instead of a traceback."""

import contextlib
import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

from configs.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
CANNOT_GO_ON = 2
INTERRUPTED = 130  # the shells' convention: 128 + SIGINT


def run_command(main: Callable[[], Any]) -> NoReturn:
    """Calls `main` and ends the process: 0, 2 with one line on stderr for a user's mistake, 130 for Ctrl-C.

    Anything else is our mistake and keeps its traceback.
    """
    # Threads of OpenMP wait for each other by spinning, unless told otherwise before torch is imported. Where another
    # program needs a core, they spin while the one they wait for is not running: several took fifty times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _end(f"error: {_printable(str(error))}", CANNOT_GO_ON)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", INTERRUPTED)
    except BrokenPipeError:
        # `dream --help | head`: the reader has seen enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CANNOT_GO_ON)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        _end(f"error: no space left on the disk{where}; free some and run the same command again", CANNOT_GO_ON)
    sys.exit(0)


def parse_arguments(options: type[T], arguments: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Command line to the dataclass `options`; its docstring and its fields' docstrings are the help.

    Args:
        arguments: instead of the process's own.
        prog: the command's name in the help, instead of the file that was started.

    Raises:
        UserError: unknown option, wrong value. tyro draws these as a box of lines; here they become one line.
    """
    import tyro  # not needed by the library, which imports configs too

    _hide_none(options)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                options,
                args=_with_true(options, sys.argv[1:] if arguments is None else arguments),
                prog=prog,
                config=(tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(messages.getvalue())) from None


def _with_true(options: "type[DataclassInstance]", arguments: Sequence[str]) -> list[str]:
    """`--camera` alone is `--camera True`."""
    hints = get_type_hints(options)
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options) if hints[field.name] is bool}
    given = list(arguments)
    for at in reversed(range(len(given))):
        if given[at] in flags and (at + 1 == len(given) or given[at + 1] not in ("True", "False")):
            given.insert(at + 1, "True")
    return given


def _hide_none(options: "type[DataclassInstance]") -> None:
    """Where None means "left out", the field's docstring says what then happens; "(default: None)" would not."""
    import tyro

    hints = get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if field.default is None and not hasattr(hint, "__metadata__"):
            options.__annotations__[field.name] = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]


def _one_line(box: str) -> str:
    """tyro's box without its borders; rules part it into the mistake, a suggestion or the argument's help, a hint."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [" ".join(part.split()) for part in re.split(r"─{3,}", "\n".join(lines))]
    parts = [part.rstrip(".") for part in parts if part and not part.startswith("Argument helptext")]
    return "; ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])]) if parts else plain.strip()


def _printable(text: str) -> str:
    """Names in it may come from files of others; on a terminal they move no cursor and change no colour."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def _end(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    sys.exit(code)
