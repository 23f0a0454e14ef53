from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreaming.actor_critic import ActorCritic, ActorCriticConfig, ReturnScale, fixed, lambda_return
from dreaming.agent import ActorConfig, View
from dreaming.imagination import MAX_LATENCY, DreamPhysics, Rollout, Starts, imagine
from dreaming.learning import DreamConfig, DreamLearner
from dreaming.scenario import Scenario, load_scenarios
from envs.physics import Physics
from worldmodel.context import ContextSpec
from worldmodel.distributions import twohot_mean
from worldmodel.episode import Episode
from worldmodel.model import Belief, ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader, LogWriter, make_schema

CONTEXT = ContextSpec(("floor_friction",), (0.5,), (0.25,))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)
SMALL = ActorCriticConfig(actor=ActorConfig(units=16, layers=1), critic_units=16, critic_layers=1)

REWARD = torch.tensor([[1.0, 2.0, 3.0]])
VALUE = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
ON = torch.ones(1, 3)


def test_lambda_return_worked_by_hand():
    # Backwards: 3 + .5 * 40 = 23; 2 + .5 (.5 * 30 + .5 * 23) = 15.25; 1 + .5 (.5 * 20 + .5 * 15.25) = 9.8125.
    torch.testing.assert_close(lambda_return(REWARD, ON, VALUE, 0.5, 0.5), torch.tensor([[9.8125, 15.25, 23.0]]))


def test_lambda_0_looks_one_step_ahead():
    torch.testing.assert_close(lambda_return(REWARD, ON, VALUE, 0.5, 0.0), torch.tensor([[11.0, 17.0, 23.0]]))


def test_lambda_1_is_monte_carlo_with_the_last_value():
    # 3 + .5 * 40 = 23; 2 + .5 * 23 = 13.5; 1 + .5 * 13.5 = 7.75.
    torch.testing.assert_close(lambda_return(REWARD, ON, VALUE, 0.5, 1.0), torch.tensor([[7.75, 13.5, 23.0]]))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_nothing_counts_after_the_end(lam):
    ended = torch.tensor([[1.0, 0.0, 1.0]])
    returns = lambda_return(REWARD, ended, VALUE, 0.5, lam)
    assert returns[0, 1] == 2.0  # its own reward and no more
    later = lambda_return(REWARD * torch.tensor([[1, 1, 100.0]]), ended, VALUE, 0.5, lam)
    assert torch.equal(later[0, :2], returns[0, :2])


def test_the_return_scale_never_blows_small_returns_up():
    assert ReturnScale().update(torch.linspace(0, 0.1, 100)) == 1.0
    torch.testing.assert_close(ReturnScale().update(torch.linspace(0, 100, 1001)), torch.tensor(90.0))


def test_returns_that_are_not_finite_leave_the_scale_alone():
    scale = ReturnScale()
    scale.update(torch.linspace(0, 100, 1001))
    assert scale.update(torch.tensor([1.0, float("nan")])).isnan()
    torch.testing.assert_close(scale.high - scale.low, torch.tensor(90.0))


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT).eval().requires_grad_(False)


def one_step(model: WorldModel, action: torch.Tensor, reward: torch.Tensor) -> Rollout:
    n = len(action)
    start = model.initial(n)
    world = Belief(*(part.unsqueeze(1).expand(n, 2, -1) for part in start))
    zeros = torch.zeros(n)
    pairs = torch.zeros(n, 1)
    physics = DreamPhysics(pairs, pairs, zeros + 1, zeros.long(), zeros, torch.zeros(n, 1), None)
    seen = torch.zeros(n, 2, 2)
    end = Starts(start, start, seen[:, -1], torch.zeros(n, MAX_LATENCY, 1), zeros.long(), zeros.long())
    inputs = torch.cat([action, torch.zeros(n, 1, 2)], -1)
    return Rollout(world, torch.zeros(n, 2, 1), seen, seen, action, reward, torch.zeros(n, 1), physics, end, inputs)


@pytest.mark.parametrize("pull", [0.0, 100.0])
def test_reinforce_makes_the_better_action_likelier_unless_the_clone_holds_it(model, pull):
    """A bandit: reward 2 for going right, 0 for left; every episode ends after one step."""
    learner = ActorCritic(replace(SMALL, gradient="reinforce", pull=pull), model, "blind")
    learner.begin()
    seen, estimate = torch.zeros(1, 2), torch.zeros(1, 1)

    def right() -> float:
        with torch.no_grad():
            many = learner.actor(seen.expand(2000, 2), estimate.expand(2000, 1), explore=True).sample()
        return float((many > 0).float().mean())

    before = right()
    assert 0.2 < before < 0.8
    for group in learner.optimizer.param_groups:
        group["lr"] = 3e-3
    for _ in range(120):
        with torch.no_grad():
            choice = learner.actor(seen.expand(128, 2), estimate.expand(128, 1), explore=True)
            action = choice.sample().unsqueeze(1)
        loss, _ = learner.losses(model, one_step(model, action, 2.0 * (action[..., 0] > 0)))
        learner.step(loss)
        learner.follow()
    if pull:
        assert right() == pytest.approx(before, abs=0.1)
    else:
        assert right() > max(0.9, before)


def test_the_slow_critic_follows_by_its_share(model):
    learner = ActorCritic(SMALL, model, "blind")
    with torch.no_grad():
        learner.critic.out.weight.fill_(1.0)
        learner.slow_critic.out.weight.fill_(0.0)
    learner.follow()
    torch.testing.assert_close(learner.slow_critic.out.weight[0, 0], torch.tensor(SMALL.slow_rate))


def some_logs(folder) -> Replay:
    rng = np.random.default_rng(0)
    with LogWriter(folder, make_schema("push-box", 20.0, ["x", "v"], ["motor"], [-1.0], [1.0], None)) as writer:
        for friction in (0.3, 0.5, 0.7):
            vector = rng.normal(size=(21, 2)).astype(np.float32)
            action = rng.uniform(-1, 1, (20, 1)).astype(np.float32)
            zeros = np.zeros(20, np.float32)
            known = {"floor_friction": friction}
            writer.append(Episode({"vector": vector}, action, action, zeros + 1, zeros, False, True, known))
    return Replay(LogReader(folder), CONTEXT)


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
@pytest.mark.parametrize("view", ["blind", "estimate"])
def test_dreaming_changes_the_policy_and_never_the_model(model, tmp_path, gradient, view):
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    settings = ActorCriticConfig(SMALL.actor, 16, 1, gradient=gradient, critic_first=1)
    config = DreamConfig(settings, view, horizon=4, dreams=16, batch=2, length=8)
    learner = DreamLearner(model, replay, "push-box", Physics(), load_scenarios("slippery", "push-box"), 20.0, config)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    learner.clone(0.0)
    policy = [p.clone() for p in learner.learner.actor.parameters()]
    for progress in (0.0, 0.5, 0.9):
        learner.dream(progress)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert any(not torch.equal(a, b) for a, b in zip(policy, learner.learner.actor.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert learner.imagined_steps == 3 * 16 * 4


def test_the_critic_knows_what_logs_paid_before_the_first_dream(model, tmp_path):
    """They pay 1 a step and are cut off, so that every state is worth 1 / (1 - 0.9)."""
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    settings = ActorCriticConfig(SMALL.actor, 16, 1, discount=0.9, critic_first=300)
    config = DreamConfig(settings, horizon=4, dreams=16, batch=4, length=8)
    learner = DreamLearner(model, replay, "push-box", Physics(), [], 20.0, config)
    learner.clone(0.0)
    cloned = [p.clone() for p in learner.learner.actor.parameters()]
    learner.begin()
    starts = learner._starts(32)
    context = torch.as_tensor(replay.values[starts.episode.numpy()])
    with torch.no_grad():
        logits = learner.learner.critic(torch.cat([starts.world.feat(), context, torch.ones_like(context)], -1))
        value = twohot_mean(logits, learner.learner.bins)
    assert value.mean().item() == pytest.approx(10.0, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(cloned, learner.learner.actor.parameters(), strict=True))


def test_the_first_lesson_ends_when_there_is_no_time_for_it(model, tmp_path):
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    config = DreamConfig(ActorCriticConfig(SMALL.actor, 16, 1, critic_first=10**9), horizon=4, dreams=16, batch=2)
    learner = DreamLearner(model, replay, "push-box", Physics(), [], 20.0, config)
    asked = iter([False, False, True])
    learner.begin(lambda: next(asked))
    assert learner.begun_at == 0 and next(asked, None) is None
    learner.begin(lambda: pytest.fail("begun already"))


def test_going_back_is_to_actor_and_critic_as_they_were(model, tmp_path):
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    config = DreamConfig(ActorCriticConfig(SMALL.actor, 16, 1, critic_first=1), horizon=4, dreams=16, batch=2, length=8)
    learner = DreamLearner(model, replay, "push-box", Physics(), [], 20.0, config)
    learner.clone(0.0)
    learner.dream(0.0)
    before = deepcopy(learner.learner.state_dict())
    for _ in range(3):
        learner.dream(0.0)
    learner.learner.step(torch.tensor(float("nan")))
    assert any(not torch.equal(before[name], value) for name, value in learner.learner.state_dict().items())
    learner.go_back(before)
    assert all(torch.equal(before[name], value) for name, value in learner.learner.state_dict().items())
    assert not learner.learner.optimizer.state and learner.updates == 4
    assert learner.learner.step.skipped == 1  # the report tells of it all the same
    learner.dream(0.5)


@pytest.mark.parametrize("told", [True, False])
def test_a_world_that_is_not_told_its_friction_is_the_same_on_every_floor(model, tmp_path, told):
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    config = DreamConfig(
        ActorCriticConfig(SMALL.actor, 16, 1), horizon=4, dreams=16, batch=2, length=8, logged_share=0.0, told=told
    )
    with torch.no_grad():  # heads begin at zero
        model.transition.pay.out.weight.normal_()

    def returned(friction: float) -> float:
        torch.manual_seed(0)
        floor = Scenario("floor", "", {"default": {"floor_friction": friction}})
        learner = DreamLearner(model, replay, "push-box", Physics(), [floor], 20.0, config, seed=0)
        return learner.dream(0.0)["imagined_return"]

    assert (returned(0.05) == returned(0.6)) == (not told)


def test_a_later_nights_dreams_begin_from_that_nights_clone(model, tmp_path):
    replay = some_logs(tmp_path)
    model.set_statistics(replay.statistics())
    settings = ActorCriticConfig(SMALL.actor, 16, 1, critic_first=2)
    config = DreamConfig(settings, horizon=4, dreams=16, batch=2, length=8)
    learner = DreamLearner(model, replay, "push-box", Physics(), [], 20.0, config)
    learner.updates = 500  # of the nights before
    learner.clone(0.0)
    cloned = [p.clone() for p in learner.learner.actor.parameters()]

    def as_cloned(part) -> bool:
        return all(torch.equal(a, b) for a, b in zip(cloned, part.parameters(), strict=True))

    for update in range(4):
        learner.dream(0.0)
        assert as_cloned(learner.learner.clone)
        # Warm-up begins at a rate of zero.
        assert as_cloned(learner.learner.actor) == (update < 1)
    other = DreamLearner(model, replay, "push-box", Physics(), [], 20.0, config)
    other.load_state_dict(learner.state_dict())
    assert other.begun_at == 500 and other.updates == 504


def test_what_costs_more_is_dreamt_more(model, tmp_path):
    """Half of the what-ifs evenly, half by their cost: of two, the one that costs is drawn three times in four."""
    config = DreamConfig(horizon=4, dreams=16, logged_share=0.0)
    scenarios = load_scenarios("slippery,slope", "push-box")
    learner = DreamLearner(model, some_logs(tmp_path), "push-box", Physics(), scenarios, 20.0, config)
    n = 2000
    blank, zeros = model.initial(n), torch.zeros(n)
    starts = Starts(blank, blank, torch.zeros(n, 2), torch.zeros(n, MAX_LATENCY, 1), zeros.long(), zeros.long())
    share = lambda: (learner.draw(starts)[1] == "slippery").mean()  # noqa: E731
    assert share() == pytest.approx(0.5, abs=0.04)
    learner._notice(np.array(["logged", "slippery", "slope"]), np.array([0.5, 0.1, 0.6]))
    assert learner.cost["slippery"] > 0 > learner.cost["slope"]
    assert share() == pytest.approx(0.75, abs=0.04)
    other = DreamLearner(model, learner.replay, "push-box", Physics(), scenarios, 20.0, config)
    other.load_state_dict(learner.state_dict())
    assert other.cost == learner.cost


def test_the_gradient_of_a_dream_runs_through_the_transition(model):
    """Reward falls with the second channel; the transition adds each command to it, so the actor learns to go left."""
    with torch.no_grad():
        for layer in (model.transition.head.out, model.decoder.out, model.reward.out):
            layer.weight.zero_()
            layer.bias.zero_()
    model.transition.forward = lambda before, inputs: (
        torch.stack([0 * inputs[..., 0], inputs[..., 0]], -1),
        before * 0 - 3,
    )
    model.predict_reward = lambda belief: -belief.vector[..., 1]
    learner = ActorCritic(replace(SMALL, pull=0.0), model, "blind")
    n = 64
    pairs = torch.ones(n, 1)
    zeros = torch.zeros(n)
    physics = DreamPhysics(pairs, pairs, zeros + 1, zeros.long(), zeros, torch.zeros(n, 3), None)
    blank = model.initial(n)
    starts = Starts(blank, blank, torch.zeros(n, 2), torch.zeros(n, MAX_LATENCY, 1), zeros.long(), zeros.long())

    def commanded() -> float:
        with torch.no_grad():
            return float(learner.actor(torch.zeros(1, 2), torch.zeros(1, 1)).mode())

    before = commanded()
    for group in learner.optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(100):
        rollout = imagine(model, learner.actor, starts, physics, 3, explore=True, noisy=True)
        learner.step(learner.losses(model, rollout)[0])
    assert commanded() < min(-0.5, before)


@pytest.mark.parametrize("view", ["blind", "estimate"])
@pytest.mark.parametrize("counts", [True, False])
def test_weights_whose_gradients_are_taken_at_once_get_those_of_autograd(view: View, counts):
    """On dreams of several steps, whose later choices hang on earlier ones; the plain path is autograd's."""
    torch.manual_seed(1)
    model = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT).eval().requires_grad_(False)
    assert model.transition is not None
    for head in (model.transition.head, model.transition.pay, model.reward):
        torch.nn.init.normal_(head.out.weight, std=0.3)
    learner = ActorCritic(SMALL, model, view)
    torch.nn.init.normal_(learner.slow_critic.out.weight, std=0.3)
    n, steps = 8, 6
    zeros, blank = torch.zeros(n), model.initial(n)
    physics = DreamPhysics(
        torch.ones(n, 1), torch.ones(n, 1), zeros + 1, zeros.long() + 1, zeros + 0.1, torch.zeros(n, steps), None
    )
    starts = Starts(blank, blank, torch.randn(n, 2), torch.zeros(n, MAX_LATENCY, 1), zeros.long(), zeros.long())
    counted = torch.arange(steps) < torch.arange(n).unsqueeze(1) if counts else None
    weights = list(learner.actor.parameters())

    def learnt(actor, late: bool) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(2)
        rollout = imagine(model, actor, starts, physics, steps, explore=True, noisy=True)
        rollout = rollout if late else replace(rollout, raw=())
        torch.manual_seed(3)
        loss = learner.losses(model, rollout, counted=counted)[0]
        return loss.detach(), *torch.autograd.grad(loss, weights)

    plain, at_once = learnt(learner.actor, False), learnt(fixed(learner.actor), True)
    for expected, found in zip(plain, at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_a_fixed_actor_follows_the_one_that_learns(model):
    actor = ActorCritic(SMALL, model, "blind").actor
    same = fixed(actor)
    with torch.no_grad():
        actor.head.out.bias.add_(1.0)
    assert torch.equal(same.head.out.bias, actor.head.out.bias)
    assert not any(weight.requires_grad for weight in same.parameters()) and actor.head.out.bias.requires_grad
