import numpy as np
import pytest
import torch
from played import Played

from configs import UserError
from dreaming.agent import Actor, ActorConfig
from dreaming.imagination import MAX_LATENCY, DreamPhysics, Starts, effective_action, imagine, starts_from
from dreaming.learning import dream_physics
from envs.physics import Physics
from worldmodel.context import PUSH, ContextSpec
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig

CONTEXT = ContextSpec(("floor_friction", PUSH), (0.5, 0.0), (0.25, 0.4))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT).eval().requires_grad_(False)


def starts_of(model: WorldModel, n: int) -> Starts:
    vector = torch.arange(2.0 * n).reshape(n, 2) / 10
    belief = model.initial(n)._replace(vector=model.scale(vector))
    index = torch.arange(n)
    return Starts(belief, belief, vector, torch.zeros(n, MAX_LATENCY, 1), index, index)


def physics_of(model: WorldModel, *worlds: Physics, horizon: int = 6) -> DreamPhysics:
    return dream_physics(model, worlds, np.zeros(len(worlds), int), horizon, control_hz=10.0)


def blind(model: WorldModel) -> Actor:
    return Actor(ActorConfig(units=16, layers=1), model, "blind")


@pytest.mark.parametrize("latency", range(MAX_LATENCY))
def test_a_command_takes_effect_exactly_so_many_steps_later(model, monkeypatch, latency):
    reached = []
    given = model.action_input

    def spy(action, context, known):
        reached.append(action.clone())
        return given(action, context, known)

    monkeypatch.setattr(model, "action_input", spy)
    commands = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).reshape(1, 6, 1)
    starts = starts_of(model, 1)
    starts.recent = torch.tensor([-0.4, -0.3, -0.2, -0.1]).reshape(1, 4, 1)
    physics = physics_of(model, Physics(latency_steps=latency, motor_strength=0.5))
    imagine(model, Played(commands), starts, physics, 6)
    sent = [-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    due = torch.tensor(sent[4 - latency : 10 - latency]) / 2
    torch.testing.assert_close(torch.cat(reached).flatten(), due)


def test_each_dream_has_its_own_latency_and_strength(model):
    commands = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).expand(3, 4, 1)
    worlds = [Physics(), Physics(latency_steps=1, motor_strength=0.5), Physics(latency_steps=3, motor_strength=2.0)]
    effective = effective_action(commands, physics_of(model, *worlds))
    torch.testing.assert_close(effective.flatten(), torch.tensor([4.0, 1.5, 2.0]))


def test_commands_beyond_the_bounds_are_clipped_on_their_way(model):
    def last(size: float) -> torch.Tensor:
        torch.manual_seed(1)
        commands = torch.full((1, 3, 1), size)
        return imagine(model, Played(commands), starts_of(model, 1), physics_of(model, Physics()), 3).observation

    torch.testing.assert_close(last(5.0), last(1.0))


def test_dreams_begin_at_the_logged_observation(model):
    starts = starts_of(model, 3)
    physics = physics_of(model, *[Physics(sensor_noise=0.5)] * 3, horizon=4)
    rollout = imagine(model, blind(model), starts, physics, 4)
    assert torch.equal(rollout.observation[:, 0], starts.vector)
    assert torch.equal(rollout.seen[:, 0], starts.vector)
    assert rollout.observation.shape == (3, 5, 2) and rollout.reward.shape == rollout.continuation.shape == (3, 4)
    assert (rollout.seen[:, 1:] != rollout.observation[:, 1:]).all()  # the agent's sensors are noisy, the dream is not


def test_physics_enters_as_value_and_known(model):
    physics = physics_of(model, Physics(floor_friction=0.75), Physics(floor_friction=0.05))
    torch.testing.assert_close(physics.context[:, 0], torch.tensor([1.0, -1.8]))
    assert physics.known.tolist() == [[1, 1], [1, 1]]
    physics.known[:, 0] = 0
    hidden = model.action_input(torch.zeros(2, 1), physics.context, physics.known)
    assert torch.equal(hidden[0], hidden[1])  # what is unknown is not told either


def test_a_push_enters_in_the_step_of_the_simulators_clock(model):
    # 10 Hz: pushed in steps 5, 8, 11, ...; the dreams begin at steps 4, 6 and 8.
    pushed = Physics(push_m_s=0.2, push_start_s=0.5, push_every_s=0.3)
    physics = dream_physics(model, [pushed, pushed, pushed, Physics()], np.array([4, 6, 8, 4]), 5, 10.0)
    assert physics.push_column == 1
    expected = [[0, 0.5, 0, 0, 0.5], [0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(physics.push, torch.tensor(expected))


def test_the_model_is_told_each_steps_own_push(model, monkeypatch):
    told = []
    given = model.action_input

    def spy(action, context, known):
        told.append(context[0, 1].item())
        return given(action, context, known)

    monkeypatch.setattr(model, "action_input", spy)
    physics = physics_of(model, Physics(push_m_s=0.4, push_start_s=0.2), horizon=5)
    imagine(model, blind(model), starts_of(model, 1), physics, 5)
    assert told == [0, 0, 1, 0, 0]
    assert physics.context[0, 1] == 0  # the caller's own stays as it was


def test_starts_hold_the_commands_of_their_own_episode_only(model, toy_log):
    reader = toy_log
    batch = Replay(reader, CONTEXT).gather(np.arange(14)[None])  # episodes of 5 and 7 steps, end to end
    starts = starts_from(model.observe, batch, "blind")
    recent = starts.recent[..., 0].numpy()
    for row, (episode, step) in enumerate(zip(starts.episode.tolist(), starts.step.tolist(), strict=True)):
        # The step that led to row t was commanded 100 e + t - 1 and a quarter, in thousandths.
        before = [(100 * episode + at + 0.25) / 1000 if at >= 0 else 0.0 for at in range(step - 4, step)]
        np.testing.assert_allclose(recent[row], before, rtol=1e-5, err_msg=f"episode {episode}, step {step}")
        np.testing.assert_array_equal(starts.vector[row, 0], 100 * episode + step)


@pytest.fixture
def toy_log(tmp_path):
    from worldmodel.episode import Episode
    from worldmodel.storage import LogReader, LogWriter, make_schema

    folder = tmp_path / "log"
    schema = make_schema("toy", 10.0, ["x", "y"], ["motor"], [-1000.0], [1000.0], None)
    with LogWriter(folder, schema) as writer:
        for e, length in enumerate((5, 7)):
            rows = 100.0 * e + np.arange(length + 1, dtype=np.float32)
            steps = rows[:-1]
            action = np.stack([steps + 0.25], 1)
            writer.append(
                Episode({"vector": np.stack([rows, -rows], 1)}, action, action, steps, 0 * steps, False, True, {})
            )
    return LogReader(folder)


def test_the_same_seed_dreams_the_same(model):
    def once() -> torch.Tensor:
        torch.manual_seed(3)
        return imagine(
            model, actor, starts_of(model, 2), physics_of(model, Physics(), Physics()), 4, explore=True
        ).observation

    actor = blind(model)
    assert torch.equal(once(), once())


def test_a_latency_beyond_what_is_kept_is_refused(model):
    with pytest.raises(UserError, match="latency of 4 steps"):
        physics_of(model, Physics(latency_steps=4))
