"""A million steps and more: segments a second, memory, and the time to open, beside TorchRL's replay and DreamerV3's.

    python benchmarks/replay.py --peers-python ../peers/bin/python --official ../dreamerv3

Each contender (`replays/`) writes the same steps in its own form and is left; another process opens them, from the disk
and not from the system's cache, and samples 16 segments of 64 steps at a time. Rates are by processor time, as others
may use the machine. What does not fit into memory as a whole is not asked of DreamerV3's replay, which holds all steps
there. Peers: `pip install torch torchrl==0.14.1 elements`, and a checkout of danijar/dreamerv3.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

HERE = Path(__file__).parent
SCRIPTS = {"ours": "ours", "torchrl": "peer_torchrl", "official": "peer_official"}
BYTES = {False: 38 * 4 + 8 * 4 + 4, True: 38 * 4 + 8 * 4 + 4 + 64 * 64 * 3}  # a step, without and with image


@dataclass
class Options:
    vectors: str = "100000,1000000"
    """Numbers of steps, of 38 channels and 8 commands."""
    images: str = "100000,1000000"
    """Numbers of steps that have an image of 64 x 64 besides."""
    contenders: str = "ours,torchrl,official"
    seconds: float = 10.0
    """That sampling is timed for."""
    peers_python: Path = Path(sys.executable)
    """Of an environment with TorchRL and DreamerV3's `elements`."""
    official: Path | None = None
    """A checkout of danijar/dreamerv3."""
    out: Path = Path("runs/replay")


class FailedError(Exception):
    pass


def ask(name: str, doing: list[str], options: Options) -> dict:
    python = Path(sys.executable) if name == "ours" else options.peers_python
    path = {"ours": HERE.parent, "official": options.official}.get(name) or ""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [str(python), str(HERE / "replays" / f"{SCRIPTS[name]}.py"), *doing]
    done = subprocess.run(command, env=os.environ | threads | {"PYTHONPATH": str(path)}, capture_output=True, text=True)
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    return json.loads(done.stdout)


def forget(folder: Path) -> None:
    """Takes these files out of the system's cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(name: str, steps: int, images: bool, options: Options) -> dict:
    folder = options.out / "data"
    shutil.rmtree(folder, ignore_errors=True)
    if name == "official" and steps * BYTES[images] > 0.4 * memory_bytes():
        raise FailedError(f"would hold {steps * BYTES[images] / 1e9:.0f} GB in memory")
    folder.mkdir(parents=True)
    arguments = [str(folder / name), str(steps), str(int(images))]
    try:
        written = ask(name, ["write", *arguments], options)
        forget(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {**written, "bytes": size, **ask(name, ["sample", *arguments, str(options.seconds)], options)}
    finally:
        shutil.rmtree(folder)


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def row(name: str, steps: int, images: bool, found: dict) -> str:
    """Memory is what opening and sampling added."""
    before, after = found["memory_before"], found["memory_after"]
    cells = [
        f"{steps / 1e6:g}M {'images' if images else 'vectors'}",
        name,
        f"{found['bytes'] / 1e9:.2f} GB",
        f"{found['open']['wall_s']:.2f} s ({found['open']['cpu_s']:.2f})",
        f"{found['segments_per_cpu_s']:,.0f}",
        f"{found['segments_per_s']:,.0f}",
        f"{found['disk_MB_per_s']:,.0f} MB/s",
        f"{after['own_MB'] - before['own_MB']:,.0f} MB",
        f"{after['mapped_MB'] - before['mapped_MB']:,.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def main(options: Options) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"memory of this machine {memory_bytes() / 1e9:.1f} GB\n")
    print(
        "| steps | replay | on disk | open (CPU) | segments a CPU second | a second | from disk | own memory | mapped |"
    )
    print("|---" * 9 + "|", flush=True)
    for images, sizes in ((False, options.vectors), (True, options.images)):
        for steps in [int(size) for size in sizes.split(",") if size]:
            for name in options.contenders.split(","):
                try:
                    found = measure(name, steps, images, options)
                except FailedError as reason:
                    print(f"| {steps / 1e6:g}M {'images' if images else 'vectors'} | {name} | left out: {reason} |")
                    continue
                print(row(name, steps, images, found), flush=True)
                with open(options.out / "replay.jsonl", "a") as file:
                    file.write(json.dumps({"replay": name, "steps": steps, "images": images, **found}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
