"""Dreams: from logged states, under a scenario's physics, the agent acts on what the world model imagines.

Two beliefs run side by side. The *world's* knows the dreamt physics and decides what happens; the *agent's* sees only
the imagined observations, as it would on the robot. Letters: N dreams, H steps, D channels, A actions, C factors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreaming.agent import Actor, Filter, View
from worldmodel.model import Belief, WorldModel
from worldmodel.nets import within
from worldmodel.replay import Batch, Replay
from worldmodel.rssm import Prepared

MAX_LATENCY = 4
Observe = Callable[[Batch, bool], Belief]  # of segments, whose physics may be hidden: `WorldModel.observe`
OF_STARTS = ("vector", "recent", "episode", "step")  # the parts of Starts beside its beliefs, in order


@dataclass
class DreamPhysics:
    """What N dreams are dreamt under, as the model takes it; made from Physics by `dreaming.scenario` objects.

    Where anything changes on the way, `context` and `strength` have a dimension of H steps after the first.
    """

    context: Tensor  # (N, C) or (N, H, C) scaled
    known: Tensor  # (N, C)
    strength: Tensor  # (N,) or (N, H) share
    latency: Tensor  # (N,) whole steps, less than MAX_LATENCY: the newest command is one of those kept
    noise: Tensor  # (N,) standard deviation added to what the agent sees, in the log's units
    push: Tensor  # (N, H) scaled value of the context's push during each step
    push_column: int | None

    def at(self, step: int | Tensor) -> "DreamPhysics":
        """What holds in that step of the dreams, or in each one's own (N,)."""
        if self.context.dim() == 2:
            return self
        which = slice(None) if isinstance(step, int) else torch.arange(len(step), device=self.context.device)
        return replace(self, context=self.context[which, step], strength=self.strength[which, step])

    def lasting(self, steps: int) -> "DreamPhysics":
        """The same with the dimension of steps, whether anything changes or not."""
        if self.context.dim() == 3:
            return self
        context, strength = self.context.unsqueeze(1), self.strength.unsqueeze(1)
        return replace(self, context=context.expand(-1, steps, -1), strength=strength.expand(-1, steps))


@dataclass
class Starts:
    """Logged states that N dreams begin from."""

    world: Belief  # (N, ...)
    agent: Belief  # (N, ...)
    vector: Tensor  # (N, D)
    recent: Tensor  # (N, MAX_LATENCY, A) the commands before, oldest first: late ones are still to arrive
    episode: Tensor  # (N,)
    step: Tensor  # (N,)

    def __getitem__(self, index) -> "Starts":
        parts = (getattr(self, name)[index] for name in OF_STARTS)
        return Starts(self.world.at(index), self.agent.at(index), *parts)

    def joined(self, others: "Starts") -> "Starts":
        world, agent = self.world.joined(others.world), self.agent.joined(others.agent)
        return Starts(world, agent, *(torch.cat([getattr(self, name), getattr(others, name)]) for name in OF_STARTS))


class Moment(NamedTuple):
    """What N dreams have come to: all that their next step goes on from."""

    world: Belief  # (N, ...)
    recent: Tensor  # (N, MAX_LATENCY, A) as in Starts
    observation: Tensor  # (N, D) as imagined
    seen: Tensor  # (N, D) with sensor noise

    @classmethod
    def first(cls, starts: Starts) -> "Moment":
        return cls(starts.world, starts.recent, starts.vector, starts.vector)


@dataclass
class Rollout:
    """N imagined trajectories of H steps; entry 0 of states and observations is the logged start."""

    world: Belief  # (N, H + 1, ...)
    estimate: Tensor  # (N, H + 1, C) the agent's own, of its physics
    observation: Tensor  # (N, H + 1, D) as imagined
    seen: Tensor  # (N, H + 1, D) as the agent saw it: with sensor noise
    action: Tensor  # (N, H, A) commanded, before clipping to [-1, 1]
    reward: Tensor  # (N, H) on arriving
    continuation: Tensor  # (N, H) probability of not having terminated on arriving
    physics: DreamPhysics
    end: Starts  # where a further dream would go on
    inputs: Tensor  # (N, H, A + 2C) to the world: what reached the motors, and the dreamt physics
    raw: tuple[Tensor, ...] = ()  # H of the numbers (N, ·) that the actor's choice was made of, in the dreams' graph


@torch.no_grad()
def starts_from(observe: Observe, batch: Batch, view: View, told: bool = True) -> Starts:
    """Filter logged segments and return every state in them as a start, flattened to N = B * T.

    Args:
        observe: `WorldModel.observe`.
        told: the world's belief knows the physics that the logs state.
    """
    world = observe(batch, not told)
    agent = observe(batch, True) if view == "estimate" and told else world
    # The command that led here is the newest of those before; those of the steps before are the rows before.
    command = batch.action * (~batch.is_first).unsqueeze(-1)
    recent = []
    for back in range(MAX_LATENCY - 1, -1, -1):
        shifted = torch.zeros_like(command)
        shifted[:, back:] = command[:, : max(0, command.shape[1] - back)]
        # A segment runs on into the next episode; what was commanded in the one before arrives in no other.
        same = torch.as_tensor(batch.step > back).to(command.device).unsqueeze(-1)
        recent.append(shifted * same)
    rows = batch.is_first.numel()
    return Starts(
        world=world.reshape(rows),
        agent=agent.reshape(rows),
        vector=batch.vector.flatten(0, 1),
        recent=torch.stack(recent, 2).flatten(0, 1),
        episode=torch.as_tensor(batch.episode).to(command.device).flatten(),
        step=torch.as_tensor(batch.step).to(command.device).flatten(),
    )


def draw_starts(
    observe: Observe,
    replay: Replay,
    view: View,
    count: int,
    segments: int,
    length: int,
    rng: np.random.Generator,
    told: bool = True,
) -> Starts:
    """`count` states to dream from, out of random segments of the logs."""
    batch = replay.sample(segments, length, rng)
    starts = starts_from(observe, batch, view, told)
    # An episode's last row leads nowhere, and a segment's first states have no memory yet unless the episode began.
    alive = ~batch.is_last.flatten().cpu()
    begun = torch.as_tensor(batch.step == 0) | (torch.arange(length) >= min(4, length // 4))
    usable = torch.nonzero(alive & begun.flatten()).squeeze(-1).numpy()
    chosen = rng.choice(usable, count, replace=len(usable) < count)
    return starts[torch.as_tensor(chosen).to(batch.is_last.device)]


def effective_action(commands: Tensor, physics: DreamPhysics) -> Tensor:
    """What reaches the motors now, (N, A), of commands (N, M, A) with the newest last."""
    at = commands.shape[1] - 1 - physics.latency
    late = commands[torch.arange(len(commands), device=commands.device), at]
    return late * physics.strength.unsqueeze(-1)


def dream_step(
    model: WorldModel,
    moment: Moment,
    command: Tensor,
    physics: DreamPhysics,
    push: Tensor,
    noisy: bool,
    prepared: Prepared | None = None,
) -> tuple[Moment, Tensor]:
    """The world's part of a step, under commands (N, A) in [-1, 1] and this step's pushes (N,), scaled.

    Returns:
        What the dreams come to, and the inputs (N, A + 2C) that the world was given.
    """
    recent = torch.cat([moment.recent[:, 1:], command.unsqueeze(1)], 1)
    context = physics.context
    if physics.push_column is not None:
        context = context.clone()
        context[:, physics.push_column] = push
    world_input = model.action_input(effective_action(recent, physics), context, physics.known)
    world = model.imagine_step(moment.world, world_input, noisy=noisy, prepared=prepared)
    observation = model.decode(world)
    seen = observation + physics.noise.unsqueeze(-1) * torch.randn_like(observation)
    return Moment(world, recent, observation, seen), world_input


def imagine(
    model: WorldModel,
    actor: Actor,
    starts: Starts,
    physics: DreamPhysics,
    horizon: int,
    explore: bool = False,
    noisy: bool = False,
) -> Rollout:
    """Dream `horizon` steps. Differentiable in the actor, through the model, unless called under `torch.no_grad`.

    Args:
        explore: draw from the actor's choice, widened, as dreams that teach do, instead of taking its mode, as robots
            do. Latents are always drawn: a rollout of modes was measured to stray twice as far.
        noisy: observations scatter as the model says that they do, so that a policy cannot count on the expected one.
    """
    moments, actions = [Moment.first(starts)], []
    agent = Filter(model, actor.view, starts.agent)
    estimates, inputs, raw = [agent.estimate], [], []
    prepared = model.rssm.prepared()
    for t in range(horizon):
        # However fixed the actor's weights are, gradients are asked for from its first choice on.
        scaled = model.scale(moments[-1].seen).requires_grad_(torch.is_grad_enabled())
        choice = actor(scaled, estimates[-1], explore=explore)
        raw.append(choice.raw)
        action = choice.sample() if explore else choice.mode()
        command = within(action, 1.0)
        moment, given = dream_step(model, moments[-1], command, physics.at(t), physics.push[:, t], noisy, prepared)
        moments.append(moment)
        inputs.append(given)
        agent.step(moments[-1].seen, None, command)
        estimates.append(agent.estimate)
        actions.append(action)
    stacked = _stack([moment.world for moment in moments])
    arrived = stacked.at(slice(None), slice(1, None))
    return Rollout(
        world=stacked,
        estimate=torch.stack(estimates, 1),
        observation=torch.stack([moment.observation for moment in moments], 1),
        seen=torch.stack([moment.seen for moment in moments], 1),
        action=torch.stack(actions, 1),
        reward=model.predict_reward(arrived),
        continuation=model.predict_continuation(arrived),
        physics=physics,
        end=Starts(
            world=stacked.at(slice(None), -1).detach(),
            agent=agent.belief.detach(),
            vector=moments[-1].observation.detach(),
            recent=moments[-1].recent.detach(),
            episode=starts.episode,
            step=starts.step + horizon,
        ),
        inputs=torch.stack(inputs, 1),
        raw=tuple(raw),
    )


def _stack(beliefs: list[Belief]) -> Belief:
    """H + 1 times (N, ...) to (N, H + 1, ...)."""
    return Belief(*(torch.stack(parts, 1) for parts in zip(*beliefs, strict=True)))
