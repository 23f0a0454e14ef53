"""The dream phase's own search for what-ifs: an `Exploration` with a night's model, policy, simulator and clock.

It has a few per cent of the phase's time: one share to think (the policy dreamt at the borders of the reach, searches
for failures), one to audit the next cells of the territory. Replays are counted as audits and never learnt from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from configs import UserError
from dreaming.audit_report import ScenarioAudit
from dreaming.clock import Phase
from dreaming.exploration import Exploration, Verdict, fits
from dreaming.imagination import Rollout
from dreaming.imagined_failure import ImaginedFailure
from dreaming.night import Night
from dreaming.outlook import SHARE, horizons, trusted_for
from dreaming.rehearsal import rehearse_at_once
from dreaming.run import CLONE
from dreaming.scenario import LOGGED, Scenario
from dreaming.search import Space
from dreaming.selection import AUDIT_SEEDS
from dreaming.survival import log_ranges
from envs import registry
from envs.workers import Workers

WIDTHS = 2.0  # of the logs' ranges, beyond them, that are explored
THINK_SHARE, SURVEY_SHARE = 0.06, 0.08  # of the phase's time
DREAMS, HORIZON = 24, 32  # of a cell's audit, and control steps of each, however short the dreams that are learnt from
MOST_ERROR = 0.5  # of what standing still errs by over those steps, for a cell to be borne out
STARTS, AHEAD = 8, 80  # dreams of a world that is thought about, and control steps of each
SEEDS = AUDIT_SEEDS + 300_000


class Exploring:
    def __init__(self, night: Night, phase: Phase, space: Space) -> None:
        self.night, self.phase, self.space = night, phase, space
        self.written: list[Scenario] = []  # by hand, and not refused
        self.workers: Workers | None = None
        self.exploration = Exploration(space, night.config.task, self._failure, night.config.seed)
        self.seconds = {"elapsed": 0.0, "thinking": 0.0, "surveying": 0.0}  # of this night, up to the present phase

    def begin(self, workers: Workers | None) -> None:
        """Goes on from where this night was; else from where the last one had got to, with the clone."""
        night, dreamer = self.night, self.night.dreamer
        self.workers = workers
        latest, resumed = night.latest()
        state = latest if resumed and latest else night.saved(CLONE)
        dreamer.load_state_dict(state["dreamer"])
        held_out, model = night.trainer.held_out, night.trainer.model
        self.dreams = ImaginedFailure(
            model, dreamer.learner.actor, held_out, night.nominal, night.control_hz, STARTS, AHEAD
        )
        if resumed and fits(state.get("exploration", {}), self.space):
            self.exploration.load_state_dict(state["exploration"])
            self.seconds = dict(state["exploration"]["seconds"])
            self.seconds["elapsed"] -= self.phase.elapsed()  # which the phase begins with, where it was cut off
        else:
            self._calibrate()
            if fits(night.state.exploration, self.space):
                self.exploration.begin_anew(night.state.exploration)
            self.exploration.begin()
        night.explored = self.state_dict
        self._publish()

    def turn(self) -> None:
        """Called after every update: a piece of work, where its share of the time allows one."""
        elapsed = self.seconds["elapsed"] + self.phase.elapsed()
        if self.seconds["thinking"] <= THINK_SHARE * elapsed:
            self._timed("thinking", self._think)
        if self._simulated and self.seconds["surveying"] <= SURVEY_SHARE * elapsed and self.exploration.next_cell():
            self._timed("surveying", self._survey)

    def write(self, scenarios: list[Scenario]) -> None:
        """These are dreamt beside what is found."""
        self.written = scenarios
        self._publish()

    @property
    def _simulated(self) -> bool:
        return self.workers is not None and self.night.config.gate

    def _timed(self, what: str, work: Callable[[], None]) -> None:
        begun = self._now()
        work()
        self.seconds[what] += self._now() - begun
        self._publish()

    def _now(self) -> float:
        return self.phase.budget.now()

    def _think(self) -> None:
        self.dreams.renew()
        self.exploration.think()

    def _survey(self) -> None:
        assert self.workers is not None
        before, ends = self.workers.steps, self.exploration.territory.ends()
        try:
            self.exploration.survey(self._audit)
        finally:
            self.night.state.count("audit", self.workers.steps - before)
        # What was begun in a cell that is refused now must not go on.
        low, high = self.exploration.territory.ends()
        if (low > ends[0]).any() or (high < ends[1]).any():
            dreamer, kept = self.night.dreamer, {LOGGED.name, *(scenario.name for scenario in self.written)}
            dreamer.forget({name for name in dreamer.ongoing.names if name not in kept} if dreamer.ongoing else set())

    def _audit(self, scenario: Scenario, look: int) -> Verdict:
        night, workers = self.night, self.workers
        assert workers is not None
        night.tick(self.phase, f"auditing dreams of {scenario.name}")
        model, held_out = night.trainer.model, night.trainer.held_out
        dreams = rehearse_at_once(
            model, night.dreamer.learner.actor, held_out, night.config.task, scenario, night.nominal,
            night.control_hz, DREAMS, HORIZON, SEEDS + look,
        )  # fmt: skip
        (found,) = night.auditor().audit(dreams, workers, replicas=0).scenarios
        return borne_out(found)

    def _calibrate(self) -> None:
        """The territory begins where held-out logs vouch for dreams half as long as in the logs' own worlds."""
        model = self.night.trainer.model
        if model.calibration is None:
            return
        usual = float(horizons(model, model.calibration, self.dreams.in_logs()).mean())
        if usual >= 1:
            evaluate = self.dreams.over(self.space, trusted_for(model, model.calibration, SHARE * usual))
            self.exploration.territory.calibrate(lambda points: evaluate(points).trusted)

    def _failure(self, space: Space, points: np.ndarray) -> np.ndarray:
        return self.dreams.over(space, _any)(points).failure

    def _publish(self) -> None:
        """Hands what was found to whoever dreams, and to the progress."""
        night, dreamer = self.night, self.night.dreamer
        dreamer.scenarios = [*self.written, *self.exploration.scenarios()]
        names = {scenario.name for scenario in dreamer.scenarios}
        dreamer.cost = {name: cost for name, cost in dreamer.cost.items() if name in names}
        if self.exploration.note(night.earlier_s + night.budget.elapsed()):
            night.metrics("exploration", dreamer.updates, self.exploration.scalars(), always=True)
        night.state.exploration = self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        seconds = {**self.seconds, "elapsed": self.seconds["elapsed"] + self.phase.elapsed()}
        return {**self.exploration.state_dict(), "seconds": seconds}


def exploring(night: Night, phase: Phase) -> Exploring | None:
    """Where the night is to find its own what-ifs, and its logs vary anything."""
    if not night.searches:
        return None
    task = night.config.task
    fixed = registry.task_class(task).reset_only if night.simulated else ()
    try:
        ranges = log_ranges(night.trainer.reader, task)
        space = Space.of(night.trainer.model.context, ranges, night.scenarios, task, WIDTHS, fixed)
    except UserError as error:
        night.state.warn(f"nothing is searched: {error}")
        return None
    return Exploring(night, phase, space)


def borne_out(found: ScenarioAudit) -> Verdict:
    """Whether dreams beyond the logs are close enough to the truth to be learnt from.

    As everywhere, they must err less than standing still would at their last step; and over all steps that half of the
    dreams live to see, by no more than half as much. On rover the first alone refused nothing down to a friction of
    0.1, where careful drivers fail in dreams and in truth do not; both together refuse it below 0.15 to 0.2.
    """
    if not found.trusted:
        return Verdict(False, found.reason)
    pairs = [
        (error, still)
        for error, still, seen in zip(found.error.median, found.persistence.median, found.compared, strict=True)
        if 2 * seen >= found.dreams and error is not None and still is not None
    ]
    share = sum(error for error, _ in pairs) / sum(still for _, still in pairs)
    steps = f"{len(pairs)} step{'s' if len(pairs) > 1 else ''}"
    text = f"over {steps} dreams err by {share:.0%} of what standing still does, {found.compared[0]} dreams"
    return Verdict(share <= MOST_ERROR, text)


def _any(points: np.ndarray, rollout: Rollout) -> np.ndarray:
    return np.ones(len(points), bool)
