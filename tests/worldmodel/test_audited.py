"""Numbers worked by hand: which rollouts stay within their bounds, and which recordings set them."""

import math

import numpy as np
import pytest
import torch
from toy_logs import named_after_origin, write_log

from configs import UserError
from worldmodel import audited
from worldmodel.calibration import HORIZON, Calibration, Windows
from worldmodel.context import ContextSpec
from worldmodel.replay import Replay

FOUND = Windows(np.full((4, HORIZON), 0.1), torch.ones(4, HORIZON), np.ones((4, HORIZON), bool), np.arange(4))
BOUND_OF_A_FIFTH = Calibration(0.9, 0.5, HORIZON, (0.0, 0.0, 0.0, 0.0, math.log(0.1)), 2.0, 1.0, 9)


@pytest.fixture
def asked(monkeypatch) -> dict:
    """A model whose bound is 0.2 at every step; what was asked of which episodes."""
    asked = {}

    def calibrate(model, replay, setting, *_):
        asked["setting"] = setting.episodes.tolist()
        return BOUND_OF_A_FIFTH

    def rolled(model, judging, windows, seed):
        asked["judging"] = judging.episodes.tolist()
        return asked["found"]

    monkeypatch.setattr(audited, "calibrate", calibrate)
    monkeypatch.setattr(audited, "rolled", rolled)
    return asked


def parts(tmp_path, held_out: int) -> tuple[Replay, Replay]:
    reader = write_log(tmp_path, named_after_origin([5] * (held_out + 12), [False] * (held_out + 12)))
    context = ContextSpec((), (), ())
    return Replay(reader, context, range(12)), Replay(reader, context, range(12, 12 + held_out))


def test_a_rollout_that_leaves_its_bound_while_it_is_trusted_counts(tmp_path, asked):
    error, lived = FOUND.error.copy(), FOUND.lived.copy()
    error[1, 7] = 0.3
    error[2, 30:], lived[2, 30:] = 0.3, False  # the recording had ended
    error[3, 2] = np.nan
    asked["found"] = FOUND._replace(error=error, lived=lived)
    found = audited.audit(None, *parts(tmp_path, 2))  # pyright: ignore[reportArgumentType]
    assert (found.held, found.trusted, found.rollouts, found.recordings) == (0.5, HORIZON, 4, 2)
    assert "50% of 4 rollouts stayed within what they stated, 90% should" in found.lines(20.0)[1]


@pytest.mark.parametrize(("held_out", "setting"), [(17, range(12)), (18, range(12, 30, 2))])
def test_who_sets_the_bounds_does_not_audit_them(tmp_path, asked, held_out, setting):
    asked["found"] = FOUND
    found = audited.audit(None, *parts(tmp_path, held_out))  # pyright: ignore[reportArgumentType]
    assert asked["setting"] == list(setting) and not set(asked["setting"]) & set(asked["judging"])
    assert found.held == 1 and found.held_out_level == (held_out == 18)


def test_too_few_recordings_are_said_to_be(tmp_path):
    reader = write_log(tmp_path, named_after_origin([5] * 4, [False] * 4))
    few, one = (Replay(reader, ContextSpec((), (), ()), which) for which in (range(3), [3]))
    model = type("Model", (), {"ensemble": object()})()
    with pytest.raises(UserError, match="3 held-out episodes cannot show"):
        audited.audit(model, few, one)  # pyright: ignore[reportArgumentType]
