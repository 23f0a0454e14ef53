"""Trials and audits between dreams, with a simulator whose answers are known; whole nights are in test_night.py."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from dreaming.beside import LostError
from dreaming.checks import Checks
from dreaming.clock import Budget, Share
from dreaming.dreamphase import DreamPhase
from dreaming.evaluate import CellResult
from dreaming.run import BEST, LATEST, Progress
from dreaming.scenario import Scenario
from dreaming.selection import Score, Selector, affordable_draws, some_steps
from dreaming.survival import as_logged
from envs import registry
from envs.physics import PhysicsRange, sample
from envs.workers import Workers


class Told:
    """In place of a process beside dreaming: what it will give back is known beforehand."""

    def __init__(self, found, beside: bool = True) -> None:
        self.found, self.beside = list(found), beside
        self.steps, self.looks, self.begun = 0, 0, []
        self.troubles: list[str] = []

    def begin(self, work, *arguments):
        self.begun.append(arguments)

    def look(self):
        self.looks += 1

    def result(self, tell):
        self.steps += 10
        found = self.found.pop(0)
        if isinstance(found, Exception):
            self.troubles.append("it died")
            raise found
        return found

    def close(self): ...


class Policy:
    """Learns to be its number of updates."""

    def __init__(self) -> None:
        self.updates, self.imagined_steps, self.scenarios = 0, 0, [ICE]
        self.learner = SimpleNamespace(actor=0, step=SimpleNamespace(skipped=0), state_dict=dict)

    def begin(self, enough): ...

    def dream(self, spent):
        self.updates += 1
        self.learner.actor = self.updates
        return {"imagined_return": 0.0}

    def agent(self, actor): ...

    def forget(self, names): ...


ICE = Scenario("ice", "", {"default": {"floor_friction": 0.1}})


def phase_with(helper: Told, seconds: float = 100.0):
    """A dream phase in which an update takes a second, and all else no time; and the policies it saves, as (name,
    what was learnt, after how many updates)."""
    dreamer, kept, clock = Policy(), [], [0.0]
    dream_once = dreamer.dream

    def dream(spent):
        clock[0] += 1.0
        return dream_once(spent)

    dreamer.dream = dream
    night = SimpleNamespace(
        state=Progress(), searches=False, dreamer=dreamer, simulated=True, save_every_s=60.0,
        trainer=SimpleNamespace(replay=None, reader=logs_of([{"floor_friction": 0.2}, {"floor_friction": 0.4}])),
        earlier_s=0.0, device=None, nominal=registry.nominal("push-box"), agent=lambda name: f"the {name}",
        config=SimpleNamespace(task="push-box", select=True, gate=True, dream=SimpleNamespace(horizon=5)),
        coverable=lambda: [ICE],
        helper=lambda *_: helper, tick=lambda *_: None, metrics=lambda *_, **__: None,
        auditor=lambda actor: SimpleNamespace(examine=None), listener=SimpleNamespace(note=lambda text: None),
        save_progress=lambda: None,
        save_policy=lambda name, learner=None, updates=None, **more: kept.append(
            (name, (learner or dreamer.learner).actor, dreamer.updates if updates is None else updates, more)
        ),
        budget=Budget(seconds, [Share("dream", 1.0)], now=lambda: clock[0]),
    )  # fmt: skip
    phase = DreamPhase(night, night.budget.phase("dream"))  # pyright: ignore[reportArgumentType]
    phase.checks = checks = Checks(night, phase.phase, helper, [ICE], [ICE], phase._believe)  # pyright: ignore[reportArgumentType]
    checks.selector = SimpleNamespace(score=None, draws=4)  # pyright: ignore[reportAttributeAccessIssue]
    checks.cost = {"selection": 8.0, "audit": 4.0}
    return phase, checks, kept


def scored(*values: float, error: float = 1.0) -> list[Score]:
    return [Score(value, {"ice": value}, value, error) for value in values]


class Simulator:
    task = "push-box"


def score_of(failed: Sequence[int], returns: Sequence[float]) -> Score:
    """Of four episodes in the logs' worlds and two on ice; 1 is a poor return, and 3 an excellent one."""
    selector = Selector("push-box", [ICE], registry.nominal("push-box"), {}, 2, (1.0, 3.0))
    results = [
        CellResult(name, label, {}, [1], [bool(fell)], [False], [returned], [0.0], [80])
        for (name, label, _), fell, returned in zip(selector.cells, failed, returns, strict=True)
    ]
    with patch("dreaming.selection.evaluate", lambda *_: results):
        return selector.score(Simulator, lambda text: None, None)  # pyright: ignore[reportArgumentType]


def test_a_trial_by_hand():
    """Of the four that are poor three survive, worth (3 * .5 + 0) / 4; those on ice do, one more than excellent."""
    score = score_of([0, 0, 0, 1, 0, 0], [1.0, 1.0, 1.0, 0.0, 2.0, 9.0])
    assert (score.nominal, score.scenarios) == (0.75, {"ice": 1.0})
    inside, ice = 3 * 0.5 / 4, (0.75 + 1.0) / 2
    assert score.total == pytest.approx(0.5 * inside + 0.5 * ice)
    # Laplace's rule: as if there had been two more, one worth nothing and one worth all.
    variances = [p * (1 - p) / n for p, n in (((4 * inside + 1) / 6, 4), ((2 * ice + 1) / 4, 2))]
    assert score.error == pytest.approx(0.5 * sum(variances) ** 0.5)
    better = score.total + 2 * score.error
    assert score.clearly_below(better + 0.001) and not score.clearly_below(better - 0.001)


def test_who_stands_still_loses_what_the_clone_could_do():
    """Four episodes inside the logs' physics, by hand: the clone is worth .875 there, who never fails and earns nothing
    .5, with a standard error by Laplace's rule of (.5 * .5 / 4) ** .5 = .25; of 40 it would be .078."""
    clone, still = score_of([0] * 6, [2.5] * 6), score_of([0] * 6, [1.0] * 6)
    assert (clone.inside, still.inside, still.inside_error) == pytest.approx((0.875, 0.5, 0.25))
    assert not still.clearly_loses(clone.inside) and replace(still, inside_error=0.078).clearly_loses(clone.inside)


def test_a_policy_that_lost_what_the_first_could_do_is_not_kept_and_not_dreamt_on_from():
    inside = (0.9, 0.5, 0.8)
    scores = [replace(s, inside=i, inside_error=0.1) for s, i in zip(scored(0.5, 0.9, 0.6), inside, strict=True)]
    phase, checks, _ = phase_with(Told(scores, beside=False))
    given = []
    phase.dreamer.go_back = given.append
    phase.night.saved = lambda name: {"learner": name}
    for _ in scores:
        checks.try_policy()
    assert [one["kept"] for one in phase.state.selection] == [True, False, True]
    assert given == [BEST] and phase.state.best_score == 0.6
    assert checks.state_dict()["first"] == 0.9


def test_of_policies_that_fail_as_seldom_the_one_that_earns_more_is_better():
    """That it came farther before it fell says something as well."""
    failed = [0, 0, 0, 0, 0, 1]
    assert score_of(failed, [2.0] * 5 + [1.5]).total > score_of(failed, [2.0] * 5 + [1.0]).total
    assert score_of(failed, [2.0] * 6).total > score_of(failed, [1.0] + [2.0] * 5).total


def test_where_all_logs_earn_the_same_not_to_fail_is_all():
    """80 times a float32's .1, added up in two ways, is no scale."""
    selector = Selector("push-box", [], registry.nominal("push-box"), {}, 1, (8.00000095, 8.00000012))
    assert [selector.worth(1.0, 7.0), selector.worth(0.0, 9.0)] == [1.0, 0.0]


def test_a_return_that_is_no_number_earns_nothing():
    selector = Selector("push-box", [], registry.nominal("push-box"), {}, 1, (-3.0, 1.0))
    assert [selector.worth(1.0, r) for r in (float("nan"), float("inf"), 1.0)] == [0.5, 0.5, 1.0]


WORLDS = "2 draws of logged, ice; logged floor_friction (0.2, 0.4); returns from 1 to 3; by the mode"


@pytest.mark.parametrize("before", ["2 draws of logged, ice", WORLDS.removesuffix("; by the mode"), WORLDS])
def test_the_best_so_far_is_tried_once_more_where_its_score_was_of_something_else(before):
    """Scores of nights before say nothing of returns, or are of policies that drew their actions."""
    helper = Told(scored(0.4))
    phase, checks, _ = phase_with(helper)
    phase.state.best_score, phase.state.best_worlds = 0.9, before
    with patch("dreaming.checks.poor_and_excellent", lambda replay: (1.0, 3.0)):
        checks.select(2)
    same = before == WORLDS
    assert phase.state.best_score == (0.9 if same else 0.4)
    assert helper.begun == ([] if same else [("the policy-best",)])
    assert phase.state.best_worlds == WORLDS


def test_a_policy_that_got_clearly_worse_is_given_up_for_the_best():
    """Tried every ten seconds: .5 is a beginning, .6 the best, .5 may be luck, and .2 is not."""
    phase, checks, kept = phase_with(Told(scored(0.5, 0.6, 0.5, 0.2, 0.5, error=0.1), beside=False), seconds=100.0)
    checks.audits, given = 2, []
    phase.dreamer.go_back = lambda learner: given.append((phase.dreamer.updates, learner))
    phase.night.saved = lambda name: {"learner": f"{name} of {[u for n, _, u, _ in kept if n == BEST][-1]} updates"}
    phase._updates(checks.between)
    (gone_back,) = given
    assert gone_back == (76, "policy-best of 56 updates")


def test_the_best_of_an_earlier_night_is_not_gone_back_to():
    """Its critic is of the world model as it was then."""
    phase, checks, kept = phase_with(Told(scored(0.2, 0.1, 0.2, 0.1, 0.1, error=0.01), beside=False), seconds=100.0)
    checks.audits, phase.state.best_score = 2, 0.9
    phase.dreamer.go_back = lambda learner: pytest.fail("gone back")
    phase._updates(checks.between)
    assert len(phase.state.selection) >= 3 and not [name for name, *_ in kept if name == BEST]
    ledger = [more["ledger"] for name, *_, more in kept if name == LATEST][-1]
    assert ledger["ours"] is False


def test_a_policy_is_kept_if_it_is_better_than_every_one_before():
    scores = scored(0.5, 0.5, 0.4, 0.6)
    phase, checks, kept = phase_with(Told(scores))
    for score, count in zip(scores, (1, 1, 1, 2), strict=True):
        assert checks.try_policy() == score.total
        assert len(kept) == count


def test_what_was_tried_beside_dreaming_is_kept_not_what_became_of_it():
    helper = Told(scored(0.5, 0.4, 0.6, 0.7, 0.1, 0.1, 0.1))
    phase, checks, kept = phase_with(helper)
    checks.audits = 2  # both are over
    phase._updates(checks.between)
    best = [(learnt, updates) for name, learnt, updates, _ in kept if name == BEST]
    # The first begins 10 s after the start; its result is due 10 updates later, as 8 s alone take 1.25 times as long
    # beside dreaming; and 10 s later comes the next.
    assert best == [(10, 10), (50, 50), (70, 70)]
    saves = [(updates, more["ledger"]["begun"]) for name, _, updates, more in kept if name == LATEST]
    assert [updates for updates, _ in saves][:4] == [10, 20, 30, 40]
    assert saves[0][1]["due"] == 20 and saves[1][1] is None
    assert phase.state.simulator_steps == {"selection": 40}
    assert helper.looks == 40  # at every update meanwhile


def test_a_night_that_was_killed_with_a_trial_under_way_takes_it_up_again():
    first, checks, kept = phase_with(Told(scored(0.5)))
    checks.audits = 2
    first._updates(lambda: checks.between() or first.dreamer.updates >= 10 and first.night.budget.stop.set())
    ledger = kept[-1][3]["ledger"]
    second, checks, again = phase_with(Told(scored(0.5)))
    second.dreamer.updates = 10
    second.dreamer.learner.load_state_dict = lambda state: None
    checks.load_state_dict(ledger)
    assert checks.begun is not None and (checks.begun.updates, checks.begun.due) == (10, 20)
    assert checks.audits == 2 and checks.dreamt == (10.0, 10)
    while checks.begun is not None:
        second.dreamer.dream(0.0)
        checks.between()
    assert second.dreamer.updates == 20 and again[0][2] == 10


def test_trials_that_are_lost_are_told_and_done_without():
    phase, checks, kept = phase_with(Told([LostError("died (signal 9)"), *scored(0.5)]))
    assert checks.try_policy() is None and not kept
    assert phase.state.warnings == [
        "a trial of the policy was done without, as the process that did it died (signal 9) twice", "it died",
    ]  # fmt: skip
    assert checks.try_policy() is not None and [name for name, *_ in kept] == [BEST]


def test_without_a_core_to_spare_trials_take_dreaming_s_time():
    helper = Told(scored(0.5, 0.6, 0.7, 0.1, 0.1), beside=False)
    phase, checks, kept = phase_with(helper)
    checks.audits = 2
    phase._updates(checks.between)
    # 15% of the time is 8 s of 53; here they take none, so that the next costs nothing and comes after 10 s.
    assert [updates for name, _, updates, _ in kept if name == BEST] == [46, 56, 66]


def test_a_night_that_is_stopped_with_a_trial_under_way_saves_that():
    class Stops(Told):
        def result(self, tell):
            tell("trying")
            return super().result(tell)

    phase, checks, kept = phase_with(Stops(scored(0.5)))
    checks.audits = 2
    phase._updates(lambda: checks.between() or phase.dreamer.updates >= 15 and phase.night.budget.stop.set())
    checks.finish()
    phase._end()
    begun = kept[-1][3]["ledger"]["begun"]
    assert kept[-1][:3] == (LATEST, 15, 15) and (begun["updates"], begun["due"]) == (10, 20)
    assert checks.try_policy() is None


@pytest.mark.parametrize("seconds,draws", [(5.0, 2), (6.0, 8), (12.0, 12), (120.0, 24), (480.0, 96)])
def test_longer_phases_try_in_more_worlds(seconds, draws):
    """A batch of 32 environments takes 2 s: 12 draws of two scenarios and 24 of the logs' are two."""
    assert affordable_draws(0.01, 200, 2, 32, seconds) == draws
    assert affordable_draws(0.0, 200, 2, 32, seconds) == 12


def test_steps_are_timed_with_a_policy_that_falls_at_once():
    """A hopper may fall within the dozen steps that are timed; it begins again."""
    begun = []

    class Falls:
        def reset(self, n):
            self.n = n

        def act(self, observation, is_first):
            begun.append(is_first.copy())
            return -np.ones((self.n, 3), np.float32)

    with Workers("hopper", 3, processes=0) as workers:
        some_steps(workers, lambda text: None, Falls(), registry.nominal("hopper"), 12)
        assert workers.steps == 36
    assert begun[0].all() and np.sum(begun[1:]) >= 3


def logs_of(worlds: list[dict[str, float]]) -> Any:
    return SimpleNamespace(episodes=[{"info": {}, "physics": world} for world in worlds])


def test_inside_the_logs_is_what_the_logs_were_recorded_in():
    nominal, usual = registry.nominal("push-box"), registry.log_ranges("push-box")
    rng = np.random.default_rng(0)
    as_usual = logs_of([sample(usual, nominal, rng).to_dict() for _ in range(200)])
    assert list(as_logged(as_usual, "push-box").items()) == list(usual.items())
    narrow: PhysicsRange = {"box_mass_kg": 0.6, "floor_friction": (0.5, 0.52)}
    ranges = as_logged(logs_of([sample(narrow, nominal, rng).to_dict() for _ in range(20)]), "push-box")
    selector = Selector("push-box", [], nominal, ranges, 8, (0.0, 40.0))
    for _, _, world in selector.cells:
        assert 0.5 <= world.floor_friction <= 0.52 and world.box_mass_kg == 0.6
        assert world.payload_kg == nominal.payload_kg
