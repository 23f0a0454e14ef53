"""The dream phase; whole nights with it are in test_night.py."""

from contextlib import nullcontext
from types import SimpleNamespace

from dreaming.clock import Budget, Share
from dreaming.dreamphase import DreamPhase
from dreaming.run import BEST, LATEST, Progress
from dreaming.scenario import Scenario
from dreaming.selection import Score


def ended(skipped: int) -> Progress:
    """A phase's end, after so many updates that were not finite."""
    dreamer = SimpleNamespace(
        updates=30, imagined_steps=900, learner=SimpleNamespace(step=SimpleNamespace(skipped=skipped)),
        dream=lambda spent: {"imagined_return": 0.0},
    )  # fmt: skip
    night = SimpleNamespace(
        state=Progress(), searches=False, dreamer=dreamer, trainer=None, coverable=list, simulated=False,
        save_policy=lambda name: None, tick=lambda *_: None, metrics=lambda *_: None,
    )  # fmt: skip
    phase = DreamPhase(night, Budget(0.0, [Share("dream", 1.0)]).phase("dream"))  # pyright: ignore[reportArgumentType]
    phase._begin = lambda: None
    phase.run()
    return night.state


def test_updates_that_were_not_finite_are_told_in_the_report():
    assert ended(0).warnings == []
    assert ended(7).warnings == ["7 updates of the policy were skipped, as a loss or a gradient was not finite"]


def test_what_was_dreamt_is_counted():
    assert (ended(0).updates, ended(0).imagined_steps) == (30, 900)


def test_a_night_may_do_without_trials_and_audits_and_then_keeps_the_last_policy():
    clock = iter(range(100))
    dreamer = SimpleNamespace(
        updates=0, imagined_steps=0, learner=SimpleNamespace(step=SimpleNamespace(skipped=0)),
        dream=lambda spent: {"imagined_return": 0.0},
    )  # fmt: skip
    saved: list[str] = []
    night = SimpleNamespace(
        state=Progress(), searches=False, dreamer=dreamer, trainer=None, simulated=True, save_policy=saved.append,
        coverable=lambda: [Scenario("slippery", "", {"default": {"floor_friction": 0.1}})],
        config=SimpleNamespace(select=False, gate=False), workers=lambda n: nullcontext(),
        tick=lambda *_: None, metrics=lambda *_: None,
        budget=Budget(10.0, [Share("dream", 1.0)], now=lambda: float(next(clock))),
    )  # fmt: skip
    phase = DreamPhase(night, night.budget.phase("dream"))  # pyright: ignore[reportArgumentType]
    phase._begin = lambda: None
    phase.run()
    assert saved == [LATEST, BEST]
    assert not night.state.simulator_steps and not night.state.refused and not night.state.selection


def test_of_policies_that_fail_as_seldom_the_one_that_earns_more_is_kept():
    kept = []
    night = SimpleNamespace(
        state=Progress(), searches=False, dreamer=SimpleNamespace(agent=lambda: None, updates=0), trainer=None,
        simulated=True, save_policy=kept.append, coverable=list, earlier_s=0.0, metrics=lambda *_, **__: None,
        run=SimpleNamespace(save_progress=lambda state: None), budget=Budget(10.0, [Share("dream", 1.0)]),
    )  # fmt: skip
    phase = DreamPhase(night, night.budget.phase("dream"))  # pyright: ignore[reportArgumentType]
    phase._workers = SimpleNamespace(steps=0)  # pyright: ignore[reportAttributeAccessIssue]
    scores = [Score(1.0, {"ice": 0.5}, 10.0), Score(1.0, {"ice": 0.5}, 9.0), Score(0.5, {"ice": 1.0}, 12.0)]
    for score, count in zip([*scores, Score(1.0, {"ice": 0.6}, 1.0)], (1, 1, 2, 3), strict=True):
        phase.selector = SimpleNamespace(score=lambda *_, score=score: score)  # pyright: ignore[reportAttributeAccessIssue]
        assert phase._select() == score.rank
        assert len(kept) == count
