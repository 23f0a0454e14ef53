"""How far a rollout can be believed: split-conformal bounds on its error, from held-out episodes.

The signal is the ensemble's disagreement, where the rollout is and on the way there. The model's own stated noise tells
large errors from small ones as well or better within the logs; beyond them it goes on claiming what it knew, and bounds
made of it were measured to hold in 40 to 70% of rollouts where 90% was stated, those of disagreement in 90% and more.

Sources: Vovk et al., "Algorithmic Learning in a Random World" (2005); several windows an episode: Lee, Barber &
Willett, "Distribution-free inference with hierarchical data" (2023). Letters: N windows, H steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from worldmodel.device import random_kept, seeded, set_random_state

if TYPE_CHECKING:
    from worldmodel.model import Belief, WorldModel
    from worldmodel.replay import Batch, Replay

PAST = 20  # rows that are filtered before a rollout begins, fewer near an episode's beginning
HORIZON = 50
LEAST = 1e-6


@dataclass(frozen=True)
class Calibration:
    """With probability `coverage`, at every step up to its trust horizon a rollout's error is below its bound.

    The probability is that of a rollout from a random moment of a new episode of the kind that was held out, under its
    own commands, and it is of all those steps at once. Errors are root mean squares over channels, in standard
    deviations of each over the training logs. The trust horizon ends before the first step whose bound exceeds
    `tolerance`, and at `horizon`.

    A policy that commands otherwise errs otherwise. With a tolerance of 0.5 bounds were measured to hold for a clone's
    dreams as well, with 1.0 they did not; audits of dreams can set the level anew (dreaming.trust.recalibrated).
    """

    coverage: float
    tolerance: float
    horizon: int
    shape: tuple[float, ...]  # of the expected error: see `_terms`
    level: float  # the bound is so many times the expected error; infinite where too few episodes were held out
    scale: float  # mean disagreement on held-out transitions
    episodes: int  # held out

    def bound(self, disagreement: Tensor) -> Tensor:
        """(N, H) bounds on the error from the ensemble's disagreement (N, H) along rollouts."""
        return self.level * _expected(_terms(disagreement), self.shape)

    def trusted(self, bound: Tensor) -> Tensor:
        """(N,) trust horizons, in steps, of rollouts with these bounds (N, H)."""
        within = (bound[:, : self.horizon] <= self.tolerance).long()
        return within.cumprod(1).sum(1)


class Windows(NamedTuple):
    """Open-loop rollouts of logged commands beside what the log then shows."""

    error: np.ndarray  # (N, H) root mean square over channels in their standard deviations
    disagreement: Tensor  # (N, H)
    lived: np.ndarray  # (N, H) bool: the episode went on as far
    episode: np.ndarray  # (N,) position in the replay


def calibrate(
    model: WorldModel,
    replay: Replay,
    held_out: Replay,
    coverage: float = 0.9,
    tolerance: float = 0.5,
    windows: int = 400,
    seed: int = 0,
) -> Calibration:
    """What error to expect of a given disagreement is learnt on the training logs, the level on the held-out ones.

    Raises:
        UserError: no ensemble, or fewer held-out episodes than the coverage needs.
    """
    if model.ensemble is None:
        raise UserError("this world model has no ensemble to calibrate: train it with ensemble=5 and carry=True")
    fewest = fewest_episodes(coverage)
    if len(held_out.episodes) < fewest:
        raise UserError(
            f"{len(held_out.episodes)} held-out episodes cannot show that {coverage:.0%} of rollouts stay within a "
            f"bound; {fewest} can: give {10 * fewest} episodes, or a lower coverage"
        )
    learnt, judged = (rolled(model, logs, windows, seed) for logs in (replay, held_out))
    counted = learnt.lived & np.isfinite(learnt.error)
    terms = _terms(learnt.disagreement).numpy()[counted]
    shape = np.linalg.lstsq(terms, np.log(learnt.error[counted] + LEAST), rcond=None)[0]
    expected = _expected(_terms(judged.disagreement), shape.tolist()).numpy()
    level = conformal_level(scores(judged.error, expected, judged.lived, tolerance), judged.episode, coverage)
    scale = float(judged.disagreement[:, 0].mean())
    return Calibration(coverage, tolerance, HORIZON, tuple(shape.tolist()), level, scale, len(held_out.episodes))


def fewest_episodes(coverage: float) -> int:
    """That can show that this share of rollouts stays within a bound."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def scores(error: np.ndarray, expected: np.ndarray, lived: np.ndarray, tolerance: float) -> np.ndarray:
    """(N,) the least level at which no error within the trust horizon exceeds its bound; all others (N, H).

    A step says nothing against a level at which it lies beyond the horizon, and that shrinks as the level grows.
    """
    off = np.where(lived, np.where(np.isfinite(error), error, np.inf) / expected, 0.0)
    cut = tolerance / np.maximum.accumulate(expected, 1)  # the greatest level at which the step is within
    # Just above the cut the step is out.
    return np.minimum(off, np.nextafter(cut, np.inf)).max(1)


def conformal_level(scores: np.ndarray, episode: np.ndarray, coverage: float) -> float:
    """Below it lies the score of a random window of a new episode, with probability `coverage`; infinity is possible.

    Args:
        scores: (N,) of windows.
        episode: (N,) which episode each is from. Windows of one episode are alike, so that each episode counts once.
    """
    _, which, count = np.unique(episode, return_inverse=True, return_counts=True)
    weight = 1 / (len(count) + 1) / count[which]
    order = np.argsort(scores)
    reached = np.cumsum(weight[order]) >= coverage - 1e-9
    return float(scores[order][reached][0]) if reached.any() else math.inf


class Moments(NamedTuple):
    """Random moments of logs, each with the rows up to it and those after."""

    batch: Batch  # (N, past + H)
    lived: np.ndarray  # (N, H) bool: the episode went on as far; beyond, its last row is repeated
    episode: np.ndarray  # (N,) position in the replay


def moments(replay: Replay, windows: int, seed: int, past: int, horizon: int) -> Moments:
    """As many moments of each of the replay's episodes as of any other."""
    rng = np.random.default_rng(seed)
    rounds = -(-windows // len(replay.episodes))
    position = np.concatenate([rng.permutation(len(replay.episodes)) for _ in range(rounds)])[:windows]
    length = replay.length[replay.episodes[position]]
    step = rng.integers(0, np.maximum(1, length))
    rows = np.clip(step[:, None] + np.arange(1 - past, horizon + 1), 0, length[:, None])
    batch = replay.gather(replay.offset[position][:, None] + rows)
    # A first row that is repeated is a beginning each time, so that nothing is made of it.
    batch.is_first[:, 1:] |= torch.from_numpy(rows[:, 1:] == 0).to(replay.device)
    return Moments(batch, step[:, None] + np.arange(1, horizon + 1) <= length[:, None], position)


@torch.no_grad()
def rolled(model: WorldModel, replay: Replay, windows: int, seed: int, horizon: int = HORIZON) -> Windows:
    """Rolls out logged commands from random moments of the replay's episodes, as many of each as of any other."""
    batch, lived, position = moments(replay, windows, seed, PAST, horizon)
    was_training = model.training
    model.eval()
    with random_kept(replay.device):
        set_random_state(seeded(seed, replay.device), replay.device)
        start, inputs = model.observe_past(batch, PAST)
        imagined = model.imagine(start, inputs)
    model.train(was_training)
    off = imagined.vector - model.scale(batch.vector[:, PAST:])
    return Windows(
        error=off.square().mean(-1).sqrt().cpu().numpy().astype(np.float64),
        disagreement=disagreement(model, start, imagined, inputs).cpu(),
        lived=lived,
        episode=position,
    )


def disagreement(model: WorldModel, start: Belief, imagined: Belief, inputs: Tensor) -> Tensor:
    """(N, H): how far the members disagree on each step of rollouts from `start` (N,) to `imagined` (N, H)."""
    if model.ensemble is None:
        raise UserError("this world model has no ensemble: train it with ensemble=5 and carry=True")
    before = torch.cat([start.vector.unsqueeze(1), imagined.vector[:, :-1]], 1)
    return model.ensemble.disagreement(before, inputs).square().mean(-1).sqrt()


def _terms(disagreement: Tensor) -> Tensor:
    """(N, H) to (N, H, 5): logarithms of the disagreement here, of its mean so far and of the step; its square; one."""
    steps = torch.arange(1, disagreement.shape[1] + 1, dtype=disagreement.dtype, device=disagreement.device)
    ahead = steps.log().expand_as(disagreement)
    on_the_way = disagreement.cumsum(1) / steps
    logs = [(part + LEAST).log() for part in (disagreement, on_the_way)]
    return torch.stack([*logs, ahead, ahead**2, torch.ones_like(ahead)], -1)


def _expected(terms: Tensor, shape: Sequence[float]) -> Tensor:
    # Not as one product: a GPU that is recorded takes numbers of Python, but no tensor that the CPU makes.
    return torch.stack([factor * term for factor, term in zip(shape, terms.unbind(-1), strict=True)]).sum(0).exp()
