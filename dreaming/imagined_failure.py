"""How much a policy fails in dreams of given worlds: what a search asks, world by world.

A dream knows two things of failure: that it ends (the box over the edge, a fall), and what it pays. Whether a goal is
reached when the time is up, which is what the simulator's `success` says, a dream of a second or two cannot know. So a
world's *failure* is the greater of two shares: of the dreams that ended, by the model's own continuation; and of the
return that is missing beside what the same policy gets from the same starts under the logs' own physics. A robot that
merely stands still, or pushes no box, fails by the second.

Episodes that are short enough are dreamt whole: a goal pays late. Of longer ones a stretch is, from anywhere in them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dreaming.agent import Actor, View
from dreaming.imagination import Rollout, Starts, imagine, starts_from
from dreaming.learning import dream_physics
from dreaming.search import Evaluate, Evaluation, Space
from envs.physics import Physics
from worldmodel.device import device_of, random_kept, seeded, set_random_state
from worldmodel.model import WorldModel
from worldmodel.replay import Replay

WINDOW = 24  # rows of filtering before a start, so that the agent has a memory to act on

# Of worlds (M, F), in the factors' units, and their dreams, S for each world in turn: whether to trust a world, (M,).
Trust = Callable[[np.ndarray, Rollout], np.ndarray]


class ImaginedFailure:
    """Every world is dreamt from the same held-out states.

    Args:
        starts: dreams a world.
        horizon: steps of a dream.
        dreams: at once.
    """

    def __init__(
        self,
        model: WorldModel,
        actor: Actor,
        held_out: Replay,
        nominal: Physics,
        control_hz: float,
        starts: int = 24,
        horizon: int = 80,
        dreams: int = 768,
        seed: int = 0,
    ) -> None:
        self.model, self.actor, self.control_hz, self.horizon, self.seed = model, actor, control_hz, horizon, seed
        self.at_once = max(1, dreams // starts)
        device = held_out.device
        with random_kept(device):
            set_random_state(seeded(seed, device), device)
            whole = bool(held_out.length[held_out.episodes].max() <= horizon)
            self.starts = held_out_starts(model, held_out, actor.view, starts, whole, np.random.default_rng(seed))
        episodes = held_out.reader.episodes
        self.logged = [Physics.of_log(episodes[i]["physics"], nominal) for i in self.starts.episode.tolist()]
        self.imagined_steps = 0
        self.renew()

    def renew(self) -> None:
        """To be called when the policy has learnt."""
        self.usual = float(_returns(self.in_logs()).mean())  # what the policy gets in the logs' worlds

    def in_logs(self) -> Rollout:
        """Dreams from the same states, each in the world that its log had."""
        return self._dream([self.logged])

    def over(self, space: Space, trust: Trust) -> Evaluate:
        """What a search over this space asks."""

        def evaluate(points: np.ndarray) -> Evaluation:
            parts = [part(points[i : i + self.at_once]) for i in range(0, len(points), self.at_once)]
            return Evaluation(*(np.concatenate(both) for both in zip(*parts, strict=True)))

        def part(points: np.ndarray) -> Evaluation:
            rollout = self._dream([[space.world(point, logged) for logged in self.logged] for point in points])
            return Evaluation(self._failure(rollout, len(points)), trust(points, rollout))

        return evaluate

    def _failure(self, rollout: Rollout, worlds: int) -> np.ndarray:
        failure = 1.0 - rollout.continuation.prod(1).reshape(worlds, -1).mean(1)
        if self.usual > 0:  # of what costs even in the logs' worlds no share can be missing
            failure = torch.maximum(failure, 1.0 - _returns(rollout).reshape(worlds, -1).mean(1) / self.usual)
        return failure.clamp(0.0, 1.0).double().cpu().numpy()

    @torch.no_grad()
    def _dream(self, worlds: list[list[Physics]]) -> Rollout:
        physics = [one for world in worlds for one in world]
        starts = self.starts[torch.arange(len(self.logged)).repeat(len(worlds))]
        prepared = dream_physics(self.model, physics, starts.step.cpu().numpy(), self.horizon, self.control_hz)
        self.imagined_steps += len(physics) * self.horizon
        device = device_of(self.model)
        with random_kept(device):
            # The same chances for every world, as far as dreams at once allow.
            set_random_state(seeded(self.seed, device), device)
            return imagine(self.model, self.actor, starts, prepared, self.horizon, noisy=True)


def held_out_starts(
    model: WorldModel, held_out: Replay, view: View, count: int, first: bool, rng: np.random.Generator
) -> Starts:
    """States of random held-out episodes: their first, or any but their last."""
    position = rng.integers(0, len(held_out.episodes), count)
    lengths = held_out.length[held_out.episodes[position]]
    step = np.zeros(count, int) if first else (rng.random(count) * lengths).astype(int)
    rows = (held_out.offset[position] + step)[:, None] + np.arange(1 - WINDOW, 1)
    batch = held_out.gather(np.maximum(rows, 0), images=model.spaces.image)
    return starts_from(model.observe, batch, view)[torch.arange(1, count + 1) * WINDOW - 1]


def near_logs(space: Space, widths: float) -> Trust:
    """Trusts a world whose factors all lie within so many times the logs' width of the logs, where nothing better is
    known.
    """
    low, high = space.shares(np.stack(space.logged()))
    slack = widths * (high - low)

    def trust(points: np.ndarray, rollout: Rollout) -> np.ndarray:
        shares = space.shares(points)
        return ((shares >= low - slack) & (shares <= high + slack)).all(1)

    return trust


def _returns(rollout: Rollout) -> torch.Tensor:
    """(N,): what each dream pays until it ends; arriving at the end is still paid for."""
    alive = torch.cumprod(rollout.continuation, 1)
    before = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
    return (before * rollout.reward).sum(1)
