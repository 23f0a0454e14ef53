"""Behaviour cloning: logs are demonstrations; the better part of them starts the actor and keeps it near the data."""

import numpy as np
import torch
from torch import Tensor

from dreaming.agent import Actor
from worldmodel.model import WorldModel
from worldmodel.replay import Batch, Replay
from worldmodel.rssm import State


def good_episodes(replay: Replay, share: float = 0.7) -> np.ndarray:
    """Indices into the log of the `share` of episodes with the highest return, terminations last.

    Demonstrations contain accidents; cloning them clones the accidents.
    """
    rows = replay.reader.rows
    returns = np.array([float(rows["reward"][s : s + n].sum()) for s, n in zip(replay.start, replay.length, strict=True)])
    order = sorted(replay.episodes, key=lambda e: (replay.terminated[e], -returns[e]))
    return np.array(order[: max(1, round(share * len(order)))])


def imitation_loss(model: WorldModel, actor: Actor, batch: Batch, agent: State) -> Tensor:
    """Negative log likelihood of the logged commands (B, T) given the agent's filtered states (B, T, ...)."""
    choice = actor(model.scale(batch.vector), agent)
    counted = (~batch.is_last).float()
    return -(choice.log_prob(batch.next_action) * counted).sum() / counted.sum().clamp(min=1)


@torch.no_grad()
def agent_states(model: WorldModel, batch: Batch) -> State:
    return model.observe(batch, hidden=True)
