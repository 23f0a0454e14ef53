"""DreamerV3's actor-critic, trained on dreams alone.

Source: Hafner et al. (2023), `agent.py: imag_loss` of the official code; the gradient through the dynamics, far faster
here than REINFORCE, is DreamerV2's (2021) for continuous actions. Shapes: N dreams, H steps. The critic is told
the dreamt physics, as it only serves in training; the actor sees what the robot sees, and is pulled towards its clone:
where dreams say nothing of an action's worth, it goes on doing what was demonstrated.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dreaming.agent import Actor, ActorConfig, View
from dreaming.imagination import Rollout
from worldmodel.device import device_of
from worldmodel.distributions import twohot_bins, twohot_loss, twohot_losses, twohot_mean
from worldmodel.model import WorldModel
from worldmodel.nets import Head
from worldmodel.optim import LaProp, SafeStep


@dataclass(frozen=True)
class ActorCriticConfig:
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic_units: int = 128
    critic_layers: int = 3
    gradient: Literal["dynamics", "reinforce"] = "dynamics"  # how the actor learns: through the model, or by its luck
    discount: float = 0.98
    lam: float = 0.95
    entropy: float = 0.0
    pull: float = 0.05  # weight of the likelihood of what the clone would do
    clone_lr: float = 6e-3  # falls to a tenth
    lr: float = 4e-3  # of the actor; falls to nothing over the budget
    critic_lr: float = 3e-3
    critic_first: int = 100  # updates of the critic alone, on logged returns: one that knows nothing spoils the clone
    slow_rate: float = 0.1  # share of the critic that its slow copy takes over at each update


def lambda_return(reward: Tensor, continuation: Tensor, value: Tensor, discount: float, lam: float | Tensor) -> Tensor:
    """TD(lambda) returns (N, H) of the states 0 to H-1.

    Args:
        reward: (N, H) for arriving in states 1 to H.
        continuation: (N, H) probability of going on from states 1 to H.
        value: (N, H + 1) of states 0 to H; the last one stands for everything after.
        lam: of all steps, or (N, H) of each; at 0 nothing beyond a state's value counts.
    """
    lam = (lam if isinstance(lam, Tensor) else torch.full_like(reward[:1, :1], lam)).expand_as(reward)
    following = value[:, -1]
    returns = []
    for t in reversed(range(reward.shape[1])):
        mixed = (1 - lam[:, t]) * value[:, t + 1] + lam[:, t] * following
        following = reward[:, t] + discount * continuation[:, t] * mixed
        returns.append(following)
    return torch.stack(returns[::-1], 1)


def cut(lam: float, counted: Tensor) -> Tensor:
    """(N, H) for `lambda_return`: returns go on into the next step where that counts (N, H)."""
    return lam * torch.cat([counted[:, 1:], counted[:, -1:]], 1)


class ReturnScale(nn.Module):
    """Running range between the 5th and the 95th percentile of returns, never below 1: small ones are not blown up."""

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        self.low: Tensor
        self.high: Tensor
        self.started: Tensor
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.zeros(()))
        self.shares: Tensor
        self.register_buffer("shares", torch.tensor([0.05, 0.95]), persistent=False)

    @torch.no_grad()
    def update(self, returns: Tensor, counted: Tensor | None = None) -> Tensor:
        """The range (scalar) with these returns in it; NaN if they are not finite, and then it stays as it is.

        Such a step is refused; a range that took it in would have all later ones refused as well.

        Args:
            counted: which of the returns count, if not all; where none does, the range stays as it is.
        """
        if counted is None:
            finite = torch.isfinite(returns).all()
            low, high = torch.quantile(returns.flatten()[:100_000], self.shares)
        else:
            finite = torch.isfinite(torch.where(counted, returns, 0.0)).all()
            low, high = torch.nanquantile(torch.where(counted, returns, torch.nan).flatten()[:100_000], self.shares)
        moves = finite & torch.isfinite(low + high)
        rate = torch.where(self.started > 0, self.rate, 1.0)
        self.low += torch.where(moves, rate * (low - self.low), 0.0)
        self.high += torch.where(moves, rate * (high - self.high), 0.0)
        self.started.copy_(torch.where(moves, 1.0, self.started))
        return torch.where(finite, (self.high - self.low).clamp(min=1.0), torch.nan)


class ActorCritic(nn.Module):
    def __init__(self, config: ActorCriticConfig, model: WorldModel, view: View) -> None:
        super().__init__()
        self.config = config
        self.actor = Actor(config.actor, model, view)
        inputs = model.feat_size + 2 * len(model.context)
        self.clone = deepcopy(self.actor).requires_grad_(False)
        self.critic = Head(inputs, config.critic_units, config.critic_layers, 255, outscale=0.0)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.scale = ReturnScale()
        self.bins: Tensor
        self.register_buffer("bins", twohot_bins())
        self.to(device_of(model))
        self.optimise(warmup=100)

    def optimise(self, warmup: int = 20) -> None:
        """A fresh optimiser."""
        groups = [{"params": list(part.parameters())} for part in (self.actor, self.critic)]
        self.optimizer = LaProp(groups, self.config.lr, warmup)
        self.step = SafeStep(self.optimizer)

    def begin(self) -> None:
        """From cloning to dreaming: the actor as it is now is the one that it will be pulled towards.

        The optimiser forgets: beside the gradients of a likelihood, those of a return are so small that by the running
        size of the former hardly a step would be taken for a thousand updates.
        """
        self.clone.load_state_dict(self.actor.state_dict())
        self.optimise()

    def appraisal_loss(self, feat: Tensor, context: Tensor, known: Tensor, returns: Tensor) -> Tensor:
        """The critic's loss (scalar) on states of logs.

        Args:
            feat: (N, F) of the world's belief.
            context: (N, C) scaled, and `known` (N, C): the physics that the belief was told.
            returns: (N,) what came after.
        """
        logits = self.critic(torch.cat([feat, context * known, known], -1))
        return twohot_loss(logits, returns, self.bins).mean()

    def critic_input(self, rollout: Rollout) -> Tensor:
        physics = rollout.physics
        feat = rollout.world.feat()
        known, context = physics.known.unsqueeze(1), physics.context
        # A state's world is that of the step to come; after the last one it is taken to stay as it is.
        context = context.unsqueeze(1) if context.dim() == 2 else torch.cat([context, context[:, -1:]], 1)
        pairs = torch.cat([context * known, known.expand_as(context)], -1)
        return torch.cat([feat, pairs.expand(-1, feat.shape[1], -1)], -1)

    def losses(
        self, model: WorldModel, rollout: Rollout, counted: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Actor and critic loss on dreams that were imagined with gradients (`dynamics`) or without (`reinforce`).

        Args:
            counted: (N, H) bool, true up to each dream's trust horizon: steps after it neither pay nor teach, and the
                critic's value stands for them. All count unless told otherwise.
        """
        c = self.config
        lam = c.lam if counted is None else cut(c.lam, counted)
        feat = self.critic_input(rollout)
        logits = self.critic(feat.detach())
        # Its own weights take no gradient.
        slow_value = twohot_mean(self.slow_critic(feat, fixed=rollout.world.fixed), self.bins)
        with torch.no_grad():
            value = twohot_mean(logits, self.bins)
            targets = lambda_return(rollout.reward, rollout.continuation, value, c.discount, lam)
            scale = self.scale.update(targets, counted)
            ones = torch.ones_like(targets[:, :1])
            # A state counts as much as it is likely that the dream got there.
            weight = torch.cumprod(torch.cat([ones, c.discount * rollout.continuation[:, :-1]], 1), 1)
            if counted is not None:
                weight = weight * counted
        fit = twohot_losses(logits[:, :-1], torch.stack([targets, slow_value[:, :-1]]), self.bins)
        critic_loss = (weight * fit).mean()
        metrics = {
            "imagined_return": targets[:, 0].mean(),
            "imagined_reward": rollout.reward.mean(),
            "imagined_falls": (rollout.continuation.min(1).values < 0.5).float().mean(),
            "critic_loss": critic_loss,
            "return_scale": scale,
        }
        scaled, estimate = model.scale(rollout.seen[:, :-1].detach()), rollout.estimate[:, :-1].detach()
        choice = self.actor(scaled, estimate, explore=True)
        entropy = choice.entropy_estimate()
        if c.gradient == "dynamics":
            # The whole way of a dream hangs on its first state's return.
            gain = lambda_return(rollout.reward, rollout.continuation, slow_value, c.discount, lam)[:, :1] / scale
            if counted is not None:
                gain = gain * counted[:, :1]
            gain = learnt_at_once(gain, choice.raw, rollout.raw) if rollout.raw else gain
        else:
            gain = weight * choice.log_prob(rollout.action.detach()) * (targets - value[:, :-1]) / scale
        alike = choice.log_prob(self.clone(scaled, estimate).sample().detach())
        if counted is not None:
            alike = alike * counted * (counted.numel() / counted.sum().clamp(min=1))
        actor_loss = -gain.mean() - (weight * c.entropy * entropy).mean() - c.pull * alike.mean()
        metrics |= {"actor_entropy": entropy.mean(), "clone_log_prob": alike.mean()}
        return actor_loss + critic_loss, {k: v.detach() for k, v in metrics.items()}

    def follow(self) -> None:
        follow(self.slow_critic, self.critic, self.config.slow_rate)


def fixed(actor: Actor) -> Actor:
    """The same actor, with the same weights, which take no gradients: those that pass through it still do."""
    return deepcopy(actor, {id(weight): weight.detach() for weight in actor.parameters()})


def learnt_at_once(gain: Tensor, raw: Tensor, dreamt: tuple[Tensor, ...]) -> Tensor:
    """`gain`, whose gradient reaches the actor's weights through raw (N, H, ·) instead of H dreamt ones (N, ·).

    Both are what the actor made of the same observations; from the first each weight's gradient is one product over all
    steps, from the others the sum of a product a step.
    """
    of_raw = torch.stack(torch.autograd.grad(gain.sum(), dreamt, materialize_grads=True), 1)
    through = (raw * of_raw).sum() / gain.numel()
    return gain.detach() + (through - through.detach())


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move a slow copy towards what it copies, by a share of the way."""
    for own, other in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(other, rate)
