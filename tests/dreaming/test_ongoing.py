"""Dreams that go on where they ended."""

import numpy as np
import pytest
import torch
from played import Played
from test_actor_critic import CONTEXT, DEBUG, SMALL, some_logs

from dreaming.actor_critic import ActorCriticConfig
from dreaming.imagination import imagine
from dreaming.learning import DreamConfig, DreamLearner, dream_physics
from dreaming.ongoing import Dreams, Ended, going_on
from dreaming.scenario import load_scenarios
from envs.physics import Physics
from envs.worlds import Worlds
from worldmodel.model import Spaces, WorldModel

HZ = 20.0


@pytest.fixture
def learner(tmp_path) -> DreamLearner:
    torch.manual_seed(0)
    model = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT)
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    with torch.no_grad():
        model.transition.head.out.weight.normal_(0, 0.1)
        model.continuation.out.bias.fill_(9.0)  # nobody falls
    settings = DreamConfig(ActorCriticConfig(SMALL.actor, 16, 1), horizon=4, dreams=16, batch=2, length=8, longest=12)
    floor = load_scenarios("ice-patch", "push-box")[0]
    return DreamLearner(model, replay, "push-box", Physics(), [floor], HZ, settings)


def dreamt(learner: DreamLearner, dreams: Dreams, steps: int, commands: torch.Tensor):
    physics = dream_physics(learner.model, dreams.physics, dreams.starts.step.numpy(), steps, HZ)
    with torch.no_grad():
        return imagine(learner.model, Played(commands), dreams.starts, physics, steps)


def test_two_halves_are_the_whole_dream(learner):
    """Late commands, pushes and beliefs are all carried over."""
    dreams = learner._begun()
    late = Physics(latency_steps=2, floor_friction=0.2, push_m_s=0.3, push_start_s=0.1, push_every_s=0.25)
    dreams = Dreams(dreams.starts, Worlds.of([late] * len(dreams)), dreams.names, dreams.age)
    commands = torch.linspace(-1, 1, 6).reshape(1, 6, 1).expand(len(dreams), -1, -1)
    torch.manual_seed(1)
    whole = dreamt(learner, dreams, 6, commands)
    torch.manual_seed(1)
    first = dreamt(learner, dreams, 3, commands[:, :3])
    second = dreamt(learner, Dreams(first.end, dreams.physics, dreams.names, dreams.age), 3, commands[:, 3:])
    torch.testing.assert_close(torch.cat([first.observation, second.observation[:, 1:]], 1), whole.observation)


def test_those_that_fell_or_are_too_old_do_not_go_on(learner):
    dreams = learner._begun()
    dreams.age[:] = [0, 4, 8, 12] * 4
    rollout = dreamt(learner, dreams, 4, torch.zeros(16, 4, 1))
    rollout.continuation[:] = 1.0
    rollout.continuation[:4, 2] = 0.4
    found = going_on(dreams, Ended.of(rollout), 16, 12, np.random.default_rng(0))
    # Of ages 0, 4, 8, 12 four steps later, another four lead beyond twelve unless they began at 0 or 4.
    assert sorted(found.age.tolist()) == [4, 4, 4, 8, 8, 8]
    assert len(going_on(dreams, Ended.of(rollout), 5, 12, np.random.default_rng(0))) == 5


def test_a_learner_goes_on_with_half_of_its_dreams_in_their_own_worlds(learner):
    learner.dream(0.0)
    kept = learner.ongoing
    assert len(kept) == 8 and set(kept.age.tolist()) == {4}
    begun = learner._begun()
    assert len(begun) == 16
    assert begun.physics[:8] == kept.physics and begun.names[:8].tolist() == kept.names.tolist()
    assert begun.age.tolist() == [4] * 8 + [0] * 8
    torch.testing.assert_close(begun.starts.vector[:8], kept.starts.vector)


def test_they_are_saved_with_the_learner(learner, tmp_path):
    learner.dream(0.0)
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    other = DreamLearner(
        learner.model, learner.replay, "push-box", Physics(), learner.scenarios, HZ, learner.config, seed=9
    )
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for one in (learner, other):
        torch.manual_seed(3)
        one.figures = one.dream(0.5)
    assert learner.figures == other.figures
    assert other.ongoing.physics == learner.ongoing.physics
