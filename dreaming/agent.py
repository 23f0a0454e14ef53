"""The policy: the actor's network, and the agent that runs it on a robot with only what a robot has.

The actor sees the latest observation. Of its physics it knows nothing (`view="blind"`), or what the world model,
filtering past observations and commands, makes of them (`view="estimate"`; docs/results.md, "Seeing an estimate of the
floor"). It is not shown the filter's state itself: a clone that could see it was measured to learn to repeat its last
command, and failed in every episode.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.device import device_of, random_kept, random_state, seeded, set_random_state
from worldmodel.distributions import ActionMixture
from worldmodel.model import Belief, WorldModel
from worldmodel.nets import Head, products, products_size, within

View = Literal["blind", "estimate"]


@dataclass(frozen=True)
class ActorConfig:
    units: int = 128
    layers: int = 3
    components: int = 4  # of the mixture; imitation needs several right answers
    min_std: float = 0.05
    max_std: float = 1.0
    explore_std: float = 0.15  # least spread in dreams: a clone is too sure of itself to find anything better


class Actor(nn.Module):
    """From scaled observation (..., D) and physics estimate (..., C) to a distribution over actions (..., A)."""

    def __init__(self, config: ActorConfig, model: WorldModel, view: View) -> None:
        super().__init__()
        self.config, self.actions = config, model.spaces.action
        self.view: View = view
        inputs = products_size(model.spaces.vector) + (len(model.context) if view == "estimate" else 0)
        self.head = Head(inputs, config.units, config.layers, config.components * (1 + 2 * self.actions), outscale=0.1)

    def forward(self, scaled: Tensor, estimate: Tensor, explore: bool = False) -> ActionMixture:
        c = self.config
        seen = products(within(scaled))
        if self.view == "estimate":
            seen = torch.cat([seen, estimate.clamp(-4, 4)], -1)
        least = c.explore_std if explore else 0.0
        return ActionMixture(self.head(seen), self.actions, c.min_std, c.max_std, least)


class Filter:
    """The agent's running belief for N machines, and the estimate of their physics (N, C) that follows from it."""

    def __init__(self, model: WorldModel, view: View, belief: Belief) -> None:
        self.model, self.view, self.belief = model, view, belief

    @property
    def estimate(self) -> Tensor:
        if self.view == "blind":
            return self.belief.deter.new_zeros(len(self.belief.deter), len(self.model.context))
        return self.model.estimate_context(self.belief)[0]

    def step(self, vector: Tensor, image: Tensor | None, command: Tensor, is_first: Tensor | None = None) -> None:
        """Take in observations (N, D) and the commands (N, A) that were given before them."""
        if self.view == "blind":
            return  # nobody looks at the belief
        nothing = command.new_zeros(len(command), len(self.model.context))
        inputs = self.model.action_input(command, nothing, nothing)
        self.belief = self.model.observe_step(self.belief, vector, image, inputs, is_first)


class Agent:
    """A trained policy as a callable over batches of observations (envs.record.Policy).

    It takes the mode of the actor's choice; only dreams that teach draw from it. Drawing on the robot too was measured
    to make dreamt hoppers fall at least twice as often (docs/results.md, "Acting by the mode").
    """

    def __init__(self, model: WorldModel, actor: Actor, seed: int = 0) -> None:
        self.model, self.actor, self.seed = model, actor, seed
        self.device = device_of(model)
        self.reset(1)

    @property
    def sees_images(self) -> bool:
        return self.model.spaces.image and self.actor.view != "blind"

    def reset(self, n: int) -> None:
        self.filter = Filter(self.model, self.actor.view, self.model.initial(n))
        self.command = torch.zeros(n, self.model.spaces.action, device=self.device)
        self.random = seeded(self.seed, self.device)

    @torch.no_grad()
    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        """Observations (N, ...) to commands (N, A) in [-1, 1]."""
        device = self.device
        vector = torch.as_tensor(observation["vector"], dtype=torch.float32).to(device)
        image = torch.as_tensor(observation["image"]).to(device) if self.sees_images else None
        # Latents are drawn from a stream of the agent's own, so that acting is repeatable and disturbs nobody's draws.
        with random_kept(device):
            set_random_state(self.random, device)
            self.filter.step(vector, image, self.command, torch.as_tensor(is_first).to(device))
            self.random = random_state(device)
        self.command = self.actor(self.model.scale(vector), self.filter.estimate).mode().clamp(-1, 1)
        return self.command.cpu().numpy().copy()
