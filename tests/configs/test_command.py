"""Exit codes and lines of the commands, in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import errno, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from configs import UserError, parse_arguments, run_command

@dataclass
class Options:
    \"\"\"Dream overnight.\"\"\"

    hours: float = 8.0
    \"\"\"Wall-clock budget.\"\"\"
    run: Path | None = None
    \"\"\"Run folder. Default: runs/TASK.\"\"\"
    fast: bool = False
    \"\"\"Or slow.\"\"\"

"""


@pytest.fixture
def start(root, tmp_path):
    """Starts a script that begins with HEAD; a file, as tyro reads the help out of the source."""

    def start(body: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / "command.py"
        script.write_text(HEAD + textwrap.dedent(body))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [sys.executable, script, *arguments], env={**os.environ, "PYTHONPATH": str(root)}, **pipes
        )

    return start


@pytest.fixture
def run(start):
    def run(body: str, *arguments: str) -> tuple[int, str, str]:
        process = start(body, *arguments)
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    return run


def test_success_is_0(run):
    assert run("run_command(lambda: print('done'))") == (0, "done\n", "")


RAISES = "def main():\n    print('working')\n    raise {}\nrun_command(main)"
FULL = "error: no space left on the disk while writing a/model.pt; free some and run the same command again\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("UserError('no such task')", 2, "error: no such task\n"),
        ("KeyboardInterrupt", 130, "stopped by Ctrl-C\n"),
        ("OSError(errno.ENOSPC, 'No space left on device', 'a/model.pt')", 2, FULL),
    ],
)
def test_a_users_trouble_is_one_line(run, error, code, line):
    assert run(RAISES.format(error)) == (code, "working\n", line)


@pytest.mark.parametrize("error", ["ZeroDivisionError", "OSError(errno.EIO, 'broken')"])
def test_a_mistake_of_ours_keeps_its_traceback(run, error):
    code, _, stderr = run(RAISES.format(error))
    assert code == 1 and "Traceback" in stderr


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_told_otherwise(run, monkeypatch, given, found):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert run("run_command(lambda: print(os.environ['OMP_WAIT_POLICY']))")[1].strip() == found


def test_ctrl_c_while_running(start):
    running = start("run_command(lambda: (print('ready', flush=True), time.sleep(60)))")
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert (running.returncode, stderr) == (130, "stopped by Ctrl-C\n")


def test_a_reader_that_has_seen_enough_is_no_error(start):
    running = start("run_command(lambda: [print('x' * 1000) for _ in range(10000)])")
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    running.wait(timeout=30)


PARSE = "run_command(lambda: print(parse_arguments(Options, prog='dream')))"


def test_arguments_become_the_dataclass(run):
    _, stdout, _ = run(PARSE, "--hours", "0.16", "--run", "a/b", "--fast", "True")
    assert stdout == "Options(hours=0.16, run=PosixPath('a/b'), fast=True)\n"


@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--huors", "3"], ["--huors", "erhaps you meant: --hours FLOAT"]),
        (["--hours", "long"], ["--hours", "'long'"]),
        (["--hours"], ["--hours"]),
        (["more"], ["more"]),
    ],
)
def test_a_wrong_argument_is_one_line(run, monkeypatch, arguments, words, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, stdout, stderr = run(PARSE, *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert not set("│╭╰─\x1b") & set(stderr)
    for word in [*words, "dream --help"]:
        assert word in stderr


def test_help_says_what_happens_without_an_option(run):
    code, stdout, _ = run(PARSE, "--help")
    assert code == 0 and stdout.startswith("usage: dream")
    assert "Wall-clock budget. (default: 8.0)" in stdout
    assert "Default: runs/TASK." in stdout and "None" not in stdout
