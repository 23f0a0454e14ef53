"""Behaviour cloning: logs are demonstrations; the better part of them starts the actor and keeps it near the data."""

from torch import Tensor

from dreaming.agent import Actor
from dreaming.logged_returns import episode_return
from worldmodel.episode import WAKE
from worldmodel.model import WorldModel
from worldmodel.replay import Batch, Replay


def good_episodes(replay: Replay, share: float = 0.7) -> list[int]:
    """Indices into the log of the `share` of episodes with the highest return, terminations last.

    Demonstrations contain accidents; cloning them clones the accidents.
    """

    def merit(episode: int) -> tuple[bool, float]:
        return not replay.terminated[episode], episode_return(replay, episode)

    shown = [int(e) for e in replay.episodes if WAKE not in replay.reader.episodes[e]["info"]]  # by a demonstrator
    best_first = sorted(shown, key=merit, reverse=True)
    return best_first[: max(1, round(share * len(best_first)))]


def imitation_loss(model: WorldModel, actor: Actor, batch: Batch, estimate: Tensor) -> Tensor:
    """Negative log likelihood of the logged commands (B, T) given the agent's estimate of its physics (B, T, C)."""
    choice = actor(model.scale(batch.vector), estimate)
    counted = (~batch.is_last).float()
    return -(choice.log_prob(batch.demonstrated) * counted).sum() / counted.sum().clamp(min=1)
