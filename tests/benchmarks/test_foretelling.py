"""Moments to foretell from, and the rivals that foretell: laws, and a motion that each of them has to learn."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__)
sys.path += [str(HERE.parents[2] / "benchmarks"), str(HERE.parents[1] / "worldmodel")]

from foretelling.moments import PAST, Moments  # noqa: E402
from foretelling.rivals import Ensemble, Persistence, Recurrent  # noqa: E402
from foretelling.world_models import Ours, Published  # noqa: E402
from toy_logs import named_after_origin, sliding_mass, write_log  # noqa: E402

from dreaming.truth import from_log  # noqa: E402
from worldmodel.context import ContextSpec  # noqa: E402
from worldmodel.replay import Replay  # noqa: E402


@pytest.fixture
def moments(tmp_path):
    reader = write_log(tmp_path, named_after_origin([3, 60, 31], [True, False, False]), bounds=(0.0, 400.0))
    context = ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0))
    return Moments(Replay(reader, context), 90, 10, seed=0)


def test_a_moments_past_and_future_are_its_episodes(moments):
    vector = moments.batch.vector[..., 0].numpy()  # 100 e + t
    for row, position, step, steps in zip(vector, moments.position, moments.step, moments.steps, strict=True):
        length = [3, 60, 31][position]
        at = np.clip(step + np.arange(1 - PAST, 11), 0, length)
        assert np.array_equal(row, 100 * position + at)
        assert steps == min(10, length - step) > 0


def test_before_an_episode_nothing_is_remembered(moments):
    early = int(np.argmin(moments.step))
    first = PAST - 1 - moments.step[early]
    assert moments.batch.is_first[early, : first + 1].all()
    assert not moments.batch.is_first[early, first + 1 : PAST].any()


def test_truths_are_what_the_log_shows(moments):
    still = Persistence().foretell(moments.batch)
    for i, dream in enumerate(moments.dreams(still, "logged")):
        truth = from_log(dream, moments.replay.reader)
        assert truth.steps == moments.steps[i]
        shown = moments.batch.vector[i, PAST : PAST + truth.steps].numpy()
        assert np.array_equal(truth.lived[1:], shown)
        assert np.array_equal(truth.observation[0], dream.observation[0])


def test_nothing_nominal_and_the_truth_are_told(moments):
    assert not moments.told("nothing", {}).known.any()
    assert not moments.told("nothing", {}).labelled.any()
    nominal = moments.told("nominal", {"floor_friction": 0.3})
    assert torch.allclose(nominal.context, torch.ones_like(nominal.context))
    assert moments.told("the truth", {}) is moments.batch


@pytest.mark.parametrize(("rival", "updates"), [(Ensemble, 150), (Recurrent, 150)])
def test_rivals_learn_how_a_mass_slides(tmp_path, monkeypatch, rival, updates):
    monkeypatch.setattr(rival, "units", 32)
    monkeypatch.setattr(rival, "rate", 4e-3)
    torch.manual_seed(0)
    reader = write_log(tmp_path, sliding_mass(40, 40))
    base = Ours(reader, 0)
    foreteller, moments = rival(base.trainer), Moments(base.trainer.held_out, 50, 10, seed=0)

    def error(foretold) -> float:
        off = (foretold.vector - moments.batch.vector[:, PAST:]) / base.model.std
        return float(off.square().mean(-1).sqrt().median())

    for i in range(updates):
        foreteller.update(i / updates)
    assert error(foreteller.foretell(moments.batch)) < 0.7 * error(Persistence().foretell(moments.batch))


def test_published_sees_logs_as_they_are(tmp_path):
    published = Published(write_log(tmp_path, sliding_mass(4, 12)), 0)
    vector = torch.tensor([[3.0, -2.0]])
    assert torch.equal(published.model.scale(vector), vector)
    published.update(0.0)
    moments = Moments(published.trainer.held_out, 5, 6, seed=0)
    foretold = published.foretell(moments.batch)
    assert foretold.vector.shape == (5, 6, 2)
    assert all(part.isfinite().all() for part in foretold)
