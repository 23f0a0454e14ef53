"""The night: phases inside a wall-clock budget, and what they share.

Every phase goes on from what the run folder holds, so a night that was killed at any moment is continued by the same
call. Simulator steps are counted by purpose: logs, selection, audit, survival; none is learnt from but the logs.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from configs import from_dict, packaged, to_dict
from dreaming.actor_critic import ActorCritic
from dreaming.agent import Actor, Agent
from dreaming.auditing import Auditor
from dreaming.beside import Beside, Here
from dreaming.clock import Budget, Jumps, Phase, Place, Share
from dreaming.exploration import found_scenarios
from dreaming.learning import DreamLearner
from dreaming.run import BEST, CLONE, LATEST, NightConfig, Progress, RunFolder, policy_state
from dreaming.saving import Saving
from dreaming.scenario import Scenario, asked, usual_world
from envs import registry
from envs.physics import Physics
from envs.workers import Workers
from worldmodel import checkpoint
from worldmodel.device import CPU
from worldmodel.model import ModelConfig
from worldmodel.saved import NAME
from worldmodel.speed import threads_for
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer

SHARES = (
    Share("record", 0.10),
    Share("learn", 0.34),
    Share("clone", 0.10, most=900.0),
    Share("dream", 0.28),
    Share("audit", 0.04, least=6.0, most=240.0),
    Share("survival", 0.11, least=10.0, most=1800.0),
    Share("report", 0.03, least=14.0, most=60.0),
)
# After dreaming, in a night with a wake.
WAKE_SHARES = (Share("wake", 0.12), Share("dream again", 0.15))
LOG_EVERY_S = 2.0
MOST_ROWS = 3000  # of metrics that wait where the disk is full
SAVED_AS = {"learn": NAME, "clone": CLONE, "dream": LATEST, "dream again": LATEST}  # phases that go on from their midst
LEAST_APART_S = 30.0  # a phase, for its simulator to be given a process
LEAST_BESIDE_S = 30.0  # in a shorter phase a process beside it would take too much of it to start


class Listener(Protocol):
    """Whoever wants to see the night go by: the terminal, W&B."""

    def phase(self, name: str, seconds: float) -> None: ...
    def progress(self, share: float, text: str) -> None: ...
    def metrics(self, phase: str, step: int, seconds: float, values: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


class Night:
    one_process = False  # whether all its work has to be this process's
    save_every_s = 60.0

    def __init__(
        self, config: NightConfig, run: RunFolder, budget: Budget, listener: Listener, device: torch.device = CPU
    ) -> None:
        self.config, self.run, self.budget, self.listener, self.device = config, run, budget, listener, device
        self.state: Progress = run.progress()
        self.earlier_s = sum(self.state.seconds.values())  # of nights, or parts of one, before
        self.simulated = registry.simulated(config.task)
        self.scenarios: list[Scenario]
        self.scenarios, self.searches = asked(config.scenario, config.task)
        self.explored: Callable[[], dict[str, Any]] | None = None  # what goes into checkpoints where it searches
        if config.wake and self.simulated:
            after = 1 + [share.name for share in budget.shares].index("dream")
            budget.shares = [*budget.shares[:after], *WAKE_SHARES, *budget.shares[after:]]
        budget.shares = [share for share in budget.shares if share.name not in self._needless()]
        self._trainer: Trainer | None = None
        self._dreamer: DreamLearner | None = None
        self.now = budget.now  # the night's only clock
        self._jumps = Jumps() if self.now is time.monotonic else None
        self.saving = Saving(self.warn, self.now)
        self._phase: Phase | None = None
        self._saved = self._logged = self.now()
        self._rows: list[dict[str, Any]] = []  # of metrics, to be written
        self.counted = 0.0  # seconds of the present phase that the progress holds already

    # -- phases -------------------------------------------------------------------------------------------------------

    def phase(self, name: str, work: Callable[["Night", Phase], None], always: bool = False) -> None:
        """Does the phase unless it is done, or the user wants to stop; one that is done always is never done with."""
        if not always and (name in self.state.done or self.budget.stop.is_set()):
            return
        if name not in {share.name for share in self.budget.shares}:
            return
        phase = self._phase = self.budget.phase(name, self._place(name))
        self.counted = phase.elapsed()
        self.listener.phase(name, phase.seconds - self.counted)
        try:
            work(self, phase)
            if not (always or self.budget.stop.is_set()):
                self.state.done.append(name)
        finally:
            self._save_progress(phase)

    def _place(self, name: str) -> Place | None:
        """Where in this phase this night was when it was saved last, if it was killed in its midst."""
        saved = SAVED_AS.get(name, "")
        if saved and checkpoint.exists(self.run.checkpoints, saved):
            place = checkpoint.load(self.run.checkpoints, saved)[1].get("place", {})
            if (place.get("phase"), place.get("night")) == (name, self.state.nights):
                return from_dict(Place, place["at"], f"checkpoint of {saved}")
        return None

    def place(self) -> dict[str, Any]:
        """For a checkpoint's manifest."""
        if self._phase is None:
            return {}
        at = to_dict(self._phase.place())
        return {"place": {"phase": self._phase.name, "night": self.state.nights, "at": at}}

    def warn(self, text: str) -> None:
        """To the screen now, and to the report."""
        self.listener.note(text)
        self.state.warn(text)

    def finish(self) -> None:
        """Marks the night as over: the next call with the same run begins another one on top."""
        self.state.nights += 1
        self.state.done = []
        self.run.save_progress(self.state)

    def tick(self, phase: Phase, text: str, share: float | None = None) -> None:
        """Every step of every phase passes here: the bar, and once a minute the progress to disk."""
        self.listener.progress(phase.spent() if share is None else share, text)
        if self._jumps is not None and (text := self._jumps.look()):
            self.warn(text)
        if self.now() - self._saved > self.save_every_s:
            self._save_progress(phase)

    def metrics(self, phase: str, step: int, values: dict[str, Any], always: bool = False) -> None:
        """To metrics.jsonl and W&B, every two seconds at most, and no more than some thousand times a night."""
        pause = max(LOG_EVERY_S, self.budget.total / 3000)
        if always or self.now() - self._logged > pause:
            seconds = round(self.earlier_s + self.budget.elapsed(), 2)
            self._rows = [*self._rows[-MOST_ROWS:], {"phase": phase, "step": step, "seconds": seconds, **values}]
            self.saving("metrics", self._write_rows)
            self.listener.metrics(phase, step, seconds, values)
            if not always:
                self._logged = self.now()

    def _write_rows(self) -> None:
        self.run.log(*self._rows)
        self._rows = []

    def _save_progress(self, phase: Phase) -> None:
        took = phase.elapsed()
        self.state.took(phase.name, took - self.counted)
        self.counted = took
        self._saved = self.now()
        self.save_progress()

    def save_progress(self) -> None:
        self.saving("progress", self.run.save_progress, self.state)

    # -- what phases share --------------------------------------------------------------------------------------------

    def reader(self) -> LogReader:
        return LogReader(self.run.logs(self.config))

    def look_at_logs_again(self) -> None:
        """Once they have grown: the world model goes on from its checkpoint, and policies are dreamt in that one."""
        self._trainer = self._dreamer = None

    @property
    def trainer(self) -> Trainer:
        """Made when first asked for, from the newest checkpoint if there is one."""
        if self._trainer is None:
            size = from_dict(ModelConfig, packaged("sizes", self.config.size), f"size {self.config.size}")
            self._trainer = Trainer(self.reader(), size, self.config.trainer, self.config.seed, self.device)
            threads_for(self._trainer.model)
            if checkpoint.exists(self.run.checkpoints, NAME):
                self._trainer.restore(self.run.checkpoints)
        return self._trainer

    @property
    def has_model(self) -> bool:
        return self._trainer is not None or checkpoint.exists(self.run.checkpoints, NAME)

    @property
    def nominal(self) -> Physics:
        task = self.config.task
        return registry.nominal(task) if self.simulated else usual_world(task, self.trainer.model.context)

    @property
    def control_hz(self) -> float:
        return float(self.trainer.reader.schema["control_hz"])

    @property
    def rewarded(self) -> bool:
        """Whether the logs carry a reward at all; without one there is nothing that could be improved."""
        return any(episode["info"].get("reward") != "none" for episode in self.reader().episodes)

    def _needless(self) -> set[str]:
        """Phases that this machine or these logs have no use for; their time goes to the others."""
        names = set()
        if not self.simulated or self.config.data:
            names.add("record")
        if not self.simulated:
            names.add("survival")
            if not self.rewarded:
                names.add("dream")
        return names

    @property
    def dreamer(self) -> DreamLearner:
        if self._dreamer is None:
            self._dreamer = DreamLearner(
                self.trainer.model, self.trainer.replay, self.config.task, self.nominal, self.coverable(),
                self.control_hz, self.config.dream, self.config.seed + self.state.nights,
            )  # fmt: skip
            self._dreamer.updates, self._dreamer.imagined_steps = self.state.updates, self.state.imagined_steps
            state, ours = self.latest()
            if state and ours:  # the night goes on after its dreams have begun
                self._dreamer.load_state_dict(state["dreamer"])
        return self._dreamer

    def latest(self) -> tuple[dict[str, Any] | None, bool]:
        """The policy that dreamt last, if any, and whether it did so this night and in today's world model."""
        if not checkpoint.exists(self.run.checkpoints, LATEST):
            return None, False
        state, meta, _ = checkpoint.load(self.run.checkpoints, LATEST)
        return state, (meta.get("night"), meta.get("woken", 0)) == (self.state.nights, self.state.woken)

    def coverable(self) -> list[Scenario]:
        """Scenarios whose factors the logs vary; the others are refused, with the reason."""
        context = self.trainer.model.context
        chosen = []
        for scenario in self.scenarios:
            missing = [f for f in scenario.factors(self.config.task) if not context.covers(f)]
            if missing:
                self.state.refused[scenario.name] = f"the logs never vary {', '.join(missing)}: record some that do"
            elif scenario.factors(self.config.task):
                chosen.append(scenario)
        return chosen

    def found(self) -> list[Scenario]:
        """What it found that was to find its own what-ifs: those that would be dreamt next."""
        return found_scenarios(self.state.exploration, self.config.task) if self.searches else []

    def workers(self, n_envs: int) -> Workers:
        """On two cores the processes would only take turns with the networks."""
        processes = 0 if self.one_process or _cores() <= 2 else _cores() - 1
        workers = Workers(self.config.task, n_envs, processes=processes, camera=self.trainer.model.spaces.image)
        workers.told = self.warn
        return workers

    def processes(self, phase: Phase) -> int:
        """A simulator that crashes takes its process along: not this one, where there is the time to start another."""
        return int(phase.seconds >= LEAST_APART_S)

    def helper(self, n_envs: int, seconds: float) -> Here | Beside:
        """Who tries and audits policies in a phase of so many seconds: a process beside it where a core would idle."""
        spare = _cores() - torch.get_num_threads()
        if self.one_process or spare < 1 or self.device != CPU or seconds < LEAST_BESIDE_S:
            return Here(self.workers(n_envs))
        camera = self.trainer.model.spaces.image
        return Beside(self.config.task, n_envs, camera, processes=0 if spare == 1 else spare)

    def auditor(self, actor: Actor | None = None) -> Auditor:
        """Of that actor's dreams, or of the present one's."""
        actor = actor or self.dreamer.learner.actor
        view, held_out = self.config.dream.view, self.trainer.held_out
        return Auditor(self.config.task, self.trainer.model, actor, view, held_out, self.nominal, self.control_hz)

    def save_policy(
        self, name: str, learner: ActorCritic | None = None, updates: int | None = None, **more: Any
    ) -> None:
        """The present policy, or one as it was after so many updates; `more` is saved beside it."""
        dreamer, trainer = self.dreamer, self.trainer
        meta = {**trainer.meta(), **self.place(), "night": self.state.nights, "woken": self.state.woken}
        extra = more if name not in (LATEST, CLONE) else {"dreamer": dreamer.state_dict(), **more}
        if name == LATEST and self.explored is not None:
            extra["exploration"] = self.explored()
        # A clone has no updates to go by: a later night's must count as newer.
        step = trainer.steps if name == CLONE else dreamer.updates if updates is None else updates
        if name == BEST:  # kept of a state that the night could not go on from, it may have counted more updates
            step = max(step, checkpoint.newest_step(self.run.checkpoints, BEST) + 1)
        state, meta = policy_state(name, learner or dreamer.learner, dreamer.model, meta, extra)
        self.saving(name, checkpoint.save, self.run.checkpoints, name, step, state, meta)

    def saved(self, name: str) -> dict[str, Any]:
        """What `save_policy` saved last; if the disk is full, what is to be saved."""
        if (waiting := self.saving.waiting(name)) is not None:
            return waiting[3]
        return checkpoint.load(self.run.checkpoints, name)[0]

    def agent(self, name: str) -> Agent:
        """The policy that `save_policy` saved last under this name, or that is to be saved; ready to act."""
        if (waiting := self.saving.waiting(name)) is not None:
            return self.run.agent(waiting[3], waiting[4], device=self.device)
        return self.run.load_agent(name, device=self.device)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
