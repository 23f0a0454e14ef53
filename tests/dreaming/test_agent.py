import numpy as np
import pytest
import torch

from dreaming.agent import Actor, ActorConfig, Agent, View
from worldmodel.context import ContextSpec
from worldmodel.device import CPU, seeded
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.rssm import RSSMConfig

CONTEXT = ContextSpec(("floor_friction",), (0.5,), (0.25,))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)
VIEWS: list[View] = ["blind", "estimate"]


def agent_of(view: View, seed: int = 0, image: bool = False) -> Agent:
    torch.manual_seed(0)
    model = WorldModel(DEBUG, Spaces(vector=3, action=2, image=image), CONTEXT).eval()
    return Agent(model, Actor(ActorConfig(units=16, layers=1), model, view).eval(), seed)


def drive(agent: Agent, steps: int = 6, machines: int = 3) -> np.ndarray:
    rng = np.random.default_rng(5)
    agent.reset(machines)
    commands = []
    for t in range(steps):
        observation = {"vector": rng.normal(size=(machines, 3)).astype(np.float32)}
        commands.append(agent.act(observation, np.full(machines, t == 0)))
    return np.stack(commands)


@pytest.mark.parametrize("view", VIEWS)
def test_acting_is_repeatable_whatever_the_global_random_stream(view):
    agent = agent_of(view)
    first = drive(agent)
    torch.manual_seed(99)
    assert np.array_equal(drive(agent), first)
    assert first.shape == (6, 3, 2) and np.abs(first).max() <= 1


@pytest.mark.parametrize("view", VIEWS)
def test_acting_draws_nothing_from_the_global_stream(view):
    agent = agent_of(view)
    before = torch.get_rng_state()
    drive(agent)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_what_a_belief_draws():
    assert not np.array_equal(drive(agent_of("estimate", seed=0)), drive(agent_of("estimate", seed=1)))


def test_it_takes_the_mode_of_the_actor_s_choice():
    agent = agent_of("blind")
    agent.reset(5)
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with torch.no_grad():
        choice = agent.actor(agent.model.scale(torch.as_tensor(seen)), torch.zeros(5, 1))
    rows = torch.arange(5)
    expected = choice.mean[rows, choice.log_weight.argmax(-1)].clamp(-1, 1)
    np.testing.assert_array_equal(agent.act({"vector": seen}, np.ones(5, bool)), expected.numpy())


def test_a_blind_agent_has_no_memory():
    agent = agent_of("blind")
    here = {"vector": np.ones((1, 3), np.float32)}
    agent.reset(1)
    fresh = agent.act(here, np.array([True]))
    agent.act({"vector": np.full((1, 3), -2.0, np.float32)}, np.array([False]))
    assert np.array_equal(agent.act(here, np.array([False])), fresh)


def test_a_blind_agent_needs_no_camera_though_its_world_model_does():
    assert np.isfinite(drive(agent_of("blind", image=True))).all()
    assert agent_of("estimate", image=True).sees_images and not agent_of("estimate").sees_images


def test_a_new_episode_forgets_the_one_before():
    agent = agent_of("estimate")
    here = {"vector": np.ones((1, 3), np.float32)}
    agent.reset(1)
    for _ in range(3):
        agent.act({"vector": np.full((1, 3), -2.0, np.float32)}, np.array([False]))
    random = seeded(7, CPU)
    agent.random = random
    again = agent.act(here, np.array([True]))
    agent.reset(1)
    agent.random = random
    np.testing.assert_allclose(agent.act(here, np.array([True])), again, atol=1e-6)
