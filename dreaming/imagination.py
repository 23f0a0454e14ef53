"""Dreams: from logged states, under a scenario's physics, the agent acts on what the world model imagines.

Two beliefs run side by side. The *world's* knows the dreamt physics and decides what happens; the *agent's* sees only
the imagined observations, as it would on the robot. Letters: N dreams, H steps, D channels, A actions, C factors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreaming.agent import Actor, Filter, View
from worldmodel.model import Belief, WorldModel
from worldmodel.replay import Batch

MAX_LATENCY = 4


@dataclass
class DreamPhysics:
    """What N dreams are dreamt under, as the model takes it; made from Physics by `dreaming.scenario` objects."""

    context: Tensor  # (N, C) scaled
    known: Tensor  # (N, C)
    strength: Tensor  # (N,) share
    latency: Tensor  # (N,) whole steps, less than MAX_LATENCY: the newest command is one of those kept
    noise: Tensor  # (N,) standard deviation added to what the agent sees, in the log's units
    push: Tensor  # (N, H) scaled value of the context's push during each step
    push_column: int | None


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
        tensors = (self.vector, self.recent, self.episode, self.step)
        return Starts(self.world.at(index), self.agent.at(index), *(part[index] for part in tensors))


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
    inputs: Tensor  # (N, H, A + 2C) to the world: what reached the motors, and the dreamt physics


@torch.no_grad()
def starts_from(model: WorldModel, batch: Batch, view: View) -> Starts:
    """Filter logged segments and return every state in them as a start, flattened to N = B * T."""
    world = model.observe(batch, hidden=False)
    agent = model.observe(batch, hidden=True) if view == "estimate" else world
    # The command that led here is the newest of those before; those of the steps before are the rows before.
    command = batch.action * (~batch.is_first).unsqueeze(-1)
    recent = []
    for back in range(MAX_LATENCY - 1, -1, -1):
        shifted = torch.zeros_like(command)
        shifted[:, back:] = command[:, : max(0, command.shape[1] - back)]
        # A segment runs on into the next episode; what was commanded in the one before arrives in no other.
        same = torch.as_tensor(batch.step > back).unsqueeze(-1)
        recent.append(shifted * same)
    rows = batch.is_first.numel()
    return Starts(
        world=world.reshape(rows),
        agent=agent.reshape(rows),
        vector=batch.vector.flatten(0, 1),
        recent=torch.stack(recent, 2).flatten(0, 1),
        episode=torch.as_tensor(batch.episode).flatten(),
        step=torch.as_tensor(batch.step).flatten(),
    )


def effective_action(commands: Tensor, physics: DreamPhysics) -> Tensor:
    """What reaches the motors now, (N, A), of commands (N, M, A) with the newest last."""
    at = commands.shape[1] - 1 - physics.latency
    late = commands[torch.arange(len(commands)), at]
    return late * physics.strength.unsqueeze(-1)


def imagine(
    model: WorldModel,
    actor: Actor,
    starts: Starts,
    physics: DreamPhysics,
    horizon: int,
    commands: Tensor | None = None,
    mode: bool = False,
    noisy: bool = False,
) -> Rollout:
    """Dream `horizon` steps. Differentiable in the actor, through the model, unless called under `torch.no_grad`.

    Args:
        noisy: observations scatter as the model says that they do, so that a policy cannot count on the expected one.
        commands: (N, H, A) play these instead of asking the actor (an audit of logs does).
        mode: take the actor's mode. Latents are always drawn: a rollout of modes was measured to stray twice as far.
    """
    world, seen = starts.world, starts.vector
    agent = Filter(model, actor.view, starts.agent)
    queue = starts.recent
    context = physics.context
    worlds, estimates, observations, views, actions = [world], [agent.estimate], [starts.vector], [seen], []
    inputs = []
    for t in range(horizon):
        if commands is None:
            choice = actor(model.scale(seen), estimates[-1], explore=not mode)
            action = choice.mode() if mode else choice.sample()
        else:
            action = commands[:, t]
        command = action.clamp(-1, 1)
        queue = torch.cat([queue[:, 1:], command.unsqueeze(1)], 1)
        if physics.push_column is not None:
            context = context.clone()
            context[:, physics.push_column] = physics.push[:, t]
        world_input = model.action_input(effective_action(queue, physics), context, physics.known)
        world = model.imagine_step(world, world_input, noisy=noisy)
        observation = model.decode(world)
        seen = observation + physics.noise.unsqueeze(-1) * torch.randn_like(observation)
        agent.step(seen, None, command)
        worlds.append(world)
        estimates.append(agent.estimate)
        observations.append(observation)
        views.append(seen)
        actions.append(action)
        inputs.append(world_input)
    stacked = _stack(worlds)
    arrived = stacked.at(slice(None), slice(1, None))
    return Rollout(
        world=stacked,
        estimate=torch.stack(estimates, 1),
        observation=torch.stack(observations, 1),
        seen=torch.stack(views, 1),
        action=torch.stack(actions, 1),
        reward=model.predict_reward(arrived),
        continuation=model.predict_continuation(arrived),
        physics=physics,
        inputs=torch.stack(inputs, 1),
    )


def _stack(beliefs: list[Belief]) -> Belief:
    """H + 1 times (N, ...) to (N, H + 1, ...)."""
    return Belief(*(torch.stack(parts, 1) for parts in zip(*beliefs, strict=True)))
