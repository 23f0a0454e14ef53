"""What logged rows turned out to be worth: the critic's first lesson.

A critic that learns from dreams alone has to carry what pays back through them, a dream's length at a time, which takes
hundreds of updates; the logs know it at once.
"""

import math

import numpy as np

from worldmodel.replay import Replay


def logged_returns(replay: Replay, episode: np.ndarray, step: np.ndarray, discount: float) -> np.ndarray:
    """Discounted sums (N,) of what was paid after each row, given by its episode (N,) and step (N,) in the log.

    Nothing is paid after a termination. Where a log was cut off, or after three times 1 / (1 - discount) steps, it is
    taken to go on at the rate of the last 1 / (1 - discount) steps that are known.
    """
    lasting = 1 / (1 - discount)
    ahead = np.arange(math.ceil(3 * lasting))
    left = replay.length[episode] - step
    known = np.minimum(left, len(ahead))
    first = replay.start[episode] + step
    paid = _paid(replay, first[:, None] + ahead, ahead < known[:, None])
    back = np.arange(1, 1 + math.ceil(lasting))
    lately = back <= np.minimum(step + known, replay.length[episode])[:, None]
    rate = _paid(replay, (first + known)[:, None] - back, lately).sum(1) / np.maximum(1, lately.sum(1))
    over = replay.terminated[episode] & (left <= len(ahead))
    return paid @ discount**ahead + np.where(over, 0.0, discount**known * lasting * rate)


def episode_return(replay: Replay, episode: int) -> float:
    """Undiscounted, of a whole episode of the log."""
    start, length = replay.start[episode], replay.length[episode]
    return float(replay.reader.rows["reward"][start : start + length].sum())


def poor_and_excellent(replay: Replay, share: float = 0.05) -> tuple[float, float]:
    """Undiscounted returns: what this share of the logged episodes does not reach, and a quarter more than it exceeds.

    The quarter is for policies that do better than the logs.
    """
    returns = [episode_return(replay, int(episode)) for episode in replay.episodes]
    poor, good = np.quantile(returns, [share, 1 - share])
    return float(poor), float(poor + 1.25 * (good - poor))


def _paid(replay: Replay, row: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Rewards (N, K) for what was done in these rows, zero where they do not count."""
    rewards = replay.reader.rows["reward"]
    return np.where(counted, rewards[np.where(counted, row, 0)], 0.0)
