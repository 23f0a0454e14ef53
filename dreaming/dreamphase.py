"""The dream phase: actor-critic on dreams, held to the truth by an audit now and then and by selection.

Where a core is to spare, trials and audits go on beside dreaming. They are of a snapshot of the policy, which is what
is kept if it is the best, and their result is waited for after a number of updates that is settled as they begin: what
the night does then hangs on its state and its clock, not on which process was faster.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from dreaming.actor_critic import ActorCritic
from dreaming.audit_report import AuditReport
from dreaming.auditing import LOGGED
from dreaming.beside import LostError, Work
from dreaming.clock import Phase
from dreaming.exploring import exploring
from dreaming.logged_returns import poor_and_good
from dreaming.night import Night
from dreaming.run import BEST, CLONE, LATEST
from dreaming.scenario import Scenario
from dreaming.selection import AUDIT_SEEDS, Score, Selector, affordable_draws, some_steps
from dreaming.survival import StoppedError
from envs import registry
from envs.workers import Workers
from worldmodel import checkpoint

ENVS = 32
SELECTION_SHARE = 0.15  # of the phase
BESIDE_SHARE = 0.5  # of the phase, for trials that cost dreaming no time
SLACK = 1.25  # a trial beside dreaming is given the time it took alone, and this times as many updates
BEGINNING_SHARE = 0.1  # of the phase, at most, for the critic's first lesson
AUDIT_SHARE = 0.04  # of the phase, for each of the two audits
MOST_DREAMS = 8  # a scenario, in such an audit
SAVE_EVERY_S = 60.0
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


class DreamPhase:
    def __init__(self, night: Night, phase: Phase) -> None:
        self.night, self.phase, self.state = night, phase, night.state
        self.dreamer, self.trainer = night.dreamer, night.trainer
        self.coverable = night.coverable()
        self.exploring = exploring(night, phase)  # None unless the night is to find what-ifs itself
        self.selector: Selector | None = None
        self._begun: Begun | None = None
        self._ours = False  # whether the best policy is of this phase; an older one's critic is of another world model
        self._audits, self._dreams = 0, 0  # so far, and dreams a scenario in each
        self._cost = {TRIAL: 0.0, AUDIT: 0.0}  # seconds that one takes
        self._dreamt = 0.0, 0  # seconds, and the updates that took them
        self._told = 0  # troubles of the process beside
        self._now = phase.budget.now
        self._selected = self._now()

    def run(self) -> None:
        night = self.night
        if not night.simulated:
            self._explore(None)
            self._begin()
            self._updates(lambda: False)
            self._end()
            night.save_policy(BEST)
            return
        self.helper = night.helper(ENVS, self.phase.seconds)
        surveyors = self.helper.workers or (night.workers(ENVS) if self.exploring else None)
        try:
            self._explore(surveyors)
            self._begin()
            if night.budget.stop.is_set():
                return
            if not self._audits:
                self._audit()
            self._updates(self._between)
            if not night.budget.stop.is_set():
                self._finish()
            self._end()
            self._try()
        except StoppedError:
            return
        finally:
            self.helper.close()
            if surveyors is not None:
                surveyors.close()
        if self.selector is None or (self.state.best_score is None and not night.budget.stop.is_set()):
            night.save_policy(BEST)

    def _believe(self, scenarios: list[Scenario]) -> None:
        """These are dreamt, of those that were given; what the night finds comes beside them."""
        if self.exploring is None:
            self.dreamer.scenarios = scenarios
        else:
            self.exploring.write(scenarios)

    def _explore(self, workers: Workers | None) -> None:
        if self.exploring is not None:
            self.exploring.written = list(self.coverable)
            self.exploring.begin(workers)

    def _begin(self) -> None:
        """Go on from where this night was; else from the clone, or from last night's policy if that is still better."""
        dreamer, folder = self.dreamer, self.night.run.checkpoints
        latest = checkpoint.load(folder, LATEST) if checkpoint.exists(folder, LATEST) else None
        made = (latest[1].get("night"), latest[1].get("woken", 0)) if latest else None
        ours = made == (self.state.nights, self.state.woken)
        ledger = latest[0].get("ledger") if latest and ours else None
        if self.night.simulated and self.night.config.select:
            self.selector = self._selector(ledger["draws"] if ledger else None)
        if latest and ours:
            dreamer.load_state_dict(latest[0]["dreamer"])
            if ledger:
                self._go_on(ledger)
            else:
                self._try()
            return
        state = self.night.saved(CLONE)
        self._become(state["dreamer"])
        clone = self._try()
        if latest is None or clone is None:
            return
        self._become(latest[0]["dreamer"])
        dreamer.ongoing = None  # they were dreamt by a model that has learnt on since
        older = self._try()
        if older is None or older < clone:
            self._become(state["dreamer"])

    def _become(self, policy: dict[str, Any]) -> None:
        """That policy. Checkpoints count updates: one that counted fewer than before would be taken for the older."""
        self.dreamer.load_state_dict(policy)
        self.dreamer.updates = max(self.dreamer.updates, self.state.updates)
        self.dreamer.imagined_steps = max(self.dreamer.imagined_steps, self.state.imagined_steps)

    def _end(self) -> None:
        self._count()
        if skipped := self.dreamer.learner.step.skipped:
            self.state.warn(f"{skipped} updates of the policy were skipped, as a loss or a gradient was not finite")
        self._save()

    def _count(self) -> None:
        self.state.updates, self.state.imagined_steps = self.dreamer.updates, self.dreamer.imagined_steps

    def _updates(self, between) -> None:
        """Dream and learn until the phase's time, less that of the last trial, is over, and once in any case."""
        saved, dreamer, dreamt = self._now(), self.dreamer, False
        stop, enough = self.phase.budget.stop, self._now() + BEGINNING_SHARE * self.phase.seconds
        dreamer.begin(lambda: stop.is_set() or self._now() > enough)  # here, as it is no part of what an update takes
        while self.phase.left() > 1.05 * self._cost[TRIAL] or not dreamt:
            begun = self._now()
            values, dreamt = dreamer.dream(min(1.0, self.phase.spent())), True
            self._dreamt = self._dreamt[0] + self._now() - begun, self._dreamt[1] + 1
            self._count()
            if self.exploring is not None:
                self.exploring.turn()
            text = f"{dreamer.imagined_steps:,} steps dreamt, return {values['imagined_return']:.1f}"
            self.night.tick(self.phase, text)
            self.night.metrics("dream", dreamer.updates, values)
            if between() or self._now() - saved > SAVE_EVERY_S:
                self._save()
                saved = self._now()

    # -- what goes on beside ------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """The policy, and where trials and audits are: a night that goes on from here does what this one will."""
        if not self.night.simulated:
            self.night.save_policy(LATEST)
            return
        ledger = {
            "audits": self._audits,
            "scenarios": [scenario.name for scenario in self.dreamer.scenarios],
            "dreams": self._dreams,
            "draws": self.selector.draws if self.selector else 0,
            "cost": self._cost,
            "dreamt": self._dreamt,
            "since": self._now() - self._selected,
            "ours": self._ours,
            "begun": self._begun.state_dict() if self._begun else None,
        }
        self.night.save_policy(LATEST, ledger=ledger)

    def _go_on(self, ledger: dict[str, Any]) -> None:
        self._audits, self._cost, self._dreamt = ledger["audits"], dict(ledger["cost"]), tuple(ledger["dreamt"])
        self._selected = self._now() - ledger["since"]
        self._dreams, self._ours = ledger["dreams"], ledger.get("ours", False)  # older ones lack it
        self._believe([s for s in self.coverable if s.name in ledger["scenarios"]])
        if begun := ledger["begun"]:
            learner = deepcopy(self.dreamer.learner)
            learner.load_state_dict(begun["learner"])
            self._hand_over(begun["kind"], learner, begun["updates"], begun["due"])

    def _hand_over(self, kind: str, learner: ActorCritic, updates: int, due: int | None) -> None:
        """Begins a trial or an audit of this policy."""
        self._begun = Begun(kind, learner, updates, due, self._now(), self.helper.steps)
        if kind == TRIAL:
            assert self.selector is not None
            self.helper.begin(self.selector.score, self.dreamer.agent(actor=learner.actor))
        else:
            auditor, horizon = self.night.auditor(learner.actor), self.night.config.dream.horizon
            seed = AUDIT_SEEDS + 1000 * self._audits
            self.helper.begin(auditor.examine, self.coverable, self._dreams, horizon, seed)

    def _start(self, kind: str) -> None:
        """Of the policy as it is; what it takes is known from the last one."""
        seconds, updates = self._dreamt
        wait = math.ceil(SLACK * self._cost[kind] * updates / seconds) if seconds > 0 else 1
        self._hand_over(kind, deepcopy(self.dreamer.learner), self.dreamer.updates, self.dreamer.updates + max(1, wait))

    def _finish(self) -> float | None:
        """Takes in what was handed over, waiting for it if it is late; the score of a policy that was tried."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        asked = self._now()
        try:
            found = self.helper.result(self._tell)
        except StoppedError:
            self._begun = begun  # the night that goes on takes it up again
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
            self._cost[begun.kind] = now - begun.at
        elif now - asked > 0.1 * self._cost[begun.kind]:  # it takes longer beside dreaming than alone
            self._cost[begun.kind] += now - asked
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

    def _between(self) -> bool:
        """The second audit at half-time, and a trial as often as its share of the time allows; whether to save."""
        if self._begun is not None:
            self.helper.look()
            if self.dreamer.updates < (self._begun.due or 0):
                return False
            self._finish()
            return True
        if self._audits == 1 and self.phase.spent() > 0.5:
            self._audit(self.helper.beside)
            if self._begun is not None:
                return True
        if self.selector is None:
            return False
        cost, beside = self._cost[TRIAL], self.helper.beside
        pause = max(10.0, cost * (1 / (BESIDE_SHARE if beside else SELECTION_SHARE) - 1))
        least = (1 + SLACK) * cost if beside else 2 * cost + 0.5 * pause
        if self._now() - self._selected < pause or self.phase.left() < least:
            return False
        if beside:
            self._start(TRIAL)
        else:
            self._try()
        return True

    # -- selection ----------------------------------------------------------------------------------------------------

    def _selector(self, draws: int | None = None) -> Selector:
        """In as many worlds as the time allows for."""
        task, state = self.night.config.task, self.state
        tried = self.coverable + (self.exploring.exploration.trials() if self.exploring else [])
        if not draws:
            max_steps, seconds = registry.task_class(task).max_steps, SELECTION_SHARE * self.phase.seconds
            draws = affordable_draws(self._seconds_a_step(), max_steps, len(tried), ENVS, seconds)
        selector = Selector(task, tried, self.night.nominal, draws, poor_and_good(self.trainer.replay))
        if state.best_score is not None and state.best_worlds != selector.worlds:
            score = self._ask(TRIAL, selector.score, self.night.agent(BEST))
            state.best_score = score.total if score else None
        state.best_worlds = selector.worlds
        self._selected = self._now()
        return selector

    def _seconds_a_step(self, steps: int = 12) -> float:
        """Of all environments, with the present policy; what it takes to begin them is left out."""
        times = [self._now()]
        for count in (0, 0, steps):  # the first makes them
            self._ask(TRIAL, some_steps, self.dreamer.agent(), self.night.nominal, count)
            times.append(self._now())
        return max(0.0, (times[3] - times[2]) - (times[2] - times[1])) / steps

    def _try(self) -> float | None:
        """Try the present policy in the simulator and wait for its score; None if it was not tried."""
        if self.selector is None or self.night.budget.stop.is_set():
            return None
        self._hand_over(TRIAL, deepcopy(self.dreamer.learner), self.dreamer.updates, None)
        return self._finish()

    def _judge(self, score: Score, tried: Begun) -> float:
        """Keeps the policy that was tried if it is the best so far; from a clearly worse one, goes back to the best."""
        night, state = self.night, self.state
        kept = state.best_score is None or score.total > state.best_score
        if kept:
            state.best_score = score.total
            night.save_policy(BEST, tried.learner, tried.updates)
            self._ours = True
        elif self._ours and score.clearly_below(state.best_score or 0.0):
            self.dreamer.go_back(night.saved(BEST)["learner"])
        scores = {"logged": score.nominal, **score.scenarios}
        seconds = round(night.earlier_s + night.budget.elapsed(), 2)
        state.selection.append({"seconds": seconds, "scores": scores, "kept": kept})
        night.metrics("selection", tried.updates, {**scores, "total": score.total}, always=True)
        night.save_progress()
        return score.total

    # -- audit --------------------------------------------------------------------------------------------------------

    def _audit(self, beside: bool = False) -> None:
        """Have dreams audited; the first time at once, as nothing is to be dreamt that the model cannot dream yet."""
        self._audits += 1
        if not self.coverable or not self.night.config.gate:
            return
        if beside:
            self._start(AUDIT)
        else:
            self._dreams = self._dreams or self._affordable()
            self._hand_over(AUDIT, self.dreamer.learner, self.dreamer.updates, None)
            self._finish()

    def _affordable(self) -> int:
        """Dreams a scenario for which an audit keeps to its share of the time; at least 2."""
        auditor, horizon = self.night.auditor(), self.night.config.dream.horizon
        # Making the environments is no part of a dream's cost.
        self._ask(AUDIT, some_steps, self.dreamer.agent(), self.night.nominal, 0)
        begun = self._now()
        self._ask(AUDIT, auditor.examine, [LOGGED], 2, horizon, AUDIT_SEEDS)
        each = (self._now() - begun) / 2
        most = AUDIT_SHARE * self.phase.seconds / (each * len(self.coverable)) if each > 0 else MOST_DREAMS
        return max(2, min(MOST_DREAMS, math.floor(most)))

    def _gate(self, report: AuditReport) -> None:
        """Refuse the scenarios that the model cannot dream yet; a later audit may admit them."""
        night, state = self.night, self.state
        reasons = {one.scenario: one.reason for one in report.scenarios if not one.trusted}
        for scenario in self.coverable:
            state.refused.pop(scenario.name, None)
            if scenario.name in reasons:
                state.refused[scenario.name] = reasons[scenario.name]
        self._believe([s for s in self.coverable if s.name not in reasons])
        self.dreamer.forget(set(reasons))
        ratios = {one.scenario: one.disagreement for one in report.scenarios}
        state.disagreement = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        trusted = {one.scenario: float(one.trusted) for one in report.scenarios}
        night.metrics("trusted", self.dreamer.updates, trusted, always=True)
        night.save_progress()
        if reasons:
            night.listener.note(f"not dreamt for now, as the model errs too much: {', '.join(reasons)}")


def dream(night: Night, phase: Phase) -> None:
    DreamPhase(night, phase).run()
