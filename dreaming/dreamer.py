"""DreamerV3 as published: a world model, and the actor and critic on its features, learnt together from each batch.

This is the agent that learns online, by acting; what learns overnight from logs alone is `dreaming.learning`. Source:
Hafner et al. (2023) and `agent.py` of the official code. Shapes: B segments, T rows, N = B T dreams, H steps, F
features.
"""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from configs import UserError
from dreaming.actor_critic import ReturnScale, follow, lambda_return
from worldmodel.context import ContextSpec
from worldmodel.device import CPU, device_of, numbers
from worldmodel.distributions import (
    BoundedNormal,
    twohot_bins,
    twohot_losses,
    twohot_mean,
)
from worldmodel.loss import world_model_loss
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.nets import Head, compute_in
from worldmodel.optim import Gradients, LaProp, SafeStep
from worldmodel.replay import Batch
from worldmodel.rssm import Ready, State
from worldmodel.speed import few_rows

PUBLISHED = ModelConfig(carry=False, vector_loss="symlog", vector_scale=1.0)


@dataclass(frozen=True)
class DreamerConfig:
    """The official settings; only the discount is applied where returns are summed (the official `contdisc: False`)."""

    model: ModelConfig = PUBLISHED
    horizon: int = 15  # steps of a dream
    discount: float = 1 - 1 / 333
    lam: float = 0.95
    entropy: float = 3e-4
    replay_scale: float = 0.3  # weight of the critic's loss on logged rewards
    lr: float = 4e-5
    warmup: int = 1000
    slow_rate: float = 0.02
    compute: Literal["float32", "bfloat16"] = "float32"  # what factors of matrix products are rounded to


class Dream(NamedTuple):
    """N dreams of H steps, time first; the first features are the start's."""

    feat: Tensor  # (H + 1, N, F) as heads multiply it
    action: Tensor  # (H, N, A)
    known: Tensor | None = None  # (H, N, U) the first product of the policy that acted


class Dreamer(nn.Module):
    def __init__(self, config: DreamerConfig, spaces: Spaces, seed: int = 0, device: torch.device = CPU) -> None:
        super().__init__()
        if config.model.carry:
            raise UserError("DreamerV3 as published carries no observation; give a model with carry=False")
        torch.manual_seed(seed)
        self.config = config
        self.model = WorldModel(config.model, spaces, ContextSpec((), (), ()))
        feat, units, layers = self.model.feat_size, config.model.units, config.model.layers
        self.policy = Head(feat, units, layers, 2 * spaces.action, outscale=0.01)
        self.critic = Head(feat, units, layers, 255, outscale=0.0)
        self.slow_critic = deepcopy(self.critic).requires_grad_(False)
        self.scale = ReturnScale()
        self.bins: Tensor
        self.register_buffer("bins", twohot_bins())
        self.compute = getattr(torch, config.compute)
        compute_in(self.compute, self)
        self.to(device)
        self.optimizer = LaProp([p for p in self.parameters() if p.requires_grad], config.lr, config.warmup)
        self.step = SafeStep(self.optimizer)
        self._gradients = Gradients(self.loss, self.step.parameters)

    @torch.no_grad()
    def imagine(self, start: State) -> Dream:
        """Follow the policy for H steps from N states."""
        prepared, steps, deter = self.model.rssm.prepared(), self.config.horizon, start.deter.shape[-1]
        feat = start.deter.new_empty(steps + 1, len(start.deter), self.model.feat_size, dtype=self.compute)
        state, actions, known = prepared.enter(start), [], []
        for t in range(steps + 1):
            feat[t, :, :deter] = state.own
            feat[t, :, deter:] = prepared.leave(state.stoch)
            if t < steps:
                known.append(self.policy.first(feat[t]))
                actions.append(BoundedNormal(self.policy(feat[t], known[t])).sample())
                state = prepared.imagine(state, actions[t].clamp(-1, 1))
        return Dream(feat, torch.stack(actions), torch.stack(known))

    @torch.no_grad()
    def foresee(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Reward for arriving, and probability of going on from there, both (L, N), of features (L, N, F)."""
        reward = twohot_mean(self.model.reward(feat), self.bins)
        return reward, torch.sigmoid(self.model.continuation(feat).squeeze(-1))

    def behaviour_loss(
        self, dream: Dream, reward: Tensor, going_on: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Actor's and critic's loss (scalars), the lambda-return of every start (N,), and what to watch.

        Args:
            dream: dreamt with the policy as it is now.
            reward: (H + 1, N) for arriving in each state; the start's is not looked at.
            going_on: (H + 1, N) probability of not having terminated there.
        """
        c, feat = self.config, dream.feat
        logits = self.critic(feat)
        with torch.no_grad():
            reward, going_on = reward.T, going_on.T
            value = twohot_mean(logits, self.bins).T
            slow = twohot_mean(self.slow_critic(feat), self.bins)
            returns = lambda_return(reward[:, 1:], going_on[:, 1:], value, c.discount, c.lam)
            advantage = (returns - value[:, :-1]) / self.scale.update(returns)
            # A state counts as much as it is likely that the dream got there, or began at all.
            weight = torch.cumprod(c.discount * going_on[:, :-1], 1).T / c.discount
        choice = BoundedNormal(self.policy(feat[:-1], dream.known))
        entropy = choice.entropy()
        actor = -(weight * (choice.log_prob(dream.action) * advantage.T + c.entropy * entropy)).mean()
        critic = (weight * self._fit(logits, returns.T, slow)).mean()
        metrics = {
            "return": returns.mean(),
            "entropy": entropy.mean(),
            "return_scale": self.scale.high - self.scale.low,
        }
        return actor, critic, returns[:, 0], metrics

    def _fit(self, logits: Tensor, returns: Tensor, slow: Tensor) -> Tensor:
        """Cross-entropy (L, ...) with returns (L, ...) and with the slow critic, of logits (L + 1, ..., 255)."""
        after = torch.cat([returns, returns[-1:]])  # of the last, which has no return, nothing is learnt
        return twohot_losses(logits, torch.stack([after, slow]), self.bins)[:-1]

    def replay_loss(self, feat: Tensor, batch: Batch, dreamt: Tensor) -> Tensor:
        """The critic's loss (scalar) on logged rewards, beyond which stands the return dreamt from each row (B, T).

        Through the features (B, T, F) it trains the world model as well.
        """
        c = self.config
        logits = self.critic(feat).transpose(0, 1)
        with torch.no_grad():
            slow = twohot_mean(self.slow_critic(feat), self.bins).T
            # Where an episode ends, nothing that follows in the log belongs to it.
            live, lam = (~batch.is_terminal[:, 1:]).float(), c.lam * (~batch.is_last[:, 1:]).float()
            returns = lambda_return(batch.reward[:, 1:], live, dreamt, c.discount, lam)
        fit = self._fit(logits, returns.T, slow)
        return ((~batch.is_last[:, :-1]).T * fit).mean()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        model, metrics, beliefs = world_model_loss(self.model, batch)
        feat = beliefs.feat()
        start = State(*(x.detach().flatten(0, 1) for x in beliefs.latent))
        dream = self.imagine(start)
        actor, critic, returns, more = self.behaviour_loss(dream, *self.foresee(dream.feat))
        replayed = self.replay_loss(feat, batch, returns.view(batch.reward.shape))
        losses = {"actor": actor, "critic": critic, "replay": replayed}
        total = model + actor + critic + self.config.replay_scale * replayed
        return total, metrics | more | {name: loss.detach() for name, loss in losses.items()}

    def update(self, batch: Batch) -> dict[str, float]:
        """One whole training step."""
        loss, metrics, finite = self._gradients(batch)
        if self.step.take(finite):
            follow(self.slow_critic, self.critic, self.config.slow_rate)
        return numbers(metrics | {"loss": loss}) | {"skipped": float(self.step.skipped)}


class Acting:
    """The policy at work on N machines, each with its belief. After updates, `refresh` it."""

    def __init__(self, dreamer: Dreamer, machines: int = 1) -> None:
        self.dreamer = dreamer
        self.refresh()
        self.state = self.prepared.enter(dreamer.model.rssm.initial(machines))
        self.action = torch.zeros(machines, dreamer.model.spaces.action, device=device_of(dreamer))

    def refresh(self) -> None:
        """Take over the weights as they are now."""
        self.prepared = self.dreamer.model.rssm.prepared()

    @torch.no_grad()
    def __call__(self, vector: Tensor, is_first: Tensor) -> Tensor:
        """Observations (N, D), and whether an episode begins (N,), to commands (N, A) in [-1, 1]."""
        model, keep = self.dreamer.model, (~is_first).unsqueeze(-1)
        before = Ready(*(x * keep for x in self.state))
        with few_rows() if len(vector) < 8 else nullcontext():
            self.state = self.prepared.observe(before, model.encode(vector), self.action * keep)
            feat = torch.cat([self.state.own, self.prepared.leave(self.state.stoch)], -1)
            self.action = BoundedNormal(self.dreamer.policy(feat)).sample().clamp(-1, 1)
        return self.action
