"""Numbers worked by hand: the bound, who stays below it, and which recordings set it."""

import numpy as np
import pytest
import torch
from toy_logs import named_after_origin, write_log

from configs import UserError
from worldmodel import audited
from worldmodel.calibration import Windows
from worldmodel.context import ContextSpec
from worldmodel.replay import Replay

H = 3


def parts(folder, learnt: int, held_out: int) -> tuple[Replay, Replay]:
    episodes = learnt + held_out
    reader = write_log(folder, named_after_origin([5] * episodes, [False] * episodes))
    context = ContextSpec((), (), ())
    return Replay(reader, context, range(learnt)), Replay(reader, context, range(learnt, episodes))


def windows(error: np.ndarray, lived: np.ndarray | None = None) -> Windows:
    lived = np.ones(error.shape, bool) if lived is None else lived
    return Windows(error, torch.ones(error.shape), lived, np.arange(len(error)))


@pytest.fixture
def rolls(monkeypatch) -> dict:
    """What each seed's rollouts are to be; and of which episodes they were asked."""
    rolls = {}

    def rolled(model, replay, windows, seed):
        rolls[f"asked {seed}"] = replay.episodes.tolist()
        return rolls[seed]

    monkeypatch.setattr(audited, "rolled", rolled)
    return rolls


def test_the_bound_is_the_ninth_of_nine_and_each_rollout_is_below_it_or_not(tmp_path, rolls):
    error = np.arange(1.0, 10.0)[:, None] * np.array([0.1, 1.0, 10.0])
    lived = np.ones((9, H), bool)
    lived[0, 2] = False  # eight cannot show 90%
    rolls[0] = windows(error, lived)
    held = np.array([[0.9, 9.1, 0.0], [0.1, 9.0, 0.0], [0.95, np.nan, 0.0], [9.0, 9.9, 0.0]])
    rolls[1] = windows(held, np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0]], bool))
    found = audited.audit(None, *parts(tmp_path, 9, 1))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.bound, [0.9, 9.0, np.inf])
    np.testing.assert_allclose(found.held, [2 / 4, 1 / 3, 1])
    first, second = found.lines([1, 2, 3, 50])
    assert first == "audit: after 1 / 2 steps 50% / 33% of 4 rollouts stayed below the bound; 90% should"
    assert "bound 0.90 / 9.00 standard deviations, set on the training recordings" in second


@pytest.mark.parametrize(("held_out", "setting"), [(17, range(12)), (18, range(12, 30, 2))])
def test_who_sets_the_bound_does_not_audit_it(tmp_path, rolls, held_out, setting):
    rolls[0] = rolls[1] = windows(np.ones((9, H)))
    found = audited.audit(None, *parts(tmp_path, 12, held_out))  # pyright: ignore[reportArgumentType]
    assert rolls["asked 0"] == list(setting) and not set(rolls["asked 0"]) & set(rolls["asked 1"])
    assert found.held_out_bound == (held_out == 18) and found.recordings == len(rolls["asked 1"])


def test_too_few_recordings_are_said_to_be(tmp_path):
    with pytest.raises(UserError, match="needs 9 recordings to set a bound on, there are 8"):
        audited.audit(None, *parts(tmp_path, 8, 2))  # pyright: ignore[reportArgumentType]
