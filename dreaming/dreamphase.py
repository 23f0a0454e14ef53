"""The dream phase: actor-critic on dreams, held to the truth by checks.py."""

from collections.abc import Callable
from typing import Any

from dreaming.checks import ENVS, TRIAL, Checks
from dreaming.clock import Phase
from dreaming.exploring import exploring
from dreaming.night import Night
from dreaming.run import BEST, CLONE, LATEST
from dreaming.scenario import Scenario
from dreaming.survival import StoppedError
from envs.workers import Workers

BEGINNING_SHARE = 0.1  # of the phase, at most, for the critic's first lesson


class DreamPhase:
    def __init__(self, night: Night, phase: Phase) -> None:
        self.night, self.phase, self.state = night, phase, night.state
        self.dreamer, self.coverable = night.dreamer, night.coverable()
        self.exploring = exploring(night, phase)  # None unless the night is to find what-ifs itself
        self.checks: Checks | None = None  # where there is a simulator
        self._now = phase.budget.now

    def run(self) -> None:
        night = self.night
        if not night.simulated:
            self._explore(None)
            self._believe([scenario for scenario in self.coverable if scenario.name not in self.state.refused])
            self._begin()
            self._updates(lambda: False)
            self._end()
            if self.state.best_score is not None:  # of a night that had one
                night.warn("there is no simulator here: the last policy took the place of the best one, untried")
                self.state.best_score, self.state.best_worlds = None, ""
            night.save_policy(BEST)
            return
        helper = night.helper(ENVS, self.phase.seconds)
        surveyors = helper.workers or (night.workers(ENVS) if self.exploring else None)
        try:
            self._explore(surveyors)
            found = self.exploring.exploration.trials() if self.exploring and night.config.select else []
            checks = Checks(night, self.phase, helper, self.coverable, self.coverable + found, self._believe)
            self.checks = checks
            self._begin()
            if night.budget.stop.is_set():
                return
            if not checks.audits:
                checks.audit()
            self._updates(checks.between)
            if not night.budget.stop.is_set():
                checks.finish()
            self._end()
            if checks.try_policy() is not None:
                self._save()  # it may have gone back
        except StoppedError:
            return
        finally:
            helper.close()
            if surveyors is not None:
                surveyors.close()
        if not night.config.select or (self.state.best_score is None and not night.budget.stop.is_set()):
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
        dreamer = self.dreamer
        latest, ours = self.night.latest()
        ledger = latest.get("ledger") if latest and ours else None
        if self.checks and self.night.config.select:
            self.checks.select(ledger["draws"] if ledger else None)
        if latest and ours:
            dreamer.load_state_dict(latest["dreamer"])
            if self.checks and ledger:
                self.checks.load_state_dict(ledger)
            else:
                self._try()
            return
        state = self.night.saved(CLONE)
        self._become(state["dreamer"])
        clone = self._try()
        if latest is None or clone is None:
            return
        self._become(latest["dreamer"])
        dreamer.ongoing = None  # they were dreamt by a model that has learnt on since
        older = self._try()
        if older is None or older < clone:
            self._become(state["dreamer"])

    def _try(self) -> float | None:
        return self.checks.try_policy() if self.checks else None

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

    def _updates(self, between: Callable[[], bool]) -> None:
        """Dream and learn until the phase's time, less that of the last trial, is over, and once in any case."""
        saved, dreamer, dreamt = self._now(), self.dreamer, False
        stop, enough = self.phase.budget.stop, self._now() + BEGINNING_SHARE * self.phase.seconds
        dreamer.begin(lambda: stop.is_set() or self._now() > enough)  # here, as it is no part of what an update takes
        while self.phase.left() > 1.05 * (self.checks.cost[TRIAL] if self.checks else 0.0) or not dreamt:
            begun = self._now()
            values, dreamt = dreamer.dream(min(1.0, self.phase.spent())), True
            if self.checks:
                self.checks.took(self._now() - begun)
            self._count()
            if self.exploring is not None:
                self.exploring.turn()
            text = f"{dreamer.imagined_steps:,} steps dreamt, return {values['imagined_return']:.1f}"
            self.night.tick(self.phase, text)
            self.night.metrics("dream", dreamer.updates, values)
            if between() or self._now() - saved > self.night.save_every_s:
                self._save()
                saved = self._now()

    def _save(self) -> None:
        """The policy, and where trials and audits are."""
        if self.checks is None:
            self.night.save_policy(LATEST)
        else:
            self.night.save_policy(LATEST, ledger=self.checks.state_dict())


def dream(night: Night, phase: Phase) -> None:
    DreamPhase(night, phase).run()
