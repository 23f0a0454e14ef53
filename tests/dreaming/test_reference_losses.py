"""Given the official DreamerV3's weights and dreams, actor and critic learn by its recorded numbers (tests/reference).

The official policy reads `feat`; ours reads the observation. So ours is given `feat` for an observation here, which is
wide enough that no products are appended, one component for its mixture, and no clone to be pulled towards.
"""

import pytest
import torch
from agreement import PART, STEP, Agreement, Recording

from dreaming.actor_critic import ActorCritic, ActorCriticConfig, ReturnScale, lambda_return
from dreaming.agent import Actor, ActorConfig
from dreaming.imagination import DreamPhysics, Rollout, Starts
from worldmodel.context import ContextSpec
from worldmodel.distributions import twohot_mean
from worldmodel.model import Belief, ModelConfig, Spaces, WorldModel
from worldmodel.official import OfficialWeights
from worldmodel.rssm import RSSMConfig

FEAT, ACTIONS = 64 + 8 * 4, 3
CONFIG = ActorCriticConfig(
    ActorConfig(units=16, components=1, min_std=0.1, explore_std=0.0),
    critic_units=16,
    gradient="reinforce",
    discount=1 - 1 / 50,
    entropy=3e-4,
    pull=0.0,
    lr=1e-3,
    critic_lr=1e-3,
    slow_rate=0.02,
)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording("actor_critic")


@pytest.fixture(scope="module")
def model() -> WorldModel:
    config = ModelConfig(RSSMConfig(deter=64, hidden=16, stoch=8, classes=4), units=16, carry=False)
    return WorldModel(config, Spaces(FEAT, ACTIONS), ContextSpec((), (), ())).requires_grad_(False)


def learner_of(recording: Recording, model: WorldModel, weights: str) -> ActorCritic:
    learner = ActorCritic(CONFIG, model, "blind")
    official = OfficialWeights(recording.under(weights))
    read_actor(official, learner.actor)
    official.head(learner.critic, "val", "logits")
    official.head(learner.slow_critic, "slowval", "logits")
    assert not official.unread
    learner.scale.low.copy_(recording["low"])
    learner.scale.high.copy_(recording["high"])
    learner.scale.started.fill_(1)
    learner.optimise(warmup=2)
    return learner


def read_actor(official: OfficialWeights, actor: Actor) -> None:
    """Our one output layer holds the component's logit, which of one component counts nothing, means and spreads."""
    official.mlp(actor.head.mlp, "pol/mlp/linear{}", "pol/mlp/norm{}")
    kernels, biases = (
        [official(f"pol/head/action/{name}/{part}") for name in ("mean", "stddev")] for part in ("kernel", "bias")
    )
    out = actor.head.out
    with torch.no_grad():
        out.weight.copy_(torch.cat([torch.zeros(16, 1), *kernels], 1).T)
        # The official spread begins two higher before its sigmoid.
        out.bias.copy_(torch.cat([torch.zeros(1), biases[0], biases[1] + 2]))


def rollout_of(recording: Recording) -> Rollout:
    """The official arrays hold H + 1 of everything; ours has rewards and continuations on arriving alone."""
    feat, action, reward, continuation = (
        recording[f"dream/{name}"] for name in ("feat", "action", "reward", "continuation")
    )
    n, steps = reward.shape
    nothing = torch.zeros(n, 0)
    physics = DreamPhysics(nothing, nothing, torch.ones(n), torch.zeros(n).long(), torch.zeros(n), nothing, None)
    world = Belief(*feat.split([64, FEAT - 64], -1), torch.zeros(n, steps, 0))
    estimate = torch.zeros(n, steps, 0)
    last = world.at(slice(None), -1)
    end = Starts(last, last, feat[:, -1], nothing, torch.zeros(n), torch.zeros(n))
    told = action[:, :-1]  # to a world without context
    return Rollout(world, estimate, feat, feat, told, reward[:, 1:], continuation[:, 1:], physics, end, told)


def test_policy_critic_and_lambda_return_agree(recording, model):
    learner, rollout = learner_of(recording, model, "weights"), rollout_of(recording)
    with Agreement(PART) as agreement, torch.no_grad():
        choice = learner.actor(recording["dream/feat"], rollout.estimate)
        agreement["policy, log prob"] = choice.log_prob(recording["dream/action"]), recording["parts/log_prob"]
        agreement["policy, entropy"] = choice.entropy_estimate(), recording["parts/entropy"]
        value = twohot_mean(learner.critic(rollout.world.feat()), learner.bins)
        agreement["critic, value"] = value, recording["parts/predicted"]
        returns = lambda_return(rollout.reward, rollout.continuation, value, CONFIG.discount, CONFIG.lam)
        agreement["lambda-return"] = returns, recording["parts/ret"]


def test_actor_and_critic_losses_agree(recording, model):
    learner = learner_of(recording, model, "weights")
    loss, metrics = learner.losses(model, rollout_of(recording))
    with Agreement(PART) as agreement:
        agreement["actor loss"] = loss - metrics["critic_loss"], recording["step0/policy"].mean()
        agreement["critic loss"] = metrics["critic_loss"], recording["step0/value"].mean()
        agreement["return range, low"] = learner.scale.low, recording["step0/low"]
        agreement["return range, high"] = learner.scale.high, recording["step0/high"]


def test_whole_training_steps_agree(recording, model):
    """Losses, return normalisation, gradients, clipping, warm-up (2 steps), LaProp, slow critic: three times over."""
    learner, rollout = learner_of(recording, model, "weights"), rollout_of(recording)
    with Agreement(STEP) as agreement:
        for step in range(3):
            loss, _ = learner.losses(model, rollout)
            agreement[f"loss {step}"] = loss, recording[f"step{step}/loss"]
            assert learner.step(loss)
            learner.follow()
        agreement["return range, high"] = learner.scale.high, recording["step2/high"]
        expected = learner_of(recording, model, "after")
        for part in ("actor", "critic", "slow_critic"):
            pairs = zip(getattr(learner, part).named_parameters(), getattr(expected, part).parameters(), strict=True)
            for (name, ours), theirs in pairs:
                agreement[f"{part}.{name}"] = ours, theirs


def test_return_normalisation_agrees():
    recording = Recording("functions")
    norm = ReturnScale()
    norm.low.fill_(-1.0)
    norm.high.fill_(1.5)
    norm.started.fill_(1)
    with Agreement(PART) as agreement:
        for step, returns in enumerate(recording["returns"]):
            scale = norm.update(returns)
            agreement[f"step {step}"] = torch.stack([norm.low, norm.high, scale]), recording["ranges"][step]
