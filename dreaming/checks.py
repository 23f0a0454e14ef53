"""What holds dreaming to the truth: trials of the policy in the simulator, and audits of its dreams.

Where a core is to spare they go on beside dreaming. They are of a snapshot of the policy, which is what is kept if it
is the best, and their result is waited for after a number of updates that is settled as they begin: what the night
does then hangs on its state and its clock, not on which process was faster.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from dreaming.actor_critic import ActorCritic
from dreaming.audit_report import AuditReport
from dreaming.beside import Beside, Here, LostError, Work
from dreaming.clock import Phase
from dreaming.logged_returns import poor_and_excellent
from dreaming.night import Night
from dreaming.run import BEST
from dreaming.scenario import LOGGED, Scenario
from dreaming.selection import AUDIT_SEEDS, Score, Selector, affordable_draws, some_steps
from dreaming.survival import StoppedError, as_logged
from envs import registry

ENVS = 32
SELECTION_SHARE = 0.15  # of the phase
BESIDE_SHARE = 0.5  # of the phase, for trials that cost dreaming no time
SLACK = 1.25  # a trial beside dreaming is given the time it took alone, and this times as many updates
AUDIT_SHARE = 0.04  # of the phase, for each of the two audits
MOST_DREAMS = 8  # a scenario, in such an audit
TRIAL, AUDIT = "selection", "audit"  # as their simulator steps are counted


@dataclass
class Begun:
    """A trial or an audit of a policy as it was."""

    kind: str
    learner: ActorCritic
    updates: int  # it had learnt by
    due: int | None  # updates after which the result is looked at; None: at once
    at: float  # by the night's clock
    steps: int  # simulated before it

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "learner": self.learner.state_dict(), "updates": self.updates, "due": self.due}


class Checks:
    """Of the policy that a dream phase has at hand; one at a time.

    Args:
        helper: has `ENVS` environments of the task, here or in a process beside.
        audited: scenarios that audits may refuse.
        tried: that policies are tried in.
        believe: called with those of `audited` that may be dreamt from now on.
    """

    def __init__(
        self,
        night: Night,
        phase: Phase,
        helper: Beside | Here,
        audited: Sequence[Scenario],
        tried: Sequence[Scenario],
        believe: Callable[[list[Scenario]], None],
    ) -> None:
        self.night, self.phase, self.state, self.dreamer = night, phase, night.state, night.dreamer
        self.helper, self.audited, self.tried, self.believe = helper, list(audited), list(tried), believe
        self.selector: Selector | None = None
        self.begun: Begun | None = None
        self.audits = 0  # so far
        self.cost = {TRIAL: 0.0, AUDIT: 0.0}  # seconds that one takes
        self.dreamt = 0.0, 0  # seconds, and the updates that took them
        self._first: float | None = None  # what the first policy tried, the clone, was worth inside the logs' physics
        self._ours = False  # whether the best policy is of this phase; an older one's critic is of another world model
        self._dreams = 0  # a scenario, in an audit
        self._told = 0  # troubles of the process beside
        self._now = phase.budget.now
        self._selected = self._now()

    def took(self, seconds: float) -> None:
        """An update took so long."""
        self.dreamt = self.dreamt[0] + seconds, self.dreamt[1] + 1

    def state_dict(self) -> dict[str, Any]:
        """What a night that goes on from here needs to do what this one will."""
        return {
            "audits": self.audits,
            "scenarios": [scenario.name for scenario in self.dreamer.scenarios],
            "dreams": self._dreams,
            "draws": self.selector.draws if self.selector else 0,
            "cost": self.cost,
            "dreamt": self.dreamt,
            "since": self._now() - self._selected,
            "ours": self._ours,
            "first": self._first,
            "begun": self.begun.state_dict() if self.begun else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what was under way; the policy is to be loaded before."""
        self.audits, self.cost, self.dreamt = state["audits"], dict(state["cost"]), tuple(state["dreamt"])
        self._selected = self._now() - state["since"]
        self._dreams, self._ours = state["dreams"], state.get("ours", False)  # older ones lack it
        self._first = state.get("first")
        self.believe([scenario for scenario in self.audited if scenario.name in state["scenarios"]])
        if begun := state["begun"]:
            learner = deepcopy(self.dreamer.learner)
            learner.load_state_dict(begun["learner"])
            self._hand_over(begun["kind"], learner, begun["updates"], begun["due"])

    def _hand_over(self, kind: str, learner: ActorCritic, updates: int, due: int | None) -> None:
        """Begins a trial or an audit of this policy."""
        self.begun = Begun(kind, learner, updates, due, self._now(), self.helper.steps)
        if kind == TRIAL:
            assert self.selector is not None
            self.helper.begin(self.selector.score, self.dreamer.agent(actor=learner.actor))
        else:
            auditor, horizon = self.night.auditor(learner.actor), self.night.config.dream.horizon
            seed = AUDIT_SEEDS + 1000 * self.audits
            self.helper.begin(auditor.examine, self.audited, self._dreams, horizon, seed)

    def _start(self, kind: str) -> None:
        """Of the policy as it is; what it takes is known from the last one."""
        seconds, updates = self.dreamt
        wait = math.ceil(SLACK * self.cost[kind] * updates / seconds) if seconds > 0 else 1
        self._hand_over(kind, deepcopy(self.dreamer.learner), self.dreamer.updates, self.dreamer.updates + max(1, wait))

    def finish(self) -> float | None:
        """Takes in what was handed over, waiting for it if it is late; the score of a policy that was tried."""
        begun, self.begun = self.begun, None
        if begun is None:
            return None
        asked = self._now()
        try:
            found = self.helper.result(self._tell)
        except StoppedError:
            self.begun = begun  # the night that goes on takes it up again
            return None
        except LostError as error:
            what = "a trial" if begun.kind == TRIAL else "an audit"
            self.state.warn(f"{what} of the policy was done without, as the process that did it {error} twice")
            return None
        finally:
            self.state.count(begun.kind, self.helper.steps - begun.steps)
            self._report_troubles()
        score = self._judge(found, begun) if isinstance(found, Score) else self._gate(found)
        now = self._now()
        if begun.kind == TRIAL:
            self._selected = now
        if begun.due is None:
            self.cost[begun.kind] = now - begun.at
        elif now - asked > 0.1 * self.cost[begun.kind]:  # it takes longer beside dreaming than alone
            self.cost[begun.kind] += now - asked
        return score

    def _ask(self, purpose: str, work: Work, *arguments: Any) -> Any:
        """What another work gives, waited for; None where it is done without."""
        before = self.helper.steps
        self.helper.begin(work, *arguments)
        try:
            return self.helper.result(self._tell)
        except LostError:
            return None
        finally:
            self.state.count(purpose, self.helper.steps - before)
            self._report_troubles()

    def _tell(self, text: str) -> None:
        if text:
            self.night.tick(self.phase, text)
        if self.night.budget.stop.is_set():
            raise StoppedError

    def _report_troubles(self) -> None:
        for text in self.helper.troubles[self._told :]:
            self.state.warn(text)
            self.night.listener.note(text)
        self._told = len(self.helper.troubles)

    def between(self) -> bool:
        """The second audit at half-time, and a trial as often as its share of the time allows; whether to save."""
        if self.begun is not None:
            self.helper.look()
            if self.dreamer.updates < (self.begun.due or 0):
                return False
            self.finish()
            return True
        if self.audits == 1 and self.phase.spent() > 0.5:
            self.audit(self.helper.beside)
            if self.begun is not None:
                return True
        if self.selector is None:
            return False
        cost, beside = self.cost[TRIAL], self.helper.beside
        pause = max(10.0, cost * (1 / (BESIDE_SHARE if beside else SELECTION_SHARE) - 1))
        least = (1 + SLACK) * cost if beside else 2 * cost + 0.5 * pause
        if self._now() - self._selected < pause or self.phase.left() < least:
            return False
        if beside:
            self._start(TRIAL)
        else:
            self.try_policy()
        return True

    # -- selection ----------------------------------------------------------------------------------------------------

    def select(self, draws: int | None = None) -> None:
        """Begins to, by trials in so many worlds a scenario; None or 0: in as many as the time allows for.

        What was the best so far is tried once more if that was in other worlds.
        """
        task, state = self.night.config.task, self.state
        if not draws:
            max_steps, seconds = registry.task_class(task).max_steps, SELECTION_SHARE * self.phase.seconds
            draws = affordable_draws(self._seconds_a_step(), max_steps, len(self.tried), ENVS, seconds)
        trainer = self.night.trainer
        ranges, earned = as_logged(trainer.reader, task), poor_and_excellent(trainer.replay)
        self.selector = selector = Selector(task, self.tried, self.night.nominal, ranges, draws, earned)
        if state.best_score is not None and state.best_worlds != selector.worlds:
            score = self._ask(TRIAL, selector.score, self.night.agent(BEST))
            state.best_score = score.total if score else None
        state.best_worlds = selector.worlds
        self._selected = self._now()

    def _seconds_a_step(self, steps: int = 12) -> float:
        """Of all environments, with the present policy; what it takes to begin them is left out."""
        times = [self._now()]
        for count in (0, 0, steps):  # the first makes them
            self._ask(TRIAL, some_steps, self.dreamer.agent(), self.night.nominal, count)
            times.append(self._now())
        return max(0.0, (times[3] - times[2]) - (times[2] - times[1])) / steps

    def try_policy(self) -> float | None:
        """Try the present policy in the simulator and wait for its score; None if it was not tried."""
        if self.selector is None or self.night.budget.stop.is_set():
            return None
        self._hand_over(TRIAL, deepcopy(self.dreamer.learner), self.dreamer.updates, None)
        return self.finish()

    def _judge(self, score: Score, tried: Begun) -> float:
        """Keeps the policy that was tried if it is the best so far and can still do what the first one could; from a
        clearly worse one, goes back to the best."""
        night, state = self.night, self.state
        self._first = score.inside if self._first is None else self._first
        lost = score.clearly_loses(self._first)
        kept = not lost and (state.best_score is None or score.total > state.best_score)
        if kept:
            state.best_score = score.total
            night.save_policy(BEST, tried.learner, tried.updates)
            self._ours = True
        elif self._ours and (lost or score.clearly_below(state.best_score or 0.0)):
            self.dreamer.go_back(night.saved(BEST)["learner"])
        scores = {"logged": score.nominal, **score.scenarios}
        seconds = round(night.earlier_s + night.budget.elapsed(), 2)
        state.selection.append({"night": state.nights, "seconds": seconds, "scores": scores, "kept": kept})
        night.metrics("selection", tried.updates, {**scores, "total": score.total}, always=True)
        night.save_progress()
        return score.total

    # -- audit --------------------------------------------------------------------------------------------------------

    def audit(self, beside: bool = False) -> None:
        """Have dreams audited; the first time at once, as nothing is to be dreamt that the model cannot dream yet."""
        self.audits += 1
        if not self.audited or not self.night.config.gate:
            return
        if beside:
            self._start(AUDIT)
        else:
            self._dreams = self._dreams or self._affordable()
            self._hand_over(AUDIT, self.dreamer.learner, self.dreamer.updates, None)
            self.finish()

    def _affordable(self) -> int:
        """Dreams a scenario for which an audit keeps to its share of the time; at least 2."""
        auditor, horizon = self.night.auditor(), self.night.config.dream.horizon
        # Making the environments is no part of a dream's cost.
        self._ask(AUDIT, some_steps, self.dreamer.agent(), self.night.nominal, 0)
        begun = self._now()
        self._ask(AUDIT, auditor.examine, [LOGGED], 2, horizon, AUDIT_SEEDS)
        each = (self._now() - begun) / 2
        most = AUDIT_SHARE * self.phase.seconds / (each * len(self.audited)) if each > 0 else MOST_DREAMS
        return max(2, min(MOST_DREAMS, math.floor(most)))

    def _gate(self, report: AuditReport) -> None:
        """Refuse the scenarios that the model cannot dream yet; a later audit may admit them."""
        night, state = self.night, self.state
        reasons = {one.scenario: one.reason for one in report.scenarios if not one.trusted}
        for scenario in self.audited:
            state.refused.pop(scenario.name, None)
            if scenario.name in reasons:
                state.refused[scenario.name] = reasons[scenario.name]
        self.believe([s for s in self.audited if s.name not in reasons])
        self.dreamer.forget(set(reasons))
        ratios = {one.scenario: one.disagreement for one in report.scenarios}
        state.disagreement = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        trusted = {one.scenario: float(one.trusted) for one in report.scenarios}
        night.metrics("trusted", self.dreamer.updates, trusted, always=True)
        night.save_progress()
        if reasons:
            night.listener.note(f"not dreamt for now, as the model errs too much: {', '.join(reasons)}")
