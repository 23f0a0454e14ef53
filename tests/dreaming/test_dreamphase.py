"""The dream phase; whole nights with it are in test_night.py."""

from types import SimpleNamespace

from dreaming.dreamphase import DreamPhase
from dreaming.run import Progress


def ended(skipped: int) -> Progress:
    """A phase's end, after so many updates that were not finite."""
    dreamer = SimpleNamespace(
        updates=30, imagined_steps=900, learner=SimpleNamespace(step=SimpleNamespace(skipped=skipped))
    )
    night = SimpleNamespace(
        state=Progress(), dreamer=dreamer, trainer=None, coverable=list, simulated=False, save_policy=lambda name: None
    )
    phase = DreamPhase(night, SimpleNamespace(left=lambda: 0.0))  # pyright: ignore[reportArgumentType]
    phase._begin = lambda: None
    phase.run()
    return night.state


def test_updates_that_were_not_finite_are_told_in_the_report():
    assert ended(0).warnings == []
    assert ended(7).warnings == ["7 updates of the policy were skipped, as a loss or a gradient was not finite"]


def test_what_was_dreamt_is_counted():
    assert (ended(0).updates, ended(0).imagined_steps) == (30, 900)
