"""`train-world-model` at work: from a run folder and the user's options to a trained, judged and saved world model."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from configs import UserError, from_dict, load_yaml, packaged, to_dict
from worldmodel import checkpoint, forgetting, results
from worldmodel.cli import TrainWorldModel
from worldmodel.console import Screen, clock
from worldmodel.device import choose_device
from worldmodel.diagnosis import UPDATES, Finding
from worldmodel.earlier import Origin, scaled_as
from worldmodel.estimate import FactorJudged, Series, by_step, guesses
from worldmodel.evaluation import OpenLoop
from worldmodel.lock import LOCK, locked
from worldmodel.log_format import SCHEMA
from worldmodel.logs.importing import as_log_folder
from worldmodel.model import ModelConfig
from worldmodel.readiness import readiness
from worldmodel.saved import NAME
from worldmodel.speed import prepare_cpu, threads_for
from worldmodel.storage import LogReader
from worldmodel.tracking import Tracker
from worldmodel.trainer import Trainer, TrainerConfig

SAVE_EVERY_S = 60.0
LOOK_EVERY_S = 60.0  # at the held-out logs; the first time after a third of it
LOOK_SHARE = 0.05  # of the time, at most, goes into looking
LOG_EVERY = 50  # steps
FILES = {"config.yaml", "metrics.jsonl", "results.json"}
OURS = FILES | {"episodes", "episodes.importing", "checkpoints", "plots", "wandb", LOCK}


@dataclass(frozen=True)
class Settings:
    """What a run is, in its `config.yaml`. A night that goes on from it adds keys of its own."""

    task: str
    seed: int
    size: str
    data: str  # folder of the logs; empty for the run's own `episodes`
    trainer: TrainerConfig


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
    size_name = options.size or before.get("size") or (origin.size if origin else "laptop")
    if origin and size_name != origin.size:
        raise UserError(f"--init-from {origin.run} is of size {origin.size}; leave --size out")
    if before and size_name != before["size"] and goes_on:
        raise UserError(f"{folder} holds a model of size {before['size']}; leave --size out, or give a new --run")
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
    for one in trainer.earlier:
        share = f"{trainer.config.rehearsal:.0%}" if len(trainer.earlier) == 1 else "a part"
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


class Session:
    """The loop: steps, and now and then a look at the held-out logs, a checkpoint, a line."""

    def __init__(
        self, options: TrainWorldModel, folder: Path, settings: Settings, trainer: Trainer, screen: Screen
    ) -> None:
        self.options, self.trainer, self.screen, self.folder = options, trainer, screen, folder
        self.seconds = 60 * (options.minutes if options.minutes is not None else 10.0)
        self.first_step, self.begun = trainer.steps, time.monotonic()
        self.stopped_by, self.told = "", 0
        self.tracker = self._tracker(settings)
        self.before = forgetting.Before.of(folder / "plots", trainer)

    def _tracker(self, settings: Settings) -> Tracker:
        """The W&B run's id is kept, so that its curves go on where the run goes on."""
        file = self.folder / "wandb" / "run-id"
        run_id = file.read_text().strip() if file.exists() else None
        tracker = Tracker(self.folder, self.options.wandb, to_dict(settings), run_id or None, warn=self.screen.note)
        if tracker.run_id and tracker.run_id != run_id:
            checkpoint.write_atomically(file, tracker.run_id.encode())
        return tracker

    def run(self) -> None:
        with self._stop_on_signals():
            self.begun = time.monotonic()
            saved = self.begun
            look_at = self.begun + LOOK_EVERY_S / 3
            while (share := self._share()) < 1:
                metrics = self.trainer.update(share)
                self._tell_trouble()
                now = time.monotonic()
                self._show(share, now, metrics)
                if self.trainer.steps % LOG_EVERY == 0:
                    self._log("world_model", metrics)
                if now - saved > SAVE_EVERY_S:
                    self.trainer.save(self.folder / "checkpoints")
                    saved = time.monotonic()
                if now > look_at:
                    self._look()
                    took = time.monotonic() - now
                    look_at = time.monotonic() + max(LOOK_EVERY_S, took / LOOK_SHARE)
            self._save_if_learnt()  # what follows takes a while, and may be cut off
            findings = self.trainer.diagnose()
            judged, series = self.trainer.judge_estimate()  # which calibrates it, so the checkpoint has to follow
            self._save_if_learnt()
            result = self._look(starts=256)
            self.screen.complete()
            self._conclude(result, judged, series, findings)
            self.tracker.finish()

    def _save_if_learnt(self) -> None:
        if self.trainer.steps > self.first_step or not checkpoint.exists(self.folder / "checkpoints", NAME):
            self.trainer.save(self.folder / "checkpoints")

    def _share(self) -> float:
        if self.stopped_by:
            return 1.0
        if self.options.steps is not None:
            return self.trainer.steps / self.options.steps
        return (time.monotonic() - self.begun) / self.seconds

    def _show(self, share: float, now: float, metrics: dict[str, float]) -> None:
        took, made = now - self.begun, self.trainer.steps - self.first_step
        left = self.seconds - took
        if self.options.steps is not None:
            left = took / made * (self.options.steps - self.trainer.steps)
        text = f"step {self.trainer.steps:,}, {made / took:.1f} a second, loss {metrics['loss']:.2f}"
        self.screen.progress(share, left, text)

    def _look(self, starts: int = 64) -> OpenLoop:
        """Held-out open-loop error: to the screen, the plot, the metrics and W&B."""
        result = self.trainer.evaluate(starts=starts)
        self.screen.say(f"  step {self.trainer.steps:,}: {results.held_out_line(result)}")
        self._tell_trouble()
        self._log("held_out", results.scalars(result))
        plot = results.save_plot(self.folder / "plots", self.trainer.reader.schema, result, self.trainer.steps)
        self.tracker.log_figure("held_out/open_loop", plot, self.trainer.steps)
        self._look_back(result, starts)
        return result

    def _look_back(self, result: OpenLoop, starts: int) -> None:
        """At the logs that the model learnt from in earlier runs: what it has forgotten."""
        if self.before is None:
            return
        now = self.trainer.evaluate_earlier(starts=starts)
        for line in self.before.lines(result, now):
            self.screen.say(f"    {line}")
        self._log("earlier_logs", self.before.scalars(now))
        plot = self.before.save(self.folder / "plots", result, now, self.trainer.steps)
        self.tracker.log_figure("earlier_logs/forgetting", plot, self.trainer.steps)

    def _audit(self, result: OpenLoop) -> None:
        """Do held-out recordings stay within what rollouts state? To the screen, the plot, the metrics and W&B."""
        found = self.trainer.audit()
        if found is None:
            self.screen.say("  no audit of stated bounds: it needs an ensemble, and 10 recordings or more")
            return
        at = results.milestones(result)
        for line in found.lines(at):
            self.screen.say(f"  {line}")
        figures = {f"{name}_{h}": float(getattr(found, name)[h - 1]) for name in ("bound", "held") for h in at}
        self._log("audit", {name: value for name, value in figures.items() if math.isfinite(value)})
        results.save_plot(self.folder / "plots", self.trainer.reader.schema, result, self.trainer.steps, found)

    def _log(self, phase: str, values: dict[str, float]) -> None:
        step, seconds = self.trainer.steps, round(time.monotonic() - self.begun, 2)
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": phase, "step": step, "seconds": seconds, **values}) + "\n")
        self.tracker.log({phase: values}, step)

    def _tell_trouble(self) -> None:
        for text in self.trainer.trouble[self.told :]:
            self.screen.note(text)
        self.told = len(self.trainer.trouble)

    def _conclude(
        self, result: OpenLoop, judged: list[FactorJudged], series: list[Series], findings: list[Finding]
    ) -> None:
        say, folder, trainer = self.screen.say, self.folder, self.trainer
        for line in results.channel_lines(trainer.reader.schema, result):
            say(f"  {line}")
        self._audit(result)
        for factor in judged:
            say(f"  {factor.line()}")
        results.save_results(folder, trainer.steps, result, judged, findings)
        if judged:
            hz, errors = float(trainer.reader.schema["control_hz"]), by_step(series, guesses(trainer.replay))
            path = folder / "plots" / "estimate.png"
            plot = results.save_estimate_plot(path, trainer.model, series, hz, errors)
            self.tracker.log_figure("held_out/estimate", plot, trainer.steps)
        for finding in findings:
            self.screen.note(str(finding))
        if trainer.steps < UPDATES:
            say(f"  {trainer.steps} steps are too few to diagnose the model; from {UPDATES} on it is")
        elif not findings:
            say("  diagnosis: none of the usual silent failures")
        made, took = trainer.steps - self.first_step, clock(time.monotonic() - self.begun)
        if self.stopped_by:
            say(f"Stopped by {self.stopped_by}, all is saved: {made:,} steps in {took}, {trainer.steps:,} in all")
        elif made:
            say(f"Done: {made:,} steps in {took}, {trainer.steps:,} in all")
        else:
            say(f"Nothing to do: {trainer.steps:,} steps were made before; give a larger --steps, or --minutes")
        if trainer.skipped:
            say(f"{trainer.skipped} steps were skipped, because numbers were not finite")
        say(f"  {folder}/plots/open_loop.png    held-out logs beside what the model foretold")
        if judged:
            say(f"  {folder}/plots/estimate.png     physics as made out from history, beside its labels")
        say(f"  {folder}/results.json            the final figures")
        if self.before:
            say(f"  {folder}/plots/forgetting.png   errors before and after, on these logs and on the earlier ones")
        say(f"  {folder}/metrics.jsonl          every figure by step")
        say(f"  {folder}/checkpoints/           the model")
        say("Next:")
        say(f"  train-world-model --run {folder} --minutes 10    # learn on")
        if any(episode["info"].get("reward") != "none" for episode in self.trainer.reader.episodes):
            say(f"  dream --run {folder} --hours 1                   # dream what-ifs in it, train the policy on them")

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the loop in good order; a second one ends at once."""

        def asked(number: int, _frame: object) -> None:
            if self.stopped_by:
                raise KeyboardInterrupt
            self.stopped_by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
