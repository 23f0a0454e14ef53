"""Dreams: from logged states, under a scenario's physics, the agent acts on what the world model imagines.

Two latent states run side by side. The *world's* knows the dreamt physics and decides what happens; the *agent's* sees
only the imagined observations, as it would on the robot. Letters: N dreams, H steps, D channels, A actions, C factors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreaming.agent import Actor, Filter, View
from worldmodel.model import WorldModel
from worldmodel.replay import Batch
from worldmodel.rssm import State

MAX_LATENCY = 4


@dataclass
class DreamPhysics:
    """What N dreams are dreamt under, as the model takes it; made from Physics by `dreaming.scenario` objects."""

    context: Tensor  # (N, C) scaled
    known: Tensor  # (N, C)
    strength: Tensor  # (N,) share
    latency: Tensor  # (N,) whole steps, at most MAX_LATENCY
    noise: Tensor  # (N,) standard deviation added to what the agent sees, in the log's units
    push: Tensor  # (N, H) scaled value of the context's push during each step
    push_column: int | None


@dataclass
class Starts:
    """Logged states that N dreams begin from."""

    world: State  # (N, ...)
    agent: State  # (N, ...) of the blind filter
    told: State  # (N, ...) of the filter that is told an estimate; the same as `agent` where that is not used
    vector: Tensor  # (N, D)
    recent: Tensor  # (N, MAX_LATENCY, A) the commands before, oldest first: late ones are still to arrive
    episode: Tensor  # (N,)
    step: Tensor  # (N,)

    def __getitem__(self, index) -> "Starts":
        return Starts(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass
class Rollout:
    """N imagined trajectories of H steps; entry 0 of states and observations is the logged start."""

    world: State  # (N, H + 1, ...)
    agent: State  # (N, H + 1, ...)
    observation: Tensor  # (N, H + 1, D) as imagined
    seen: Tensor  # (N, H + 1, D) as the agent saw it: with sensor noise
    action: Tensor  # (N, H, A) commanded, before clipping to [-1, 1]
    reward: Tensor  # (N, H) on arriving
    continuation: Tensor  # (N, H) probability of not having terminated on arriving
    physics: DreamPhysics


@torch.no_grad()
def starts_from(model: WorldModel, batch: Batch, view: View) -> Starts:
    """Filter logged segments and return every state in them as a start, flattened to N = B * T."""
    world = model.observe(batch, hidden=False)
    agent = model.observe(batch, hidden=True)
    told = agent
    if view == "estimate":
        estimate, _ = model.estimate_context(agent)
        inputs = model.action_input(batch.action, estimate, torch.ones_like(estimate))
        told, _ = model.rssm.observe(model.encode(batch.vector, batch.image), inputs, batch.is_first)
    # The command that led here is the newest of those before; those of the steps before are the rows before.
    command = batch.action * (~batch.is_first).unsqueeze(-1)
    recent = []
    for back in range(MAX_LATENCY - 1, -1, -1):
        shifted = torch.zeros_like(command)
        shifted[:, back:] = command[:, : command.shape[1] - back]
        recent.append(shifted)
    flat = (lambda x: x.flatten(0, 1))  # noqa: E731
    return Starts(
        world=State(flat(world.deter), flat(world.stoch)),
        agent=State(flat(agent.deter), flat(agent.stoch)),
        told=State(flat(told.deter), flat(told.stoch)),
        vector=flat(batch.vector),
        recent=flat(torch.stack(recent, 2)),
        episode=flat(torch.as_tensor(batch.episode)),
        step=flat(torch.as_tensor(batch.step)),
    )


def effective_action(commands: Tensor, physics: DreamPhysics) -> Tensor:
    """What reaches the motors now, (N, A), of commands (N, M, A) with the newest last."""
    at = commands.shape[1] - 1 - physics.latency
    late = commands[torch.arange(len(commands)), at]
    return late * physics.strength.unsqueeze(-1)


@torch.no_grad()
def imagine(
    model: WorldModel,
    actor: Actor,
    starts: Starts,
    physics: DreamPhysics,
    horizon: int,
    view: View = "blind",
    commands: Tensor | None = None,
    mode: bool = False,
) -> Rollout:
    """Dream `horizon` steps.

    Args:
        commands: (N, H, A) play these instead of asking the actor (an audit of logs does).
        mode: take the actor's mode and the prior's mode instead of samples.
    """
    world, seen = starts.world, starts.vector
    belief = Filter(model, view, len(seen))
    belief.blind, belief.told = starts.agent, starts.told
    never = torch.zeros(len(seen), dtype=torch.bool)
    queue = starts.recent
    context = physics.context.clone()
    worlds, agents, observations, views, actions = [world], [belief.state], [starts.vector], [seen], []
    for t in range(horizon):
        if commands is None:
            choice = actor(model.scale(seen), belief.state)
            action = choice.mode() if mode else choice.sample()
        else:
            action = commands[:, t]
        command = action.clamp(-1, 1)
        queue = torch.cat([queue[:, 1:], command.unsqueeze(1)], 1)
        if physics.push_column is not None:
            context[:, physics.push_column] = physics.push[:, t]
        world_input = model.action_input(effective_action(queue, physics), context, physics.known)
        world = model.rssm.imagine_step(world, world_input, sample=not mode)
        observation = model.decode(world)
        seen = observation + physics.noise.unsqueeze(-1) * torch.randn_like(observation)
        belief.step(seen, None, command, never)
        worlds.append(world)
        agents.append(belief.state)
        observations.append(observation)
        views.append(seen)
        actions.append(action)
    stacked = State(torch.stack([s.deter for s in worlds], 1), torch.stack([s.stoch for s in worlds], 1))
    arrived = stacked[:, 1:]
    return Rollout(
        world=stacked,
        agent=State(torch.stack([s.deter for s in agents], 1), torch.stack([s.stoch for s in agents], 1)),
        observation=torch.stack(observations, 1),
        seen=torch.stack(views, 1),
        action=torch.stack(actions, 1),
        reward=model.predict_reward(arrived),
        continuation=model.predict_continuation(arrived),
        physics=physics,
    )
