"""A world model of an earlier run that learns on from other logs, and does not forget: `train-world-model --init-from`.

The earlier logs are rehearsed: a share of every batch comes from them (Robins, "Catastrophic forgetting, rehearsal and
pseudorehearsal", 1995). Scales of observations, actions and context stay the earlier run's: the network's weights mean
what they mean under these alone.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import UserError, load_yaml
from worldmodel import checkpoint
from worldmodel.checkpoint import write_atomically
from worldmodel.log_format import INDEX, SCHEMA, row_dtypes
from worldmodel.replay import Batch, Replay
from worldmodel.saved import NAME
from worldmodel.storage import LogReader


@dataclass
class Earlier:
    """Logs that the model has learnt from in an earlier run."""

    replay: Replay
    held_out: Replay

    @property
    def folder(self) -> Path:
        return self.replay.reader.folder


def found(folders: Sequence[str | Path]) -> tuple[list[LogReader], list[str]]:
    """Those that can be opened, and a line on each that cannot."""
    readers, missing = [], []
    for folder in folders:
        try:
            reader = LogReader(folder)
            reader.check()
            readers.append(reader)
        except UserError as error:
            missing.append(f"earlier logs are not rehearsed, and what of them is forgotten is not known: {error}")
    return readers, missing


@dataclass(frozen=True)
class Origin:
    """An earlier run, whose model a new one begins as."""

    run: Path
    meta: dict[str, Any]
    steps: int
    size: str

    @classmethod
    def of(cls, run: Path) -> "Origin":
        if not checkpoint.exists(run / "checkpoints", NAME):
            raise UserError(f"--init-from {run}: no world model is in it; give the folder of a run that trained one")
        _, meta, steps = checkpoint.load(run / "checkpoints", NAME)
        settings = load_yaml(run / "config.yaml")
        return cls(run.resolve(), meta, steps, settings["size"])

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    @property
    def logs(self) -> Path:
        """The folder of what it learnt from, whether that is still there or not."""
        return Path(load_yaml(self.run / "config.yaml").get("data") or self.run / "episodes").resolve()

    def action(self) -> Mapping[str, Any]:
        """Names and bounds of the commands as its network knows them."""
        if action := self.meta.get("action"):
            return action
        try:
            return LogReader(self.logs).schema["action"]  # models of 0.1 do not tell it
        except UserError as error:
            raise UserError(
                f"--init-from {self.run}: how its commands were scaled is known from its logs alone, and {error}"
            ) from None

    def check(self, schema: Mapping[str, Any]) -> None:
        """Raises:
        UserError: its model means other observations, actions, clock or task than logs of this schema hold.
        """
        vector, actions = schema["observation"]["vector"], schema["action"]["names"]
        meta, image = self.meta, "image" in schema["observation"]
        checks = [
            ("number of observed channels", meta["spaces"]["vector"], vector["shape"][0]),
            ("observation", meta.get("observation_names"), vector.get("names")),
            ("action", self.action()["names"], actions),
            ("camera", "one image" if meta["spaces"]["image"] else "no image", "one image" if image else "no image"),
            ("control rate in Hz", meta.get("control_hz"), schema["control_hz"]),
            ("task", meta["task"], schema["task"]),
        ]
        for what, theirs, ours in checks:
            if theirs is not None and ours is not None and theirs != ours:
                raise UserError(
                    f"--init-from {self.run}: its model's {what} is {_told(theirs)}, that of these logs {_told(ours)}; "
                    "give logs of the same machine, mapped alike, or train without --init-from"
                )

    def unlike(self, reader: LogReader) -> list[str]:
        """What these logs label that the model cannot be told, one line each."""
        known = set(self.meta["context"]["names"])
        own = sorted({name for record in reader.episodes for name in record["physics"]} - known)
        return [f"{name} is labelled in these logs, but the model began without it and is not told" for name in own]


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def scaled_as(reader: LogReader, action: Mapping[str, Any], into: Path) -> LogReader:
    """The logs, with their commands bounded as the model knows them; if need be a copy in the run's own `into`.

    A command is a share of its bounds to the network, and imported logs are bounded by what they happen to hold.
    """
    bounds = {key: [float(x) for x in action[key]] for key in ("low", "high")}
    if all(reader.schema["action"][key] == bounds[key] for key in bounds):
        return reader
    schema = {**reader.schema, "action": {**reader.schema["action"], **bounds}}
    text = (json.dumps(schema | {"copy_of": str(reader.folder.resolve())}, indent=2) + "\n").encode()
    if reader.folder.resolve() == into.resolve():  # imported for this run
        write_atomically(into / SCHEMA, (json.dumps(schema, indent=2) + "\n").encode())
        return LogReader(into)
    if into.is_dir() and any(into.iterdir()):
        there = (into / SCHEMA).read_bytes() if (into / SCHEMA).is_file() else b"{}"
        if "copy_of" not in json.loads(there):
            raise UserError(f"{into} already holds other logs; choose another run folder for {reader.folder}")
        if there == text and (into / INDEX).read_bytes() == (reader.folder / INDEX).read_bytes():
            return LogReader(into)
    aside = into.with_name(into.name + ".importing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in (*row_dtypes(reader.schema), INDEX):
        shutil.copyfile(reader.folder / name, aside / name)
    write_atomically(aside / SCHEMA, text)
    shutil.rmtree(into, ignore_errors=True)  # an older copy
    aside.rename(into)
    return LogReader(into)


def mixed(
    new: Replay,
    earlier: Sequence[Earlier],
    share: float,
    batch: int,
    length: int,
    rng: np.random.Generator,
    plain: bool = False,
) -> Batch:
    """A batch of which this share is of earlier logs, drawn evenly over their rows."""
    count = round(share * batch) if earlier else 0
    if not count:
        return new.sample(batch, length, rng, plain)
    rows = np.array([one.replay.total for one in earlier], np.float64)
    counts = rng.multinomial(count, rows / rows.sum()).tolist()
    parts = [new.sample(batch - count, length, rng, plain)] if count < batch else []
    parts += [one.replay.sample(n, length, rng, plain) for one, n in zip(earlier, counts, strict=True) if n]
    return joined(parts)


def joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several. What an episode's number means then depends on the row."""

    def together(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        return np.concatenate(values) if isinstance(values[0], np.ndarray) else torch.cat(values)

    return Batch(**{name: together(name) for name in vars(parts[0])})
