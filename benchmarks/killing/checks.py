"""What must hold of a run folder at any moment, whatever killed the night; and of what is left of the night itself."""

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from configs import UserError
from dreaming.audit import AuditReport
from dreaming.report.data import Report, data_path
from dreaming.run import BEST, CLONE, LATEST, RunFolder
from worldmodel import checkpoint
from worldmodel.log_format import SCHEMA
from worldmodel.saved import NAME
from worldmodel.storage import LogReader

NAMES = (NAME, CLONE, LATEST, BEST)
SAVES = {  # where a phase's work is saved; and in every phase, at its end, in progress.json
    "record": "episodes/*",
    "learn": f"checkpoints/{NAME}-*.json",
    "clone": f"checkpoints/{CLONE}-*.json",
    "dream": f"checkpoints/{LATEST}-*.json",
    "audit": "audit/report.json",
    "survival": "survival.json",
    "report": "report/*",
}


@dataclass
class Found:
    """What a folder holds that may not be lost again."""

    done: list[str] = field(default_factory=list)
    nights: int = 0
    episodes: list[dict] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)  # of the newest usable checkpoint, by name


def read_all(path: Path) -> Found:
    """Reads every file of a run folder as the next night and the report would.

    Raises:
        UserError, or whatever else reading raises: then the folder is not readable.
    """
    run, found = RunFolder(path), Found()
    config, progress = run.config(), run.progress()
    found.done, found.nights = list(progress.done), progress.nights
    if (run.logs(config) / SCHEMA).is_file() and (run.logs(config) / "episodes.jsonl").stat().st_size:
        try:
            reader = LogReader(run.logs(config))
        except UserError as error:
            if "holds no episodes" not in str(error):  # the first one may have been half written
                raise
        else:
            reader.check()
            found.episodes = reader.episodes
    for name in NAMES:
        if checkpoint.exists(run.checkpoints, name):
            found.steps[name] = checkpoint.load(run.checkpoints, name)[2]
    run.read_metrics()
    for file in ("survival.json", "audit/report.json"):
        if (path / file).exists() and run.read_json(file) is None:
            raise UserError(f"{path / file} is not JSON")
    if audited := run.read_json("audit/report.json"):
        AuditReport.from_dict(audited)
    if data_path(path).exists():
        Report.load(path)
    if (dreams := path / "audit" / "dreams.npz").exists():
        np.load(dreams)["action"]
    return found


def saved_s(path: Path, phase: str) -> float:
    """When work of that phase was last saved, in seconds since the epoch; 0 where it never was."""
    files = [*path.glob(SAVES[phase]), *path.glob("progress.json")] if phase in SAVES else []
    return max((file.stat().st_mtime for file in files), default=0.0)


def running(session: int) -> list[int]:
    """Processes of that session that have not ended."""
    alive = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, of_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(of_session) == session and state != "Z":
                alive.append(int(folder.name))
    return alive


def left_running(session: int, patience_s: float = 15.0) -> list[int]:
    """Those that are still there when the patience is over."""
    end = time.monotonic() + patience_s
    while (alive := running(session)) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def altered_bytes(checkpoints: Path, positions: int, rng: np.random.Generator) -> tuple[int, list[str]]:
    """Alters the newest checkpoint of each name, a byte at a time, in a copy of the folder.

    Returns:
        how many bytes were tried, and a line for each that was not refused by name, or not made good by the one before.
    """
    tried, wrong = 0, []
    for name in NAMES:
        both = sorted(checkpoints.glob(f"{name}-*.pt"), reverse=True)[:2]
        if not both:
            continue
        newest, older = both[0], both[1:]
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            for file in both:
                for suffix in (".pt", ".json"):
                    shutil.copy(file.with_suffix(suffix), copy)
            before = int(older[0].stem[-9:]) if older else None
            for suffix in (".pt", ".json"):
                file = copy / newest.with_suffix(suffix).name
                whole = file.read_bytes()
                spots = {0, len(whole) - 1, *rng.integers(0, len(whole), positions).tolist()}
                for spot in sorted(spots):
                    altered = bytearray(whole)
                    altered[spot] ^= int(rng.integers(1, 256))
                    file.write_bytes(altered)
                    tried += 1
                    if trouble := _trouble(copy, name, newest.name, before):
                        wrong.append(f"{file.name}, byte {spot}: {trouble}")
                file.write_bytes(whole)
    return tried, wrong


def _trouble(folder: Path, name: str, newest: str, before: int | None) -> str:
    if not any(text.startswith(newest) for text in checkpoint.damaged(folder)):
        return "not noticed"
    try:
        step = checkpoint.load(folder, name)[2]
    except UserError as error:
        return "" if before is None and newest in str(error) else str(error)
    return "" if step == before else f"step {step} was loaded, not {before}"
