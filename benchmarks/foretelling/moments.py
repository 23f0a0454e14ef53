"""Moments of logged episodes to foretell from: some rows of the past, and what the log then shows."""

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreaming.truth import Dream
from worldmodel.replay import Batch, Replay

PAST = 20  # rows that are seen before foretelling begins, fewer near an episode's beginning
Told = Literal["the truth", "nothing", "nominal"]


class Foretold(NamedTuple):
    """N rollouts of H steps under the logged actions."""

    vector: Tensor  # (N, H, D) in the log's own units
    reward: Tensor  # (N, H) on arriving
    continuation: Tensor  # (N, H) probability of not having terminated on arriving


class Moments:
    """N moments, drawn evenly over the rows of a replay's episodes that leave at least a step to foretell.

    `batch` (N, PAST + H) holds each moment's past and future; past the episode's end its last row is repeated, and so
    is the first row where the past is shorter.
    """

    def __init__(self, replay: Replay, count: int, horizon: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = replay.length[replay.episodes]  # of which each but the last may be a moment
        ends = np.cumsum(rows)
        at = rng.choice(int(ends[-1]), count, replace=count > ends[-1])
        self.replay, self.horizon = replay, horizon
        self.position = np.searchsorted(ends, at, side="right")
        self.step = at - (ends - rows)[self.position]
        self.steps = np.minimum(horizon, rows[self.position] - self.step)  # (N,) that the log shows, at most H
        rows_from_start = self.step[:, None] + np.arange(1 - PAST, horizon + 1)
        within = np.clip(rows_from_start, 0, rows[self.position][:, None])
        self.batch = replay.gather(replay.offset[self.position][:, None] + within)
        # A repeated first row is a beginning each time, so that nothing is made of it.
        self.batch.is_first[:, 1:] |= torch.from_numpy(within[:, 1:] == 0)

    def told(self, what: Told, nominal: dict[str, float]) -> Batch:
        """The batch as one sees it who is told this of the physics; pushes are part of it."""
        if what == "the truth":
            return self.batch
        if what == "nothing":
            none = torch.zeros_like(self.batch.known)
            return replace(self.batch, known=none, labelled=torch.zeros_like(self.batch.labelled))
        values = torch.from_numpy(self.replay.context.encode(nominal)[0])
        return replace(self.batch, context=values.expand_as(self.batch.context))

    def dreams(self, foretold: Foretold, scenario: str) -> list[Dream]:
        """As the audit takes them."""
        start = self.batch.vector[:, PAST - 1 : PAST]
        observation = torch.cat([start, foretold.vector], 1).numpy()
        action = self.batch.action[:, PAST:].numpy()
        reward, continuation = foretold.reward.numpy(), foretold.continuation.numpy()
        return [
            Dream(
                episode=int(self.replay.episodes[self.position[i]]),
                step=int(self.step[i]),
                scenario=scenario,
                physics={},  # as logged
                action=action[i],
                observation=observation[i],
                reward=reward[i],
                continuation=continuation[i],
            )
            for i in range(len(self.step))
        ]
