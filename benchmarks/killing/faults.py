"""Nights to which something happens, one kind a night; and how much memory a night takes while it goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from killing.checks import left_running, read_all
from killing.fault import SAYS

from dreaming.report.data import Report

SMALL_DISK = 48_000_000  # bytes


@dataclass
class Fate:
    """What became of a night."""

    fault: str
    seconds: float
    said: list[str]  # by the report, as warnings
    wrong: list[str] = field(default_factory=list)


@dataclass
class Memory:
    """Of a night's process, from `learn` to the end of `survival`."""

    hours: float
    peak_mb: float
    slope_mb_an_hour: dict[str, float]  # by phase, of those that lasted a while
    disk_mb: float
    stated: str  # what it said that it may take of the disk
    late_s: float
    left_running: list[int]
    wrong: list[str] = field(default_factory=list)


def suffered(fault: str, out: Path, hours: float, late_s: float, prepare: Callable[[Path], None]) -> Fate:
    """A night with this fault, from its beginning to its end."""
    folder, faults = out / fault.replace(" ", "-").replace("&", ""), fault.split("+")
    shutil.rmtree(folder, ignore_errors=True)
    with _small_disk(folder) if "disk full" in faults else contextlib.nullcontext():
        prepare(folder / "night")
        arguments = ["--run", str(folder / "night"), "--hours", str(hours), "--wandb", _wandb(fault)]
        victim = Path(__file__).with_name("fault.py")
        begun = time.monotonic()
        output = out / f"{folder.name}.txt"
        code, alive = _run([sys.executable, str(victim), fault, "--", *arguments], output, _setting(fault), hours)
        seconds = time.monotonic() - begun
        wrong = [f"left running: {alive}"] if alive else []
        if code:
            last = " ".join(output.read_text()[-300:].split())
            return Fate(fault, round(seconds, 1), [], [*wrong, f"ended with {code}: {last}"])
        said = Report.load(folder / "night").warnings
        found = read_all(folder / "night")
        if found.nights != 1 or not {"world-model", "policy-best"} <= set(found.steps):
            wrong.append(f"it ended with {found.nights} nights and checkpoints of {', '.join(found.steps)}")
        for one in faults:
            if SAYS[one] and not any(SAYS[one] in text for text in said):
                wrong.append(f"the report does not say: {one}")
        if (late := seconds - 3600 * hours) > late_s:
            wrong.append(f"it took {late:.0f} seconds longer than it should")
        if "disk full" in faults:
            shutil.copytree(folder / "night", out / "kept" / folder.name, dirs_exist_ok=True)
    return Fate(fault, round(seconds, 1), said, wrong)


def measured(out: Path, hours: float, prepare: Callable[[Path], None]) -> Memory:
    """A night as it is, looked at once a second."""
    folder = out / "memory"
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder)
    code = "from dreaming.cli import main; main()"
    output = out / "memory.txt"
    looks: list[tuple[float, int, int]] = []

    def look(pid: int) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int((Path("/proc") / str(pid) / "statm").read_text().split()[1])
            file = folder / "progress.json"
            done = json.loads(file.read_text())["done"] if file.exists() else []
            looks.append((time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), len(done)))

    begun = time.monotonic()
    command = [sys.executable, "-c", code, "--run", str(folder), "--hours", str(hours), "--wandb", "off"]
    failed, alive = _run(command, output, {}, hours, look)
    seconds = time.monotonic() - begun
    phases = ("record", "learn", "clone", "dream", "audit", "survival", "report")
    slopes = {}
    for number, phase in enumerate(phases):
        those = np.array([(at, size) for at, size, done in looks if done == number])
        if len(those) >= 20:
            those = those[len(those) // 4 :]  # what a phase makes as it begins is no leak
            slopes[phase] = round(float(np.polyfit(those[:, 0] / 3600, those[:, 1] / 1e6, 1)[0]), 1)
    peak = max(size for _, size, _ in looks) / 1e6
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    stated = next((line for line in output.read_text().splitlines() if "of the disk" in line), "")
    wrong = [f"ended with {failed}"] if failed else []
    late = round(seconds - 3600 * hours, 1)
    return Memory(hours, round(peak, 1), slopes, round(disk, 2), stated.strip(), late, alive, wrong)


def _run(
    command: list[str],
    output: Path,
    setting: dict[str, str],
    hours: float,
    look: Callable[[int], None] = lambda pid: None,
) -> tuple[int, list[int]]:
    """The exit code, and what it left running, which is ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **setting}
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=environment,
        )  # fmt: skip
    end = time.monotonic() + 3600 * hours + 300
    while process.poll() is None and time.monotonic() < end:
        look(process.pid)
        time.sleep(1.0)
    if process.poll() is None:
        process.kill()
    code = process.wait()
    alive = left_running(process.pid)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return code, alive


def _wandb(fault: str) -> str:
    return "online" if "W&B unreachable" in fault else "offline" if "W&B" in fault else "off"


def _setting(fault: str) -> dict[str, str]:
    if "W&B unreachable" not in fault:
        return {}
    return {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own, which only root may mount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
