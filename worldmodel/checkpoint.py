"""Checkpoints that survive a kill at any moment: written aside, fsynced, renamed, hashed; the last three are kept.

Beside each `NAME-STEP.pt` lies a readable `NAME-STEP.json` with its SHA-256, its own, and what is needed to rebuild the
network. It is written first, and where a step is saved anew it tells of the file that stands there too: whenever a save
is cut off, every network that there is has its manifest. Loading never unpickles objects (`weights_only=True`) and
checks both hashes: neither `torch.load` nor a JSON parser notices a flipped bit.
"""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from configs import UserError

KEEP = 3


class DamagedError(Exception):
    """Names a checkpoint, and what is wrong with it."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, fsync, rename, fsync the folder: the file is there whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _rename(aside, path)
    except OSError as error:
        error.filename = str(path)  # a full disk is reported with the file that did not fit
        raise
    finally:
        aside.unlink(missing_ok=True)


def _rename(aside: Path, path: Path) -> None:
    os.replace(aside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, name: str, step: int, state: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Save `state` (tensors, numbers, strings, and lists and dicts of them) and the JSON-able `meta`.

    Tensors are saved, and loaded, as the CPU's: a run goes on on machines of all kinds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{step:09d}.pt"
    for stray in folder.glob(f".{name}-?????????.*.tmp"):  # of a process that was killed while saving
        stray.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            torch.save(_on_cpu(state), file)
            file.flush()
            os.fsync(file.fileno())
        manifest = {"name": name, "step": step, "sha256": _sha256(aside), "meta": meta, **_standing(path)}
        write_atomically(path.with_suffix(".json"), _signed(manifest))
        _rename(aside, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)
    for old in _paths(folder, name)[:-KEEP]:
        old.unlink(missing_ok=True)
    for manifest_file in folder.glob(f"{name}-?????????.json"):
        if not manifest_file.with_suffix(".pt").exists():
            manifest_file.unlink(missing_ok=True)
    return path


def _standing(path: Path) -> dict[str, Any]:
    """For the manifest of what will take this path: that of what is there, if it is sound."""
    try:
        manifest = _manifest(path)
    except DamagedError:
        return {}
    return {"before": {"sha256": manifest["sha256"], "meta": manifest["meta"]}}


def load(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The newest undamaged checkpoint of that name: (state, meta, step).

    Raises:
        UserError: there is none, or every one is damaged (naming each and what is wrong with it).
    """
    wrong = []
    for path in reversed(_paths(folder, name)):
        try:
            manifest = _manifest(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            return state, manifest["meta"], int(manifest["step"])
        except DamagedError as error:
            wrong.append(str(error))
        except pickle.UnpicklingError:
            wrong.append(f"{path.name} (holds more than tensors and plain values, which may be hostile)")
    if wrong:
        raise UserError(f"no usable '{name}' checkpoint in {folder}: {', '.join(wrong)}; train again into a new --run")
    raise UserError(f"no '{name}' checkpoint in {folder}; train-world-model or dream makes one")


def damaged(folder: Path) -> list[str]:
    """Of all checkpoints, whatever their name: those that `load` would pass over, and what is wrong with each."""
    wrong = []
    for path in sorted(folder.glob("*-?????????.pt")):
        try:
            _manifest(path)
        except DamagedError as error:
            wrong.append(str(error))
    return wrong


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, torch.Tensor) else state


def exists(folder: Path, name: str) -> bool:
    return bool(_paths(folder, name))


def newest_step(folder: Path, name: str) -> int:
    """Step of the newest checkpoint, damaged or not; -1 without any."""
    return max((int(path.stem[-9:]) for path in _paths(folder, name)), default=-1)


def _paths(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-?????????.pt"))


def _manifest(path: Path) -> dict[str, Any]:
    """What the .json beside a checkpoint holds, if both are as they were written."""
    try:
        data = path.with_suffix(".json").read_bytes()
        manifest = json.loads(data)
        # Those of 0.1 are not signed.
        if set(manifest) != {"name", "step", "sha256", "meta"} and _signed(manifest) != data:
            raise DamagedError(f"{path.name} (its .json was altered)")
        int(manifest["step"])
        found = _sha256(path)
        known = {one["sha256"]: one["meta"] for one in (manifest.get("before", manifest), manifest)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path.name} (its .json is missing or unreadable)") from None
    if found not in known:
        raise DamagedError(f"{path.name} (cut short or altered: its SHA-256 differs)")
    return {**manifest, "sha256": found, "meta": known[found]}


def _signed(manifest: dict[str, Any]) -> bytes:
    """As JSON, with a SHA-256 of the rest as its last entry."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    signature = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    return json.dumps({**rest, "manifest_sha256": signature}, indent=1).encode()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
