"""`train-world-model` at work: the loop from a trainer to a trained, judged and saved world model."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs import to_dict
from worldmodel import checkpoint, forgetting, results
from worldmodel.cli import TrainWorldModel
from worldmodel.console import Screen, clock
from worldmodel.diagnosis import UPDATES, Finding
from worldmodel.estimate import FactorJudged, Series, by_step, guesses
from worldmodel.evaluation import OpenLoop
from worldmodel.saved import NAME
from worldmodel.tracking import Tracker
from worldmodel.trainer import Trainer, TrainerConfig

SAVE_EVERY_S = 60.0
LOOK_EVERY_S = 60.0  # at the held-out logs; the first time after a third of it
LOOK_SHARE = 0.05  # of the time, at most, goes into looking
LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class Settings:
    """What a run is, in its `config.yaml`. A night that goes on from it adds keys of its own."""

    task: str
    seed: int
    size: str
    data: str  # folder of the logs; empty for the run's own `episodes`
    trainer: TrainerConfig


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
