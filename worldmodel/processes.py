"""Processes that a process has started, and their end."""

import contextlib
import os

import psutil


def started_by(pid: int | None = None) -> list[psutil.Process]:
    """Those that run, and those that they have started in their turn; default: this process's own."""
    try:
        return psutil.Process(os.getpid() if pid is None else pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command(process: psutil.Process) -> str:
    """Its command line; empty if it is over, or not ours to look at."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(processes: list[psutil.Process]) -> None:
    """At once, halted ones as well; those that are over already are none the worse for it."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def runs(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, where the system hides those
        return True
