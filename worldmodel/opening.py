"""`train-world-model` begins: from the user's options and what the run folder holds to a trainer, and its session."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from configs import UserError, check_seed, from_dict, load_yaml, packaged, to_dict
from worldmodel import checkpoint
from worldmodel.cli import TrainWorldModel
from worldmodel.console import Screen, clock
from worldmodel.device import choose_device
from worldmodel.earlier import Origin, scaled_as
from worldmodel.lock import LOCK, locked
from worldmodel.log_format import SCHEMA
from worldmodel.logs.importing import as_log_folder
from worldmodel.model import ModelConfig
from worldmodel.readiness import readiness
from worldmodel.saved import NAME
from worldmodel.session import Session, Settings
from worldmodel.speed import prepare_cpu, threads_for
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

FILES = {"config.yaml", "metrics.jsonl", "results.json"}
OURS = FILES | {"episodes", "episodes.importing", "checkpoints", "plots", "wandb", LOCK}


def train_world_model(options: TrainWorldModel) -> None:
    _check(options)
    device = choose_device(options.device)
    prepare_cpu()
    folder = _run_of(options)
    _settings_of(folder)  # nothing is written into a folder of something else
    new = not folder.is_dir()
    with ExitStack() as claim:
        if not new:
            claim.enter_context(locked(folder))
        _train(options, folder, device, claim if new else None)


def _train(options: TrainWorldModel, folder: Path, device: torch.device, claim: ExitStack | None) -> None:
    """Args: claim, of a folder that is new: it is locked as it is made."""
    before = _settings_of(folder)
    goes_on = checkpoint.exists(folder / "checkpoints", NAME)
    origin = _origin(options, folder, before, goes_on)
    size_name = _size(options, folder, before, origin, goes_on)
    size = from_dict(ModelConfig, packaged("sizes", size_name), f"size {size_name}")
    seed = options.seed if options.seed is not None else int(before.get("seed", 0))
    chosen = {name: value for name in ("batch", "length", "lr") if (value := getattr(options, name)) is not None}
    config = replace(from_dict(TrainerConfig, before.get("trainer", {}), f"{folder}/config.yaml: trainer"), **chosen)
    with Screen("learning the world model") as screen:
        reader = _open_logs(options, folder, before, screen)
        task = reader.schema["task"]
        if origin:
            origin.check(reader.schema)
            reader = scaled_as(reader, origin.action(), folder / "episodes")
        if before and before["task"] != task:
            raise UserError(f"{folder} is a run of {before['task']}, these logs are of {task}; give a new --run")
        trainer = Trainer(reader, size, config, seed, device)
        threads_for(trainer.model)
        if goes_on:
            trainer.restore(folder / "checkpoints")
        elif origin:
            trainer.start_from(origin.checkpoints, [str(origin.logs)], str(origin.run))
        own = reader.folder.resolve() == (folder / "episodes").resolve()
        settings = Settings(task, seed, size_name, "" if own else str(reader.folder.resolve()), config)
        if claim is not None:
            folder.mkdir(parents=True, exist_ok=True)
            claim.enter_context(locked(folder))
        text = yaml.safe_dump({**before, **to_dict(settings)}, sort_keys=False)
        checkpoint.write_atomically(folder / "config.yaml", text.encode())
        _introduce(screen, trainer, folder if goes_on else None, size_name)
        if origin:
            trainer.save(folder / "checkpoints")  # from here on the run is its own
            screen.say(f"Beginning as the model of {origin.run}, of step {origin.steps:,}; its scales are kept")
            for line in origin.unlike(reader):
                screen.note(line)
        Session(options, folder, settings, trainer, screen).run()


def _size(options: TrainWorldModel, folder: Path, before: dict[str, Any], origin: Origin | None, goes_on: bool) -> str:
    """Its name; a model that exists keeps its own."""
    name = options.size or before.get("size") or (origin.size if origin else "laptop")
    if origin and name != origin.size:
        raise UserError(f"--init-from {origin.run} is of size {origin.size}; leave --size out")
    if before and name != before["size"] and goes_on:
        raise UserError(f"{folder} holds a model of size {before['size']}; leave --size out, or give a new --run")
    return name


def _origin(options: TrainWorldModel, folder: Path, before: dict[str, Any], goes_on: bool) -> Origin | None:
    """What a new run begins as; None for one that begins afresh or goes on."""
    if options.init_from is None:
        return None
    if options.init_from.resolve() == folder.resolve():
        raise UserError(
            "--init-from and --run are the same folder; give a new --run, or leave --init-from out to go on"
        )
    if goes_on:
        began_as = checkpoint.load(folder / "checkpoints", NAME)[1].get("began_as")
        if began_as != str(options.init_from.resolve()):
            told = f"began as the model of {began_as}" if began_as else "did not begin as another's"
            raise UserError(f"{folder} holds a model already, which {told}; leave --init-from out, or give a new --run")
        return None
    if options.data is None and not before:
        raise UserError("--init-from needs --data: the logs that its model is to learn from now")
    return Origin.of(options.init_from)


def _run_of(options: TrainWorldModel) -> Path:
    if options.run is None:
        raise UserError("--run is missing: name a folder for the run, a new one or an earlier run's")
    return options.run


def _check(options: TrainWorldModel) -> None:
    if options.seed is not None:
        check_seed(options.seed)
    if options.minutes is not None and options.steps is not None:
        raise UserError("--minutes and --steps exclude each other; give one")
    least = {"minutes": 0, "steps": 1, "batch": 1, "length": 2, "lr": 0}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and (value < low or value == 0 or not np.isfinite(value)):
            raise UserError(f"--{name} is {value:g}; give {'a number above 0' if low == 0 else f'{low} or more'}")


def _settings_of(folder: Path) -> dict[str, Any]:
    """An earlier run's settings, empty for a new run."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; --run takes a folder, a new one or an earlier run's")
    path = folder / "config.yaml"
    if path.exists():
        settings = load_yaml(path)
        for key in ("task", "size"):
            if not isinstance(settings.get(key), str):
                raise UserError(f"{path} lacks {key}: it is no run's; give a new --run")
        return settings
    if folder.is_dir() and (strange := sorted(entry.name for entry in folder.iterdir() if entry.name not in OURS)):
        held = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
        raise UserError(f"{folder} is no run folder (it holds {held}); give a new or empty one, or an earlier run's")
    return {}


def _open_logs(options: TrainWorldModel, folder: Path, before: dict[str, Any], screen: Screen) -> LogReader:
    if options.data is None:
        if options.reward is not None:
            raise UserError("--data is missing: --reward is for the import of logs, and takes effect there alone")
        if not before and not (folder / "episodes" / SCHEMA).exists():
            raise UserError(
                "--data is missing: give the logs, a folder that record-rollouts wrote or files (--formats lists which)"
            )
        return LogReader(before.get("data") or folder / "episodes")
    logs = as_log_folder(options.data, folder / "episodes", options.mapping, options.reward)
    if logs != options.data:
        screen.say(f"Imported {options.data} to {logs}")
    reader = LogReader(logs)
    if checkpoint.exists(folder / "checkpoints", NAME):
        meta = checkpoint.load(folder / "checkpoints", NAME)[1]
        if "action" in meta:  # a command is the same share of its bounds as it was
            return scaled_as(reader, meta["action"], folder / "episodes")
    return reader


def _introduce(screen: Screen, trainer: Trainer, goes_on: Path | None, size: str) -> None:
    reader, model = trainer.reader, trainer.model
    hz = float(reader.schema["control_hz"])
    steps = int(trainer.replay.length.sum())
    parameters = sum(p.numel() for p in model.parameters())
    screen.say(
        f"Logs: {reader.folder}, {steps:,} steps of {reader.schema['task']} "
        f"({clock(steps / hz)} at {hz:g} Hz) in {len(reader)} episodes, "
        f"{len(trainer.held_out.episodes)} of them held out"
    )
    ranges = {name: model.context.range_of(name) for name in model.context.names}
    told = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
    screen.say(f"Physics that the model can be told: {told or 'none (the logs label none that varies)'}")
    screen.say(f"Model: size {size}, {parameters:,} parameters, on {trainer.device}")
    if goes_on:
        screen.say(f"Going on from step {trainer.steps:,} of {goes_on}")
    for one in trainer.lessons.earlier:
        share = f"{trainer.config.rehearsal:.0%}" if len(trainer.lessons.earlier) == 1 else "a part"
        screen.say(
            f"Rehearsed, as {share} of every batch: {one.folder}, {len(one.replay.episodes)} episodes; "
            f"{len(one.held_out.episodes)} held out tell what is forgotten"
        )
    report = readiness(reader, trainer.replay.episodes.tolist())
    for line in report.facts[1:]:  # the first, the amount, stands above
        screen.say(f"  {line}")
    for line in report.teaches:
        screen.say(f"  {line}")
    for line in report.cautions:
        screen.note(line)
