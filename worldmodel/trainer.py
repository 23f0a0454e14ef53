"""Trains a world model from a log folder: a resumable loop that knows nothing of screens, result files or clocks."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from worldmodel import checkpoint
from worldmodel.audited import Audit, audit
from worldmodel.calibration import Calibration, calibrate
from worldmodel.compatible import plain, same_channels, same_model
from worldmodel.context import ContextSpec
from worldmodel.device import CPU, numbers, random_state, set_random_state
from worldmodel.diagnosis import Finding, diagnose
from worldmodel.earlier import joined
from worldmodel.estimate import FactorJudged, Series, judge
from worldmodel.evaluation import OpenLoop, open_loop
from worldmodel.lessons import Lessons
from worldmodel.loss import ensemble_loss, transition_loss, world_model_loss
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.optim import Gradients, LaProp, SafeStep
from worldmodel.replay import Batch, Replay
from worldmodel.saved import NAME, calibration_of, described, place, widening_of
from worldmodel.storage import LogReader

LEAST_CAUTION = 3.0**-6
KEEP_EVERY = 200  # steps, a state to go back to


@dataclass(frozen=True)
class TrainerConfig:
    """How to train; the defaults suit a laptop."""

    batch: int = 40
    length: int = 20
    lr: float = 1.5e-3
    warmup: int = 200
    decay_from: float = 0.6  # from this share of the budget on, the learning rate falls to a tenth
    terminal_share: float = 0.2
    carry_noise: float = 0.1  # on carried observations, as a share of their change in a step: `disturbed`
    transition_steps: int = 8  # of the transition, which forgets and is therefore cheap, in every update
    transition_batch: int = 256
    transition_lr: float = 3e-3
    # From `decay_from` on it learns from its own predictions, so many steps ahead. With 6, and more noise, rollouts
    # stay true longer, as they lead back what strays; a hopper that practises in them falls more (docs/results.md).
    transition_ahead: int = 1
    # So many rows at the end of each segment are also foretold unseen: memory then serves long rollouts. It costs more
    # than all the rest of an update, as it goes step by step.
    open_loop: int = 0
    # What factors of the RSSM's products are rounded to, all else staying float32; auto: as was
    # measured to be fastest, float32 everywhere.
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    ensemble: int = 5  # members that judge the transition, or 0
    ensemble_batch: int = 256  # transitions for each member in every update
    rehearsal: float = 0.3  # share of every batch from logs of an earlier run that the model began as, if it did

    def __post_init__(self) -> None:
        if not 0 <= self.rehearsal < 1:
            raise UserError(f"rehearsal is {self.rehearsal:g}; give a share from 0 to below 1")


class Trainer:
    """A world model, its optimiser and its data.

    `trouble` collects plain sentences about what looks wrong; they go to the screen and the report.
    """

    def __init__(
        self,
        reader: LogReader,
        model_config: ModelConfig,
        config: TrainerConfig,
        seed: int = 0,
        device: torch.device = CPU,
    ) -> None:
        reader.check()
        if config.open_loop and (config.open_loop >= config.length or not model_config.carry):
            raise UserError(
                f"trainer.open_loop is {config.open_loop}: it takes a model that carries the observation, and segments "
                f"that are longer (trainer.length is {config.length})"
            )
        torch.manual_seed(seed)
        self.reader, self.config, self.device = reader, config, device
        self.lessons = Lessons(reader, config.terminal_share, config.rehearsal, device)
        self.trouble = self.lessons.trouble()
        self.began_as: str | None = None  # the earlier run whose model it began as
        self.earlier_logs: list[str] = []  # folders of the logs that the model learnt from in earlier runs
        context, rows = self.lessons.context(), reader.rows
        spaces = Spaces(rows["vector"].shape[1], rows["action"].shape[1], reader.images is not None)
        self.model = WorldModel(model_config, spaces, context)
        self._take(context)
        self.model.set_statistics(self.replay.statistics())
        self._complete()
        self.rng = np.random.default_rng(seed)
        self.steps = 0
        self.caution = 1.0  # factor on the learning rate, lowered when losses were not finite
        self.skipped = 0  # steps that were refused in whole or in part, as something was not finite
        self._skipped_in_a_row = 0
        self._good_state: dict[str, Any] | None = None

    def _complete(self) -> None:
        self.model.add_ensemble(self.config.ensemble)
        place(self.model, self.device, self.config.compute)
        self.optimise()
        self._gradients = Gradients(self._model_loss, self.safe_step.parameters)
        transition, ensemble = (step.parameters if step else () for step in (self.transition_step, self.ensemble_step))
        self._transition_gradients = Gradients(self._transition_loss, transition)
        self._ensemble_gradients = Gradients(self._ensemble_loss, ensemble)

    def _take(self, context: ContextSpec) -> None:
        """Present the logs under this context."""
        self.model.context = context
        self.trouble += self.lessons.show(context, self.earlier_logs)

    @property
    def replay(self) -> Replay:
        return self.lessons.replay

    @property
    def held_out(self) -> Replay:
        return self.lessons.held_out

    def start_from(self, folder: Path, logs: list[str], run: str = "") -> None:
        """Begin as the model of an earlier run: its weights, its scales, its context; the optimisers start afresh.

        Args:
            folder: of its checkpoints.
            logs: folders of what it learnt from, to be rehearsed.
            run: what the checkpoints tell of where it began; default `folder`.

        Raises:
            UserError: it is of another shape.
        """
        state, meta, _ = checkpoint.load(folder, NAME)
        theirs = same_model(folder, meta, self.meta(), ("spaces", "model"))
        self.began_as = run or str(folder)
        self._become(theirs, [*meta.get("earlier_logs", []), *logs])
        judged = meta.get("ensemble", 0) == self.config.ensemble
        self.model.load_state_dict(state["model"] if judged else self._with_own_ensemble(state["model"]))
        self._good_state = _copy(self.model)

    def _become(self, context: ContextSpec, earlier_logs: list[str]) -> None:
        """Of another context than these logs', and mindful of earlier ones."""
        if context.names != self.model.context.names:
            self.model = WorldModel(self.model.config, self.model.spaces, context)
            self._complete()
        self.earlier_logs = list(dict.fromkeys(earlier_logs))
        self._take(context)

    def optimise(self) -> None:
        """Fresh optimisers of the model's parts as they are now."""
        config, model = self.config, self.model
        apart = model.transition, model.ensemble  # which learn by themselves, as far as there are any
        own = {p for part in apart if part for p in part.parameters()}
        self.optimizer = LaProp([p for p in model.parameters() if p not in own], config.lr, config.warmup)
        self.safe_step = SafeStep(self.optimizer)
        self.transition_step, self.ensemble_step = (
            SafeStep(LaProp(part.parameters(), config.transition_lr, config.warmup)) if part else None for part in apart
        )

    def _optimizers(self) -> list[LaProp]:
        apart = [step.optimizer for step in (self.transition_step, self.ensemble_step) if step]
        return [self.optimizer, *apart]

    def update(self, progress: float = 0.0) -> dict[str, float]:
        """One training step; `progress` is the share of the budget that is spent (it sets the learning rate)."""
        batch = self.lessons.sample(self.config.batch, self.config.length, self.rng)
        self._set_rates(progress)
        self.model.widening = None  # it was of the weights so far
        spent = progress > self.config.decay_from
        self.model.train().requires_grad_(True)
        law, finite = self._learn_transition(ahead=self.config.transition_ahead if spent else 1)
        law |= self._learn_ensemble()
        loss, parts, own = self._gradients(batch)
        finite = self.safe_step.take(own) and finite
        self.skipped += not finite
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == 5:
            self._go_back()
        self.steps += 1
        if finite and (self.steps % KEEP_EVERY == 0 or self._good_state is None):
            self._good_state = _copy(self.model)
        return numbers({"loss": loss} | parts | law)

    def _model_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts, _ = world_model_loss(self.model, batch, self.config.open_loop, self.config.carry_noise)
        return loss, parts

    def _transition_loss(self, windows: Batch) -> tuple[Tensor, None]:
        return transition_loss(self.model, windows, self.config.carry_noise), None

    def _ensemble_loss(self, windows: Batch) -> tuple[Tensor, None]:
        return ensemble_loss(self.model, windows, self.config.carry_noise), None

    def _learn_transition(self, ahead: int) -> tuple[dict[str, Tensor], bool]:
        """Several steps on single transitions from all over the logs: with no memory to follow they are cheap.

        Args:
            ahead: half as many steps if it is more than one, each on windows that follow the transition so far.

        Returns:
            The mean loss, and whether anything was finite: a few bad batches are skipped and no cause to go back.
        """
        if self.transition_step is None:
            return {}, True
        losses, skipped = [], self.transition_step.skipped
        for _ in range(-(-self.config.transition_steps // (1 if ahead == 1 else 2))):
            windows = self.lessons.sample(self.config.transition_batch, 1 + ahead, self.rng, plain=True)
            loss, _, finite = self._transition_gradients(windows)
            losses.append(loss.clone())
            self.transition_step.take(finite)
        mean = {"transition": torch.stack(losses).mean()} if losses else {}
        return mean, self.transition_step.skipped - skipped < max(1, len(losses))

    def learn_ensemble(self, progress: float = 0.0) -> dict[str, float]:
        """An update of the ensemble alone: of a world model that has none yet, or whose logs have grown."""
        self._set_rates(progress)
        self.model.train().requires_grad_(True)
        return numbers(self._learn_ensemble())

    def _set_rates(self, progress: float) -> None:
        spent = max(0.0, (progress - self.config.decay_from) / (1 - self.config.decay_from))
        own = self.config.transition_lr
        for optimizer, lr in zip(self._optimizers(), (self.config.lr, own, own), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr * self.caution * 0.1 ** min(1.0, spent)

    def _learn_ensemble(self) -> dict[str, Tensor]:
        """One step of every member, on transitions of its own; the rest learns the same with it and without it."""
        self.model.calibration = None  # it was of the weights so far
        if self.ensemble_step is None or self.model.ensemble is None:
            return {}
        members, batch = self.model.ensemble.members, self.config.ensemble_batch
        rng = np.random.default_rng([members * batch, self.steps])
        if self.lessons.earlier:  # every member rehearses its share of them
            windows = joined([self.lessons.sample(batch, 2, rng, plain=True) for _ in range(members)])
        else:
            windows = self.lessons.sample(members * batch, 2, rng, plain=True)
        with torch.random.fork_rng(devices=[]):
            loss, _, finite = self._ensemble_gradients(windows)
        self.ensemble_step.take(finite)
        return {"ensemble": loss}

    def _go_back(self) -> None:
        if self._good_state is None:
            raise UserError(
                "the loss is not finite from the first steps on: look for extreme values in the logs "
                f"(largest scaled observation: {self._largest():.3g} standard deviations)"
            )
        self.model.load_state_dict(self._good_state)
        self.caution = max(self.caution / 3, LEAST_CAUTION)
        self.optimise()
        self._skipped_in_a_row = 0
        if self.caution > LEAST_CAUTION:
            what = "losses were not finite; went back to the last good state at a third of the rate"
        else:  # said once, however long it goes on
            what = "losses are not finite again and again; the last good state is kept"
        if not any(text.endswith(what) for text in self.trouble) or self.caution > LEAST_CAUTION:
            self.trouble.append(f"step {self.steps}: {what}")

    def _largest(self) -> float:
        batch = self.replay.sample(64, 8, np.random.default_rng(0))
        return float(self.model.scale(batch.vector).abs().max())

    def evaluate(self, horizon: int = 50, starts: int = 64) -> OpenLoop:
        """Held-out open-loop error; notes trouble if the model has learnt less than a robot that stands still."""
        result = open_loop(self.model, self.held_out, horizon, starts)
        if self.steps >= 1000 and result.model.mean() > result.persistence.mean():
            note = (
                f"step {self.steps}: open-loop error {result.model.mean():.2f} is above standing still "
                f"({result.persistence.mean():.2f}): too little data or training, or actions that do not match "
                "the observations"
            )
            self.trouble.append(note)
        return result

    def evaluate_earlier(self, horizon: int = 50, starts: int = 64) -> dict[str, OpenLoop]:
        """By folder, the error on held-out episodes of the earlier logs: what has been forgotten of them."""
        return {str(one.folder): open_loop(self.model, one.held_out, horizon, starts) for one in self.lessons.earlier}

    def audit(self) -> Audit | None:
        """None where there are too few recordings, or nothing that judges the model."""
        try:
            return audit(self.model, self.replay, self.held_out)
        except UserError:
            return None

    def calibrate(self, coverage: float = 0.9, tolerance: float = 0.5) -> Calibration:
        """Bounds on the errors of the model as it is now; kept and saved with it, and forgotten when it learns on.

        Raises:
            UserError: no ensemble, or too few held-out episodes.
        """
        self.model.calibration = calibrate(self.model, self.replay, self.held_out, coverage, tolerance)
        return self.model.calibration

    def diagnose(self) -> list[Finding]:
        """The usual silent failures that this model or these logs show."""
        return diagnose(self.model, self.replay, self.held_out, self.steps)

    def judge_estimate(self) -> tuple[list[FactorJudged], list[Series]]:
        """The estimate of the physics on held-out episodes, which also calibrates its uncertainty."""
        return judge(self.model, self.replay, self.held_out)

    # -- saving -------------------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        return {
            "task": self.reader.schema.get("task"),
            **described(self.model),
            "trainer": asdict(self.config),
            "steps": self.steps,
            "control_hz": self.reader.schema.get("control_hz"),
            "observation_names": self.reader.schema["observation"]["vector"].get("names"),
            "action": self.reader.schema["action"],
            "began_as": self.began_as,
            "earlier_logs": self.earlier_logs,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
            **random_state(self.device),
            "numpy_random": plain(self.rng.bit_generator.state),
            "caution": self.caution,
            "good_state": self._good_state,
            "skipped": [self.skipped, self._skipped_in_a_row],
            "trouble": self.trouble,
        }

    def save(self, folder: Path) -> Path:
        return checkpoint.save(folder, NAME, self.steps, self.state_dict(), self.meta())

    def restore(self, folder: Path) -> None:
        """Continue exactly where the newest checkpoint left off.

        Raises:
            UserError: the checkpoint belongs to another task or other observations.
        """
        state, meta, steps = checkpoint.load(folder, NAME)
        # A model that began as an earlier run's has the context of that run.
        self.began_as = meta.get("began_as")
        what = ("task", "spaces", "model", *(() if self.began_as else ("physics",)))
        theirs = same_model(folder, meta, self.meta(), what)
        same_channels(folder, meta, self.meta())
        if self.began_as:
            self._become(theirs, meta["earlier_logs"])
        elif theirs != self.model.context:
            self._take(theirs)
        judged = meta.get("ensemble", 0) == self.config.ensemble  # or else by others or none: this trainer's begin anew
        self.model.load_state_dict(state["model"] if judged else self._with_own_ensemble(state["model"]))
        self.model.calibration = calibration_of(meta) if judged else None
        self.model.widening = widening_of(meta)
        ours = self._optimizers() if judged else self._optimizers()[: 1 + bool(self.model.transition)]
        for optimizer, saved in zip(ours, state["optimizers"][: len(ours)], strict=True):
            optimizer.load_state_dict(saved)
        set_random_state(state, self.device)
        self.rng.bit_generator.state = state["numpy_random"]
        self.caution = float(state["caution"])
        self.trouble = list(dict.fromkeys([*state["trouble"], *self.trouble]))  # the logs may have grown
        self.steps = steps
        # Checkpoints of 0.1 hold neither.
        good = state.get("good_state", state["model"])
        self._good_state = good if judged or good is None else self._with_own_ensemble(good)
        self.skipped, self._skipped_in_a_row = state.get("skipped", (0, 0))
        if (newest := checkpoint.newest_step(folder, NAME)) > steps:
            self.trouble.append(f"the checkpoint of step {newest} is damaged; went on from the one of step {steps}")

    def _with_own_ensemble(self, state: dict[str, Any]) -> dict[str, Any]:
        own, others = (
            {k: v for k, v in s.items() if k.startswith("ensemble.") == mine}
            for s, mine in ((_copy(self.model), True), (state, False))
        )
        return others | own


def _copy(model: WorldModel) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def train(
    trainer: Trainer, until: Callable[[], float], on_step: Callable[[dict[str, float]], None] | None = None
) -> None:
    """Update until `until()`, the share of the budget that is spent, reaches 1."""
    while (progress := until()) < 1:
        metrics = trainer.update(progress)
        if on_step:
            on_step(metrics)
