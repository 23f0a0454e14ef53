"""What every replay is asked to do: write the same steps, be opened, give segments; and how it is watched meanwhile.

Standard library and NumPy only, so that it runs in any contender's own Python.

    CONTENDER.py write FOLDER STEPS 0|1      the last: with images
    CONTENDER.py sample FOLDER STEPS 0|1 SECONDS
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

BATCH, LENGTH = 16, 64  # segments, their steps
WARM = 300  # batches before the clock starts
VECTOR, ACTION, EPISODE = 38, 8, 1000  # channels; steps of an episode
PACKAGES = ("torch", "torchrl", "tensordict", "elements")


class Contender(Protocol):
    def write(self, folder: Path, episodes: Iterator[dict[str, np.ndarray]], steps: int) -> None:
        """Stores episodes of EPISODE steps each, and leaves them on the disk."""
        ...

    def open(self, folder: Path, steps: int, images: bool) -> Any:
        """What was written, ready to sample from."""
        ...

    def sample(self, replay: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """One batch: the vector (B, T, D), the image (B, T, 64, 64, 3) or None, is_first (B, T)."""
        ...


def episodes(steps: int, images: bool) -> Iterator[dict[str, np.ndarray]]:
    """EPISODE rows each. Channel 0 of the vector is the row's number, and the image's first pixels hold it too."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((EPISODE, VECTOR), np.float32)
    pixels = np.repeat(np.repeat(random.integers(0, 256, (EPISODE, 8, 8, 3), np.uint8), 8, 1), 8, 2)
    for begin in range(0, steps, EPISODE):
        number = np.arange(begin, begin + EPISODE)
        vector = noise + np.float32(begin % 7)
        vector[:, 0] = number
        episode = {"vector": vector, "action": np.tanh(vector[:, 1 : 1 + ACTION]), "reward": vector[:, 1].copy()}
        if images:
            episode["image"] = pixels.copy()
            episode["image"][:, 0, 0] = _digits(number)
        yield episode


def _digits(number: np.ndarray) -> np.ndarray:
    return np.stack([number // 65536 % 256, number // 256 % 256, number % 256], -1).astype(np.uint8)


def check(vector: np.ndarray, image: np.ndarray | None, is_first: np.ndarray) -> None:
    """A batch holds rows that follow one another unless an episode begins, and each its own image."""
    if vector.shape[:2] != (BATCH, LENGTH) or vector.dtype != np.float32:
        raise ValueError(f"a batch has shape {vector.shape}, {vector.dtype}")
    number = vector[..., 0].astype(np.int64)
    if not ((np.diff(number, axis=1) == 1) | is_first[:, 1:]).all() or len(np.unique(number[:, 0])) < BATCH // 2:
        raise ValueError("segments are not what was written")
    if image is not None and not (np.asarray(image)[:, :, 0, 0] == _digits(number)).all():
        raise ValueError("images are not those of their rows")


def memory() -> dict[str, float]:
    """MB of this process in memory: its own, and pages of mapped files, which the system takes back at need."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    own, mapped, shared = (int(status[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile", "RssShmem"))
    return {"own_MB": own, "mapped_MB": mapped + shared}


def watch(contender: Contender, folder: Path, steps: int, images: bool, seconds: float) -> dict[str, Any]:
    """Opening includes the first batch: what a library puts off until then is part of it."""
    before, clock = memory(), Clock()
    replay = contender.open(folder, steps, images)
    check(*contender.sample(replay))
    opened, opened_memory = clock.read(), memory()
    for number in range(WARM):  # that what fits into memory is there
        batch = contender.sample(replay)
        if number < 20:
            check(*batch)
    clock, batches = Clock(), 0
    read = _read_bytes()
    while clock.read()["wall_s"] < seconds:
        contender.sample(replay)
        batches += 1
    spent = clock.read()
    return {
        "open": opened,
        "memory_before": before,
        "memory_opened": opened_memory,
        "memory_after": memory(),
        "segments_per_s": batches * BATCH / spent["wall_s"],
        "segments_per_cpu_s": batches * BATCH / spent["cpu_s"],
        "disk_MB_per_s": (_read_bytes() - read) / 1e6 / spent["wall_s"],
    }


class Clock:
    def __init__(self) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall_s": time.perf_counter() - self.begun[0], "cpu_s": time.process_time() - self.begun[1]}


def _read_bytes() -> int:
    """From the disk itself, not from the system's cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def serve(contender: Contender) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    doing, folder, steps, images = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
    if doing == "write":
        clock = Clock()
        contender.write(folder, episodes(steps, images), steps)
        answer: dict[str, Any] = {"write": clock.read()}
    else:
        answer = watch(contender, folder, steps, images, float(sys.argv[5]))
    answers.write(json.dumps({**answer, "versions": {name: found for name in PACKAGES if (found := _version(name))}}))


def _version(package: str) -> str:
    try:
        return version(package) if package in sys.modules else ""
    except PackageNotFoundError:
        return ""
