"""The night: logs, world model, cloning, dreams, audit, survival, report, inside a wall-clock budget.

Every phase goes on from what the run folder holds, so a night that was killed at any moment is continued by the same
call. Simulator steps are counted by purpose: logs, selection, audit, survival; none is learnt from but the logs.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from configs import UserError, from_dict, packaged
from dreaming.agent import Agent
from dreaming.clock import Budget, Phase
from dreaming.learning import DreamLearner
from dreaming.run import BEST, CLONE, LATEST, NightConfig, Progress, RunFolder
from dreaming.scenario import Scenario, load_scenarios
from dreaming.selection import Selector
from envs import registry
from envs.physics import Physics, sample
from envs.record import ExpertPolicy, NoisyPolicy, record
from envs.workers import Workers
from worldmodel import checkpoint
from worldmodel.model import ModelConfig
from worldmodel.storage import LogReader, LogWriter
from worldmodel.trainer import NAME, Trainer

SHARES = (("record", 0.10), ("learn", 0.40), ("clone", 0.07), ("dream", 0.27), ("audit", 0.05), ("survival", 0.08), ("report", 0.03))
SAVE_EVERY_S = 60.0


class Listener(Protocol):
    """Whoever wants to see the night go by: the terminal, W&B."""

    def phase(self, name: str, seconds: float) -> None: ...
    def progress(self, share: float, text: str) -> None: ...
    def metrics(self, phase: str, step: int, values: dict[str, float]) -> None: ...
    def note(self, text: str) -> None: ...


class Night:
    def __init__(self, config: NightConfig, run: RunFolder, budget: Budget, listener: Listener) -> None:
        self.config, self.run, self.budget, self.listener = config, run, budget, listener
        self.state: Progress = run.progress()
        self.simulated = config.task in registry.TASKS
        self.scenarios: list[Scenario] = load_scenarios(config.scenario, config.task)
        self.trainer: Trainer | None = None
        self.dreamer: DreamLearner | None = None

    # -- the phases ---------------------------------------------------------------------------------------------------

    def dream(self) -> None:
        """All phases that are not done yet, in order."""
        self._phase("record", self._record)
        self._phase("learn", self._learn)
        self._phase("clone", self._clone)
        self._phase("dream", self._dream)

    def finish(self) -> None:
        """Marks the night as over: the next call with the same run begins another one on top."""
        self.state.nights += 1
        self.state.done = []
        self.run.save_progress(self.state)

    def _phase(self, name: str, work: Callable[[Phase], None]) -> None:
        if name in self.state.done or self.budget.stop.is_set():
            return
        phase = self.budget.phase(name)
        self.listener.phase(name, phase.seconds)
        try:
            work(phase)
        finally:
            self.state.took(name, phase.elapsed())
            if not self.budget.stop.is_set():
                self.state.done.append(name)
            self.run.save_progress(self.state)

    def _record(self, phase: Phase) -> None:
        """Demonstrations under the task's default randomisation, unless the user brought logs."""
        if self.config.data or not self.simulated:
            return
        task, wanted = self.config.task, self.config.episodes
        begun = 0
        if (self.run.episodes / "schema.json").exists():
            begun = len(LogReader(self.run.episodes)) if (self.run.episodes / "episodes.jsonl").exists() else 0
        if begun >= wanted:
            return
        policy = NoisyPolicy(ExpertPolicy(task, self.config.seed), registry.policy_noise(task), self.config.seed)
        with LogWriter(self.run.episodes, registry.schema(task)) as writer:
            # A continued recording takes seeds of its own rather than repeat the first ones.
            seed = self.config.seed * 1000 + self.state.nights + begun
            for episode in record(task, policy, wanted - begun, seed, registry.log_ranges(task)):
                writer.append(episode)
                begun += 1
                self.state.count("logs", len(episode.reward))
                self.listener.progress(max(begun / wanted, phase.spent()), f"{begun} episodes")
                if phase.spent() >= 1 and begun >= 20:
                    break

    def reader(self) -> LogReader:
        return LogReader(Path(self.config.data) if self.config.data else self.run.episodes)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            size = from_dict(ModelConfig, packaged("sizes", self.config.size), f"size {self.config.size}")
            self.trainer = Trainer(self.reader(), size, self.config.trainer, self.config.seed)
            if checkpoint.exists(self.run.checkpoints, NAME):
                self.trainer.restore(self.run.checkpoints)
        return self.trainer

    def _learn(self, phase: Phase) -> None:
        trainer = self._trainer()
        saved = time.monotonic()
        noted = 0
        while (spent := phase.spent()) < 1:
            metrics = trainer.update(spent)
            if trainer.steps % 50 == 0:
                self.listener.progress(spent, f"step {trainer.steps}, loss {metrics['loss']:.2f}")
                self.listener.metrics("world_model", trainer.steps, metrics)
            if trainer.steps % 1000 == 0:
                result = trainer.evaluate()
                self.listener.metrics("held_out", trainer.steps, {"open_loop_15": float(result.model[: 15].mean())})
                for text in trainer.trouble[noted:]:
                    self.listener.note(text)
                noted = len(trainer.trouble)
            if time.monotonic() - saved > SAVE_EVERY_S:
                trainer.save(self.run.checkpoints)
                saved = time.monotonic()
        trainer.save(self.run.checkpoints)
        self.state.warnings += [t for t in trainer.trouble if t not in self.state.warnings]

    def _dreamer(self) -> DreamLearner:
        if self.dreamer is None:
            trainer = self._trainer()
            hz = float(self.reader().schema["control_hz"])
            self.dreamer = DreamLearner(
                trainer.model, trainer.replay, self.config.task, self.nominal, self._dreamable(), hz, self.config.dream, self.config.seed
            )
            if checkpoint.exists(self.run.checkpoints, LATEST):
                state, _, _ = checkpoint.load(self.run.checkpoints, LATEST)
                self.dreamer.load_state_dict(state["dreamer"])
        return self.dreamer

    @property
    def nominal(self) -> Physics:
        return registry.nominal(self.config.task) if self.simulated else Physics()

    def _dreamable(self) -> list[Scenario]:
        """Scenarios whose factors the logs vary; the others are refused, with the reason."""
        context = self._trainer().model.context
        chosen = []
        for scenario in self.scenarios:
            missing = [f for f in scenario.factors(self.config.task) if not context.covers(f)]
            if missing:
                self.state.refused[scenario.name] = f"the logs never vary {', '.join(missing)}: record some that do"
            elif scenario.name not in self.state.refused and scenario.physics_for(self.config.task):
                chosen.append(scenario)
        return chosen

    def _save_policy(self, name: str, dreamer: DreamLearner) -> None:
        meta = self._trainer().meta()
        extra = {"dreamer": dreamer.state_dict()} if name == LATEST else {}
        self.run.save_policy(name, dreamer.learner, dreamer.model, dreamer.updates, meta, extra)

    def _clone(self, phase: Phase) -> None:
        dreamer = self._dreamer()
        updates = 0
        while (spent := phase.spent()) < 1:
            metrics = dreamer.clone(spent)
            updates += 1
            if updates % 25 == 0:
                self.listener.progress(spent, f"likelihood loss {metrics['imitation_loss']:.2f}")
                self.listener.metrics("clone", updates, metrics)
        self._save_policy(CLONE, dreamer)
        self._save_policy(LATEST, dreamer)

    def _dream(self, phase: Phase) -> None:
        dreamer = self._dreamer()
        if not self.simulated:
            self._dream_updates(dreamer, phase, lambda: None, lambda: 0.0)
            self._save_policy(BEST, dreamer)
            return
        with Workers(self.config.task, n_envs=24) as workers:
            selector = self._selector(workers)
            cost = 0.0

            def select() -> None:
                nonlocal cost
                begun, before = time.monotonic(), workers.steps
                score = selector.score(dreamer.agent())
                self.state.count("selection", workers.steps - before)
                kept = self.state.best_score is None or score.total > self.state.best_score
                if kept:
                    self.state.best_score = score.total
                    self._save_policy(BEST, dreamer)
                scores = {"logged": score.nominal, **score.scenarios}
                self.state.selection.append({"seconds": self.budget.elapsed(), "scores": scores, "kept": kept})
                self.listener.metrics("selection", dreamer.updates, {**scores, "total": score.total})
                self._save_policy(LATEST, dreamer)
                self.run.save_progress(self.state)
                cost = time.monotonic() - begun

            select()
            self._dream_updates(dreamer, phase, select, lambda: max(10.0, 6 * cost))
            select()

    def _selector(self, workers: Workers) -> Selector:
        rng = np.random.default_rng(0)
        ranges = registry.log_ranges(self.config.task)
        logged = [sample(ranges, self.nominal, rng) for _ in range(24)]
        return Selector(self.config.task, logged, self._dreamable(), self.nominal, workers)

    def _dream_updates(
        self, dreamer: DreamLearner, phase: Phase, select: Callable[[], None], every: Callable[[], float]
    ) -> None:
        selected = time.monotonic()
        while (spent := phase.spent()) < 1:
            metrics = dreamer.dream(spent)
            if dreamer.updates % 10 == 0:
                self.listener.progress(spent, f"{dreamer.imagined_steps:,} steps dreamt, return {metrics['imagined_return']:.1f}")
                self.listener.metrics("dream", dreamer.updates, metrics)
            if time.monotonic() - selected > every():
                select()
                selected = time.monotonic()
