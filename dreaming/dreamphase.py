"""The dream phase: actor-critic on dreams, held to the truth by an audit now and then and by selection."""

from dreaming.clock import Phase
from dreaming.exploring import exploring
from dreaming.night import Night
from dreaming.run import BEST, CLONE, LATEST
from dreaming.selection import AUDIT_SEEDS, Selector, affordable_draws, seconds_a_step
from dreaming.survival import StoppedError
from envs import registry
from envs.workers import Workers
from worldmodel import checkpoint

ENVS = 32
SELECTION_SHARE = 0.15  # of the phase
AUDIT_SHARE = 0.04  # of the phase, for each of the two audits
MOST_DREAMS = 8  # a scenario, in such an audit
SAVE_EVERY_S = 60.0


class DreamPhase:
    def __init__(self, night: Night, phase: Phase) -> None:
        self.night, self.phase, self.state = night, phase, night.state
        self.dreamer, self.trainer = night.dreamer, night.trainer
        self.coverable = night.coverable()
        self.exploring = exploring(night, phase)  # None unless the night is to find what-ifs itself
        self._audits = 0
        self._cost = 0.0  # seconds that trying a policy takes
        self._now = phase.budget.now

    def run(self) -> None:
        night = self.night
        if not night.simulated:
            self._explore(None)
            self._begin()
            self._updates(lambda: False)
            self._end()
            night.save_policy(BEST)
            return
        with night.workers(ENVS) as workers:
            self._workers = workers
            self._explore(workers)
            self.selector = self._selector(workers) if night.config.select else None
            self._begin()
            if night.budget.stop.is_set():
                return
            self._audit()
            self._updates(self._between)
            self._end()
            self._select()
        if self.selector is None:
            night.save_policy(BEST)

    def _explore(self, workers: Workers | None) -> None:
        if self.exploring is not None:
            self.exploring.written = list(self.coverable)
            self.exploring.begin(workers)

    def _begin(self) -> None:
        """Go on from where this night was; else from the clone, or from last night's policy if that is still better."""
        dreamer, folder = self.dreamer, self.night.run.checkpoints
        latest = checkpoint.load(folder, LATEST) if checkpoint.exists(folder, LATEST) else None
        if latest and latest[1].get("night") == self.state.nights:
            dreamer.load_state_dict(latest[0]["dreamer"])
            if self.night.simulated:
                self._select()
            return
        state = self.night.saved(CLONE)
        dreamer.load_state_dict(state["dreamer"])
        before = dreamer.updates
        if not self.night.simulated:
            return
        clone = self._select()
        if latest is None or clone is None:
            return
        dreamer.load_state_dict(latest[0]["dreamer"])
        dreamer.updates = max(before, dreamer.updates)
        dreamer.ongoing = None  # they were dreamt by a model that has learnt on since
        older = self._select()
        if older is None or older < clone:
            dreamer.load_state_dict(state["dreamer"])

    def _end(self) -> None:
        self._count()
        if skipped := self.dreamer.learner.step.skipped:
            self.state.warn(f"{skipped} updates of the policy were skipped, as a loss or a gradient was not finite")
        self.night.save_policy(LATEST)

    def _count(self) -> None:
        self.state.updates, self.state.imagined_steps = self.dreamer.updates, self.dreamer.imagined_steps

    def _updates(self, between) -> None:
        """Dream and learn until the phase's time, less that of the last trial, is over, and once in any case."""
        saved, dreamer, dreamt = self._now(), self.dreamer, False
        while self.phase.left() > 1.05 * self._cost or not dreamt:
            values, dreamt = dreamer.dream(min(1.0, self.phase.spent())), True
            self._count()
            if self.exploring is not None:
                self.exploring.turn()
            text = f"{dreamer.imagined_steps:,} steps dreamt, return {values['imagined_return']:.1f}"
            self.night.tick(self.phase, text)
            self.night.metrics("dream", dreamer.updates, values)
            if between() or self._now() - saved > SAVE_EVERY_S:
                self.night.save_policy(LATEST)
                saved = self._now()

    # -- selection ----------------------------------------------------------------------------------------------------

    def _selector(self, workers: Workers) -> Selector:
        """As many worlds as the time allows for about three trials or more."""
        task = self.night.config.task
        step_s = seconds_a_step(self.dreamer.agent(), workers, self.night.nominal, now=self._now)
        max_steps = registry.task_class(task).max_steps
        tried = self.coverable + (self.exploring.exploration.trials() if self.exploring else [])
        seconds = SELECTION_SHARE * self.phase.seconds / 3
        draws = affordable_draws(step_s, max_steps, len(tried), workers.n_envs, seconds)
        selector = Selector(task, tried, self.night.nominal, workers, draws)
        state, run = self.state, self.night.run
        if state.best_score is not None and state.best_worlds != selector.worlds:
            score = selector.score(run.load_agent(BEST, device=self.night.device))
            state.best_score, state.best_return = score.rank
        state.best_worlds = selector.worlds
        self._selected = self._now()
        return selector

    def _select(self) -> tuple[float, float] | None:
        """Try the present policy in the simulator, keep it if it is the best so far; its rank, if it was tried."""
        if self.selector is None:
            return None
        night, state, workers = self.night, self.state, self._workers
        begun, before = self._now(), workers.steps

        def watch(done: int, jobs: int) -> None:
            night.tick(self.phase, f"trying the policy in the simulator: {done} of {jobs} episodes")
            if night.budget.stop.is_set():
                raise StoppedError

        try:
            score = self.selector.score(self.dreamer.agent(), watch)
        except StoppedError:
            return None
        finally:
            state.count("selection", workers.steps - before)
        kept = state.best_score is None or score.rank > (state.best_score, state.best_return)
        if kept:
            state.best_score, state.best_return = score.rank
            night.save_policy(BEST)
        scores = {"logged": score.nominal, **score.scenarios}
        seconds = round(night.earlier_s + night.budget.elapsed(), 2)
        state.selection.append({"seconds": seconds, "scores": scores, "kept": kept})
        night.metrics("selection", self.dreamer.updates, {**scores, "total": score.total}, always=True)
        night.save_progress()
        self._selected = self._now()
        self._cost = self._selected - begun
        return score.rank

    def _between(self) -> bool:
        """The second audit at half-time, and a trial as often as its share of the time allows."""
        if self._audits == 1 and self.phase.spent() > 0.5:
            self._audit()
        if self.selector is None:
            return False
        pause = max(10.0, self._cost * (1 / SELECTION_SHARE - 1))
        if self._now() - self._selected < pause or self.phase.left() < 2 * self._cost + 0.5 * pause:
            return False
        self._select()
        return True

    # -- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Refuse the scenarios that the model cannot dream yet; a later audit may admit them."""
        night, state = self.night, self.state
        self._audits += 1
        if not self.coverable or not night.config.gate:
            return
        auditor, horizon = night.auditor(), night.config.dream.horizon
        seed = AUDIT_SEEDS + 1000 * self._audits
        seconds, before = AUDIT_SHARE * self.phase.seconds, self._workers.steps
        night.tick(self.phase, "auditing dreams")
        try:
            count = auditor.affordable(len(self.coverable), horizon, seed, seconds, MOST_DREAMS, self._workers)
            dreams = auditor.dreams(self.coverable, count, horizon, seed, going_on=lambda: self.phase.left() > 0)
            if night.budget.stop.is_set():
                return
            report = auditor.audit(dreams, self._workers)
        finally:
            state.count("audit", self._workers.steps - before)
        reasons = {one.scenario: one.reason for one in report.scenarios if not one.trusted}
        for scenario in self.coverable:
            state.refused.pop(scenario.name, None)
            if scenario.name in reasons:
                state.refused[scenario.name] = reasons[scenario.name]
        believed = [s for s in self.coverable if s.name not in reasons]
        if self.exploring is None:
            self.dreamer.scenarios = believed
        else:
            self.exploring.write(believed)
        self.dreamer.forget(set(reasons))
        trusted = {one.scenario: float(one.trusted) for one in report.scenarios}
        night.metrics("trusted", self.dreamer.updates, trusted, always=True)
        if reasons:
            night.listener.note(f"not dreamt for now, as the model errs too much: {', '.join(reasons)}")


def dream(night: Night, phase: Phase) -> None:
    DreamPhase(night, phase).run()
