import numpy as np
import pytest
import torch

from dreaming.agent import Actor, ActorConfig
from dreaming.imagined_failure import WINDOW, ImaginedFailure, held_out_starts, near_logs
from dreaming.rehearsal import rehearse, rehearse_at_once
from dreaming.scenario import Scenario
from dreaming.search import Axis, Space
from envs.physics import Physics
from worldmodel.context import ContextSpec
from worldmodel.episode import Episode
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader, LogWriter, make_schema

CONTEXT = ContextSpec(("floor_friction",), (0.5,), (0.25,))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)
SPACE = Space((Axis("floor_friction", 0.25, 1.0, (0.25, 0.75)),))
STEPS = 4


@pytest.fixture
def model() -> WorldModel:
    """The first channel moves by the scaled friction a step; half a unit of it costs the reward, a whole ends it."""
    torch.manual_seed(0)
    model = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT).eval().requires_grad_(False)
    moved = lambda before, inputs: torch.stack([before[..., 0] + inputs[..., 1], before[..., 1]], -1)  # noqa: E731
    model.expected = lambda latent, before, inputs, dreaming=False: (moved(before, inputs), before * 0 - 99)
    model.predict_reward = lambda belief: (belief.vector[..., 0] < 0.5).float()
    model.predict_continuation = lambda belief: (belief.vector[..., 0] < 3.5).float()
    return model


@pytest.fixture
def held_out(tmp_path) -> Replay:
    """Three episodes, of 3, 40 and 30 steps, whose second channel names the episode and the step."""
    with LogWriter(tmp_path, make_schema("toy", 10.0, ["x", "at"], ["motor"], [-1.0], [1.0], None)) as writer:
        for e, steps in enumerate((3, 40, 30)):
            vector = np.zeros((steps + 1, 2), np.float32)
            vector[:, 1] = 100 * e + np.arange(steps + 1)
            zeros = np.zeros(steps, np.float32)
            known = {"floor_friction": 0.5}
            writer.append(Episode({"vector": vector}, zeros[:, None], zeros[:, None], zeros, zeros, False, True, known))
    return Replay(LogReader(tmp_path), CONTEXT)


def failure_of(model, held_out) -> ImaginedFailure:
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    return ImaginedFailure(model, actor, held_out, Physics(), 10.0, starts=6, horizon=STEPS)


def test_worked_by_hand(model, held_out):
    # Friction 0.5 is 0 to the model: nothing moves, every step pays 1. At 0.625 the channel rises by half a unit a
    # step: none of the four pays. At 0.75 it rises by one, and the fourth step ends it. Below, nothing is missing.
    dreams = failure_of(model, held_out)
    assert dreams.usual == STEPS
    evaluate = dreams.over(SPACE, near_logs(SPACE, 0.2))
    failure, trusted = evaluate(np.array([[0.5], [0.25], [0.53], [0.625], [0.75], [1.0]]))
    # At 0.53 it stands at .12, .24, .36, .48 in turn.
    np.testing.assert_allclose(failure, [0, 0, 0, 1, 1, 1])
    assert trusted.tolist() == [True, True, True, True, True, False]
    (part,), _ = evaluate(np.array([[0.56]]))  # .24, .48, .72, .96: two of four
    assert part == pytest.approx(0.5)


def test_where_the_logs_worlds_cost_only_the_end_counts(model, held_out):
    model.predict_reward = lambda belief: -torch.ones(belief.vector.shape[:-1])
    dreams = failure_of(model, held_out)
    failure, _ = dreams.over(SPACE, near_logs(SPACE, 1.0))(np.array([[0.5], [0.625], [0.75]]))
    np.testing.assert_allclose(failure, [0, 0, 1])


def test_batches_do_not_change_what_is_found_and_draws_elsewhere_stay_as_they_were(model, held_out):
    points = np.linspace(0.3, 1.0, 7)[:, None]
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    state = torch.get_rng_state()
    one, another = (
        ImaginedFailure(model, actor, held_out, Physics(), 10.0, 6, STEPS, dreams).over(SPACE, near_logs(SPACE, 1.0))
        for dreams in (6, 600)
    )
    np.testing.assert_allclose(one(points).failure, another(points).failure)
    assert torch.equal(torch.get_rng_state(), state)


def test_starts_are_states_of_held_out_episodes_with_what_came_before(model, held_out):
    starts = held_out_starts(model, held_out, "blind", 200, False, np.random.default_rng(0))
    np.testing.assert_allclose(starts.vector[:, 1], 100 * starts.episode + starts.step)
    assert set(starts.episode.tolist()) == {0, 1, 2}
    assert (starts.step.numpy() < held_out.length[starts.episode.numpy()]).all()  # none at an episode's end
    assert starts.step.min() == 0 and starts.step.max() > WINDOW
    begun = held_out_starts(model, held_out, "blind", 20, True, np.random.default_rng(0))
    assert begun.step.eq(0).all() and not begun.recent.any()
    np.testing.assert_allclose(begun.vector[:, 1], 100 * begun.episode)


def test_episodes_that_fit_are_dreamt_whole(model, held_out):
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    steps = lambda horizon: ImaginedFailure(model, actor, held_out, Physics(), 10.0, 8, horizon).starts.step  # noqa: E731
    assert steps(40).eq(0).all() and steps(39).gt(0).any()


def test_whoever_is_asked_acts_by_the_mode(model, held_out):
    """Nothing is explored, and what was rehearsed is what the actor's likeliest component means."""
    actor, explored = Actor(ActorConfig(units=16, layers=1), model, "blind"), []
    actor.register_forward_pre_hook(lambda _, __, named: explored.append(named["explore"]), with_kwargs=True)
    ImaginedFailure(model, actor, held_out, Physics(), 10.0, starts=6, horizon=STEPS)
    slippery = Scenario("slippery", "", {"default": {"floor_friction": (0.3, 0.4)}})
    given = ("toy", slippery, Physics(), 10.0, 3, STEPS, 0)
    dreams = [*rehearse_at_once(model, actor, held_out, *given), *rehearse(model, actor, "blind", held_out, *given)]
    assert explored and not any(explored)
    for dream in dreams:
        with torch.no_grad():
            choice = actor(model.scale(torch.as_tensor(dream.observation[:-1])), torch.zeros(STEPS, 1), explore=False)
        likeliest = choice.mean[torch.arange(STEPS), choice.log_weight.argmax(-1)]
        np.testing.assert_allclose(dream.action, likeliest.clamp(-1, 1).numpy(), atol=1e-5)


def test_dreams_rehearsed_at_once_begin_in_the_logs_and_follow_the_scenario(model, held_out):
    actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
    slippery = Scenario("slippery", "", {"default": {"floor_friction": (0.6, 0.7)}})

    def rehearsed(seed):
        return rehearse_at_once(model, actor, held_out, "toy", slippery, Physics(), 10.0, 6, STEPS, seed)

    dreams = rehearsed(1)
    assert len({dream.physics["floor_friction"] for dream in dreams}) == 6
    for dream in dreams:
        np.testing.assert_allclose(dream.observation[0], [0.0, 100 * dream.episode + dream.step])
        risen = (dream.physics["floor_friction"] - 0.5) / 0.25
        np.testing.assert_allclose(dream.observation[:, 0], risen * np.arange(STEPS + 1), rtol=1e-4)
        assert dream.horizon == STEPS and np.abs(dream.action).max() <= 1 and dream.scenario == "slippery"
        assert dream.trust_horizon is None  # of a model that states none
    assert [d.step for d in rehearsed(1)] == [d.step for d in dreams] != [d.step for d in rehearsed(2)]
    assert (rehearsed(1)[3].action == dreams[3].action).all()


def test_what_is_usual_follows_the_policy(model, held_out):
    dreams = failure_of(model, held_out)
    model.predict_reward = lambda belief: torch.full(belief.vector.shape[:-1], 2.0)
    dreams.renew()
    assert dreams.usual == 2 * STEPS
