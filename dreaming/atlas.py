"""The failure atlas: world by world, how often a policy fails in dreams as long as an episode, and in PyBullet."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from configs import UserError, to_dict
from dreaming.agent import Actor
from dreaming.evaluate import Cell
from dreaming.imagination import imagine, starts_from
from dreaming.learning import dream_physics
from dreaming.statistics import spearman, wilson
from envs import registry
from envs.physics import Physics
from worldmodel.model import WorldModel
from worldmodel.replay import Replay

MOST_STATES = 16_000  # that are imagined at once, for the memory's sake


@dataclass
class AtlasCell:
    """One world: failures among dreams of it and among episodes in PyBullet, at least one of each."""

    scenario: str
    label: str
    physics: dict[str, float]
    in_logs: bool
    dreams: int
    dreamt_failures: int
    episodes: int
    true_failures: int

    @property
    def dreamt_rate(self) -> float:
        return self.dreamt_failures / self.dreams

    @property
    def true_rate(self) -> float:
        return self.true_failures / self.episodes

    @property
    def dreamt_interval(self) -> tuple[float, float]:
        return wilson(self.dreamt_failures, self.dreams)

    @property
    def true_interval(self) -> tuple[float, float]:
        return wilson(self.true_failures, self.episodes)


@dataclass
class Atlas:
    task: str
    policy: str
    cells: list[AtlasCell] = field(default_factory=list)

    def rank_correlation(self) -> float | None:
        """Of dreamt with true rates over the cells; Spearman's, None where all worlds are alike."""
        return spearman([cell.dreamt_rate for cell in self.cells], [cell.true_rate for cell in self.cells])

    def scatter(self, draws: int = 2000, seed: int = 0) -> tuple[tuple[float, float] | None, float | None]:
        """What the number of episodes does to the correlation.

        Returns:
            95% interval of the correlation, episodes drawn anew in every cell; and the median correlation of PyBullet
            with itself, between two such draws: more than that nobody can ask of dreams. None where undefined.
        """
        rng = np.random.default_rng(seed)

        def drawn(counts: list[int], rates: list[float]) -> np.ndarray:
            return rng.binomial(counts, rates, (draws, len(self.cells))) / counts

        dreams, episodes = [cell.dreams for cell in self.cells], [cell.episodes for cell in self.cells]
        dreamt = drawn(dreams, [cell.dreamt_rate for cell in self.cells])
        true, again = (drawn(episodes, [cell.true_rate for cell in self.cells]) for _ in range(2))
        across, itself = (
            [rho for a, b in zip(one, true, strict=True) if (rho := spearman(a, b)) is not None]
            for one in (dreamt, again)
        )
        low, high = np.quantile(across, [0.025, 0.975]) if across else (np.nan, np.nan)
        return (float(low), float(high)) if across else None, float(np.median(itself)) if itself else None

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)


@torch.no_grad()
def dreamt_failures(
    model: WorldModel, actor: Actor, replay: Replay, task: str, physics: Physics, count: int, seed: int
) -> np.ndarray:
    """Dreams from the beginnings of logged episodes, as long as an episode, all in one world: (count,) of bool.

    A dream fails as an episode does: it ends before its time (continuation below a half), or without the task done.
    """
    cls = registry.task_class(task)
    if not len(replay.episodes):
        raise UserError("no episodes to begin dreams from")
    which = np.random.default_rng(seed).choice(len(replay.episodes), count)
    failed: list[bool] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        at_once = max(1, MOST_STATES // cls.max_steps)
        for begin in range(0, count, at_once):
            first_rows = replay.offset[which[begin : begin + at_once]][:, None]
            starts = starts_from(model.observe, replay.gather(first_rows), actor.view)
            n = len(first_rows)
            told = dream_physics(model, [physics] * n, np.zeros(n, np.int64), cls.max_steps, cls.control_hz)
            rollout = imagine(model, actor, starts, told, cls.max_steps, noisy=True)
            ended = (rollout.continuation < 0.5).any(1).tolist()
            failed += [
                bool(over or not cls.solved(vectors))
                for over, vectors in zip(ended, rollout.observation.numpy(), strict=True)
            ]
    return np.array(failed)


def dreamable(cells: Sequence[Cell], model: WorldModel, nominal: Physics) -> tuple[list[Cell], dict[str, str]]:
    """The cells whose worlds the model can be told, and for each of the others why not."""
    kept: list[Cell] = []
    left_out: dict[str, str] = {}
    for scenario, label, physics in cells:
        changed = [name for name, value in physics.to_dict().items() if value != getattr(nominal, name)]
        missing = [name for name in changed if not model.context.covers(name)]
        if missing:
            left_out[f"{scenario} {label}"] = f"the logs never vary {', '.join(missing)}"
        else:
            kept.append((scenario, label, physics))
    return kept, left_out
