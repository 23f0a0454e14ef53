"""Dreams that are to be audited: what becomes of a small mistake at their start."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_actor_critic import CONTEXT, DEBUG, SMALL, some_logs

from dreaming.actor_critic import ActorCritic
from dreaming.rehearsal import rehearse
from dreaming.scenario import load_scenarios
from dreaming.truth import Dream
from envs.physics import Physics
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay


@pytest.fixture
def replay(tmp_path) -> Replay:
    return some_logs(tmp_path)


def model_of(config: ModelConfig, replay: Replay) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(config, Spaces(vector=2, action=1), CONTEXT)
    model.set_statistics(replay.statistics())
    return model.eval().requires_grad_(False)


@pytest.fixture
def model(replay) -> WorldModel:
    return model_of(DEBUG, replay)


def dreams(model: WorldModel, replay: Replay, kick: float) -> list[Dream]:
    torch.manual_seed(1)
    actor = ActorCritic(SMALL, model, "blind").actor
    scenario = load_scenarios("slippery", "push-box")[0]
    return rehearse(model, actor, "blind", replay, "push-box", scenario, Physics(), 20.0, 3, 5, seed=0, kick=kick)


def strayed(dream: Dream) -> np.ndarray:
    assert dream.strayed is not None
    return dream.strayed


def test_to_ask_changes_no_dream(model, replay):
    for asked, plain in zip(dreams(model, replay, 0.5), dreams(model, replay, 0.0), strict=True):
        for name in ("action", "observation", "reward", "continuation"):
            assert np.array_equal(getattr(asked, name), getattr(plain, name)), name
        assert plain.strayed is None and strayed(asked).shape == (5,) and (strayed(asked) > 0).all()


def test_a_world_that_doubles_every_distance_doubles_mistakes(model, replay, monkeypatch):
    monkeypatch.setattr(model, "expected", lambda latent, before, inputs, dreaming: (2 * before, 0 * before))
    some, twice = dreams(model, replay, 0.01), dreams(model, replay, 0.02)
    for one, other in zip(some, twice, strict=True):
        np.testing.assert_allclose(strayed(one)[1:] / strayed(one)[:-1], 2.0, rtol=1e-3)
        np.testing.assert_allclose(strayed(other), 2 * strayed(one), rtol=1e-3)
    kicks = np.concatenate([strayed(dream)[:1] for dream in some])
    assert 0.002 < kicks.mean() < 0.08  # twice the kick, after a step


def test_what_carries_no_observation_has_nothing_to_kick(replay):
    model = model_of(replace(DEBUG, carry=False), replay)
    assert all(dream.strayed is None for dream in dreams(model, replay, 0.01))
