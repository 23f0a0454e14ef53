"""The dream phase; whole nights with it are in test_night.py, trials and audits in test_checks.py."""

from types import SimpleNamespace

from dreaming.clock import Budget, Share
from dreaming.dreamphase import DreamPhase
from dreaming.run import BEST, LATEST, Progress
from dreaming.scenario import Scenario


def ended(skipped: int) -> Progress:
    """A phase's end, after so many updates that were not finite."""
    dreamer = SimpleNamespace(
        updates=30, imagined_steps=900, learner=SimpleNamespace(step=SimpleNamespace(skipped=skipped)),
        begin=lambda enough: None, dream=lambda spent: {"imagined_return": 0.0},
    )  # fmt: skip
    night = SimpleNamespace(
        state=Progress(), searches=False, dreamer=dreamer, trainer=None, coverable=list, simulated=False,
        save_every_s=60.0, save_policy=lambda name, **_: None, tick=lambda *_: None, metrics=lambda *_: None,
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
        updates=0, imagined_steps=0, learner=SimpleNamespace(step=SimpleNamespace(skipped=0)), scenarios=[],
        begin=lambda enough: None, dream=lambda spent: {"imagined_return": 0.0},
    )  # fmt: skip
    saved: list[str] = []
    night = SimpleNamespace(
        save_every_s=60.0, state=Progress(), searches=False, dreamer=dreamer, trainer=None, simulated=True,
        save_policy=lambda name, **_: saved.append(name),
        coverable=lambda: [Scenario("slippery", "", {"default": {"floor_friction": 0.1}})],
        config=SimpleNamespace(select=False, gate=False),
        helper=lambda *_: SimpleNamespace(close=lambda: None, beside=False, workers=None),
        tick=lambda *_: None, metrics=lambda *_: None,
        budget=Budget(10.0, [Share("dream", 1.0)], now=lambda: float(next(clock))),
    )  # fmt: skip
    phase = DreamPhase(night, night.budget.phase("dream"))  # pyright: ignore[reportArgumentType]
    phase._begin = lambda: None
    phase.run()
    assert saved == [LATEST, BEST]
    assert not night.state.simulator_steps and not night.state.refused and not night.state.selection
