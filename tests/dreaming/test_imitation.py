from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreaming.agent import Actor, ActorConfig
from dreaming.imitation import good_episodes, imitation_loss
from worldmodel.context import ContextSpec
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.optim import LaProp, SafeStep
from worldmodel.rssm import RSSMConfig

DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(DEBUG, Spaces(vector=2, action=1), ContextSpec((), (), ())).eval()


def batch_of(demonstrated: torch.Tensor, is_last: torch.Tensor) -> SimpleNamespace:
    """Only what the loss looks at: commands (B, T, 1) for an observation that is always the same."""
    return SimpleNamespace(vector=torch.zeros(*is_last.shape, 2), demonstrated=demonstrated, is_last=is_last)


def test_two_right_answers_are_cloned_as_one_of_them_and_not_as_their_mean(model):
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    step = SafeStep(LaProp(actor.parameters(), 3e-3, warmup=20))
    seen = torch.zeros(4, 16, dtype=torch.bool)
    for _ in range(600):
        side = torch.where(torch.rand(4, 16, 1) < 0.5, -0.7, 0.7)  # around the box, left or right
        step(imitation_loss(model, actor, batch_of(side + 0.03 * torch.randn(4, 16, 1), seen), torch.zeros(4, 16, 0)))
    with torch.no_grad():
        choice = actor(model.scale(torch.zeros(2000, 2)), torch.zeros(2000, 0))
        assert abs(abs(choice.mode()[0].item()) - 0.7) < 0.1
        drawn = choice.sample().flatten()
    assert ((drawn.abs() - 0.7).abs() < 0.3).float().mean() > 0.95
    assert 0.3 < (drawn > 0).float().mean() < 0.7  # both are kept


def test_an_episodes_last_row_has_no_command_to_copy(model):
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    is_last = torch.tensor([[False, False, True]])
    commands = torch.tensor([0.1, 0.2, 0.9]).reshape(1, 3, 1)
    other = torch.tensor([0.1, 0.2, -0.9]).reshape(1, 3, 1)
    none = torch.zeros(1, 3, 0)
    assert torch.equal(
        imitation_loss(model, actor, batch_of(commands, is_last), none),
        imitation_loss(model, actor, batch_of(other, is_last), none),
    )


def test_good_episodes_are_the_best_first_and_accidents_last():
    # Episodes 0 to 4 of two rows each; their returns are 3, 9, 5, 100 (a fall) and 1.
    reward = np.array([1, 2, 4, 5, 2, 3, 50, 50, 0, 1], np.float32)
    replay = SimpleNamespace(
        reader=SimpleNamespace(rows={"reward": reward}, episodes=[{"info": {}} for _ in range(5)]),
        start=np.arange(0, 10, 2),
        length=np.full(5, 2),
        terminated=np.array([False, False, False, True, False]),
        episodes=np.arange(5),
    )
    assert good_episodes(replay, 1.0) == [1, 2, 0, 4, 3]
    assert good_episodes(replay, 0.4) == [1, 2]
    assert good_episodes(replay, 0.01) == [1]  # never none
    replay.reader.episodes[1]["info"]["wake"] = 0  # no demonstrator's
    assert good_episodes(replay, 1.0) == [2, 0, 4, 3]
    replay.episodes = np.array([4, 3])  # a training split
    assert good_episodes(replay, 1.0) == [4, 3]
