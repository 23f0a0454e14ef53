"""The policy: the actor's network, and the agent that runs it on a robot with only what a robot has.

The agent filters observations with the world model's own RSSM. Of its physics it knows nothing (`view="blind"`), or
what the model's context head makes of the past (`view="estimate"`): DESIGN.md, decision 3. The actor sees the filter's
state and the latest observation itself, which the latent rounds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel.distributions import ActionMixture
from worldmodel.model import WorldModel
from worldmodel.nets import Head
from worldmodel.rssm import State

View = Literal["blind", "estimate"]


@dataclass(frozen=True)
class ActorConfig:
    units: int = 128
    layers: int = 3
    components: int = 4  # of the mixture; imitation needs several right answers
    min_std: float = 0.05
    max_std: float = 1.0


class Actor(nn.Module):
    """From scaled observation (..., D) and the agent's state to a distribution over actions (..., A)."""

    def __init__(self, config: ActorConfig, model: WorldModel) -> None:
        super().__init__()
        self.config, self.actions = config, model.spaces.action
        inputs = model.spaces.vector + model.rssm.feat_size
        self.head = Head(inputs, config.units, config.layers, config.components * (1 + 2 * self.actions), outscale=0.1)

    def forward(self, scaled: Tensor, state: State) -> ActionMixture:
        raw = self.head(torch.cat([scaled.clamp(-8, 8), state.feat()], -1))
        return ActionMixture(raw, self.actions, self.config.min_std, self.config.max_std)


class Filter:
    """The agent's running belief for N machines: one RSSM state each, two where the physics is estimated."""

    def __init__(self, model: WorldModel, view: View, n: int) -> None:
        self.model, self.view = model, view
        self.blind = model.rssm.initial(n)
        self.told = model.rssm.initial(n)

    @property
    def state(self) -> State:
        return self.told if self.view == "estimate" else self.blind

    def step(self, vector: Tensor, image: Tensor | None, command: Tensor, is_first: Tensor) -> State:
        """Take in observations (N, D) and the commands (N, A) that were given before them."""
        model = self.model
        token = model.encode(vector, image)
        nothing = command.new_zeros(len(command), len(model.context))
        self.blind = model.rssm.observe_step(self.blind, token, model.action_input(command, nothing, nothing), is_first)
        if self.view == "estimate":
            estimate, _ = model.estimate_context(self.blind)
            told = model.action_input(command, estimate, torch.ones_like(estimate))
            self.told = model.rssm.observe_step(self.told, token, told, is_first)
        return self.state


class Agent:
    """A trained policy as a callable over batches of observations (envs.record.Policy).

    Args:
        sample: draw actions (as in training) instead of taking the mode.
    """

    def __init__(self, model: WorldModel, actor: Actor, view: View = "blind", sample: bool = False, seed: int = 0) -> None:
        self.model, self.actor, self.view, self.sample, self.seed = model, actor, view, sample, seed
        self.reset(1)

    def reset(self, n: int) -> None:
        self.filter = Filter(self.model, self.view, n)
        self.command = torch.zeros(n, self.model.spaces.action)
        self.random = torch.Generator().manual_seed(self.seed).get_state()

    @torch.no_grad()
    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        """Observations (N, ...) to commands (N, A) in [-1, 1]."""
        vector = torch.as_tensor(observation["vector"], dtype=torch.float32)
        image = torch.as_tensor(observation["image"]) if self.model.spaces.image else None
        # Latents are drawn from a stream of the agent's own, so that acting is repeatable and disturbs nobody's draws.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random)
            state = self.filter.step(vector, image, self.command, torch.as_tensor(is_first))
            choice = self.actor(self.model.scale(vector), state)
            action = choice.sample() if self.sample else choice.mode()
            self.random = torch.get_rng_state()
        self.command = action.clamp(-1, 1)
        return self.command.numpy().copy()
