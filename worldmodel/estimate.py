"""What a robot makes of its own physics, from what it sees and what it commanded, in SI units.

No label is read for it, as there is none on the robot. A model with a transition is asked under which physics what was
seen is likely (`worldmodel.inference`); pushes, and all factors of a model without, are the context head's. How far to
believe it is settled on held-out episodes that are labelled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from worldmodel.calibration import conformal_level
from worldmodel.context import PUSH
from worldmodel.device import device_of, random_kept, random_state, seeded, set_random_state
from worldmodel.inference import Inference
from worldmodel.model import WorldModel
from worldmodel.replay import Replay

COVERAGE = 0.9
WIDTH = 1.645  # standard deviations to either side that hold so much of a normal distribution
EPISODES, ROWS, ROWS_OF_IMAGES = 32, 1000, 32  # filtered at once: memory stays bounded however long an episode is
ABSURD = 1e3  # standard deviations from the logs' mean
FOLDS = 10
JUDGED, LONGEST = 40, 200  # held-out episodes, and steps of each, that judge the estimate: a few seconds
Pair = tuple[torch.Tensor, ...]  # means and deviations


class Estimate(NamedTuple):
    """Of each factor, in SI. With `std` as calibrated, the truth lies within 1.645 of it in 90% of moments."""

    mean: np.ndarray  # (..., C)
    std: np.ndarray  # (..., C)


def inference_of(model: WorldModel, n: int) -> Inference | None:
    return Inference(model, model.transition, n) if model.transition is not None and len(model.context) else None


def in_si(model: WorldModel, head: Pair, inferred: Pair | None) -> Estimate:
    """From means and deviations (..., C) scaled as the context: what was inferred, where it was; else the head's."""
    if inferred is not None:
        of_head = torch.tensor([name == PUSH for name in model.context.names], device=head[0].device)
        head = tuple(torch.where(of_head, one, other) for one, other in zip(head, inferred, strict=True))
    mean, std = (part.cpu().numpy().astype(np.float64) for part in head)
    centre, scale = np.array(model.context.centre), np.array(model.context.scale)
    return Estimate(centre + scale * mean, scale * std * np.array(model.widening or np.ones(len(scale))))


class Estimator:
    """The estimate of N machines as they go: one call a control step."""

    def __init__(self, model: WorldModel, n: int = 1, seed: int = 0) -> None:
        self.model, self.device = model, device_of(model)
        self.belief, self.random = model.initial(n), seeded(seed, self.device)
        self.inference = inference_of(model, n)
        self.seen = model.mean.expand(n, -1)  # what was measured last, channel by channel

    @torch.no_grad()
    def step(self, observation: dict[str, np.ndarray], command: np.ndarray, is_first: np.ndarray) -> Estimate:
        """From what was just observed, as the log has it (N, ...), and the command that led there.

        Args:
            observation: a sample that is no number, or absurdly far out, counts as not measured, as in logs.
            command: (N, A) in [-1, 1], as the policy gave it; of no account where an episode begins.
            is_first: (N,) bool: an episode begins, and what was known is forgotten.
        """
        model, device = self.model, self.device
        vector = torch.as_tensor(observation["vector"], dtype=torch.float32).to(device)
        measured = torch.isfinite(vector) & (model.scale(vector).abs() < ABSURD)
        vector = self.seen = torch.where(measured, vector, self.seen)
        image = torch.as_tensor(observation["image"]).to(device) if model.spaces.image else None
        given = torch.as_tensor(command, dtype=torch.float32).to(device)
        nothing = given.new_zeros(len(given), len(model.context))
        with random_kept(device):  # draws from a stream of its own, so as to disturb nobody's
            set_random_state(self.random, device)
            inputs = model.action_input(given, nothing, nothing)
            begins = torch.as_tensor(is_first).to(device)
            self.belief = model.observe_step(self.belief, vector, image, inputs, begins)
            self.random = random_state(device)
        inferred = self.inference and self.inference.step(model.scale(vector), given, begins)
        return in_si(model, model.estimate_context(self.belief), inferred)


class Series(NamedTuple):
    """One episode's estimate over time, T + 1 rows; row t is known after observation t."""

    episode: int  # in the log
    estimate: Estimate  # (T + 1, C)
    label: np.ndarray  # (T + 1, C) SI, NaN where the log does not say
    head: np.ndarray  # (T + 1, C) SI, the context head's own mean


@torch.no_grad()
def estimated(model: WorldModel, replay: Replay, most: int | None = None, seed: int = 0) -> Iterator[Series]:
    """The estimate along every episode of the replay, in order; of each the first `most` steps."""
    was_training = model.training
    model.eval()
    device = replay.device
    centre, scale = np.array(model.context.centre), np.array(model.context.scale)
    random = seeded(seed, device)
    for first in range(0, len(replay.episodes), EPISODES):
        which = np.arange(first, min(first + EPISODES, len(replay.episodes)))
        last = np.minimum(replay.length[replay.episodes[which]], most or replay.length.max())
        parts, labels, heads, belief = [], [], [], None
        inference = inference_of(model, len(which))
        once = ROWS_OF_IMAGES if model.spaces.image else ROWS
        for start in range(0, int(last.max()) + 1, once):
            rows = np.minimum(np.arange(start, min(start + once, int(last.max()) + 1)), last[:, None])
            batch = replay.gather(replay.offset[which][:, None] + rows)
            batch.is_first[:, 0] = start == 0
            with random_kept(device):
                set_random_state(random, device)
                inputs = model.inputs(batch, torch.ones_like(batch.labelled))
                beliefs, *_ = model.filter(batch.vector, batch.image, inputs, batch.is_first, after=belief)
                random = random_state(device)
            belief = beliefs.at(slice(None), -1)
            head, inferred = model.estimate_context(beliefs), None
            if inference is not None:
                rows_of = (model.scale(batch.vector), batch.action, batch.is_first)
                steps = [inference.step(*(x[:, t] for x in rows_of)) for t in range(rows.shape[1])]
                inferred = tuple(torch.stack(part, 1) for part in zip(*steps, strict=True))
            parts.append(in_si(model, head, inferred))
            heads.append(centre + scale * head[0].cpu().numpy())
            known, value = batch.known.cpu().numpy() > 0, batch.context.cpu().numpy().astype(np.float64)
            labels.append(np.where(known, centre + scale * value, np.nan))
        mean, std = (np.concatenate([part[k] for part in parts], 1) for k in range(2))
        label, head = (np.concatenate(part, 1) for part in (labels, heads))
        for k, steps in enumerate(last):
            own = slice(0, int(steps) + 1)
            yield Series(
                int(replay.episodes[which[k]]), Estimate(mean[k, own], std[k, own]), label[k, own], head[k, own]
            )
    model.train(was_training)


@dataclass(frozen=True)
class FactorJudged:
    """How one factor's estimate did on held-out episodes, over all their labelled moments. Errors are in SI.

    `coverage` is the share of moments whose label lay in the interval of stated 90%. Where the uncertainty was
    calibrated, an episode's intervals are judged as calibrated without it (and a tenth of the others).
    """

    name: str
    episodes: int  # labelled
    error: float  # root mean square
    guess: float  # that of always guessing the training logs' mean
    late: float  # the error in the last quarter of each episode
    head: float  # the error of the context head alone
    coverage: float
    widening: float | None  # of the standard deviation the head states; None: too few episodes to calibrate it

    def line(self) -> str:
        calibrated = "" if self.widening is not None else " (too few labelled held-out episodes to calibrate it)"
        return (
            f"{self.name}: estimated from history to {self.error:.3g} ({self.late:.3g} in the last quarter of an "
            f"episode; the logs' mean {self.guess:.3g}, the context head {self.head:.3g}); what it states at "
            f"{COVERAGE:.0%} held in {self.coverage:.0%} of {self.episodes} held-out episodes' moments{calibrated}"
        )


def judge(model: WorldModel, replay: Replay, held_out: Replay) -> tuple[list[FactorJudged], list[Series]]:
    """Judges the estimate on held-out episodes, and sets `model.widening` by them. Factors no log labels are left out.

    Returns:
        Each factor judged, and the held-out series as calibrated.
    """
    model.widening = None
    if not len(model.context):
        return [], []
    chosen = held_out.episodes[:: -(-len(held_out.episodes) // JUDGED)]
    held_out = Replay(held_out.reader, model.context, chosen.tolist(), device=held_out.device)
    found = list(estimated(model, held_out, LONGEST))
    widening, judged = [1.0] * len(model.context), []
    for c, name in enumerate(model.context.names):
        known = [np.isfinite(one.label[:, c]) for one in found]
        label, mean, std, head = (
            np.concatenate([part(one)[rows] for one, rows in zip(found, known, strict=True)])
            for part in (
                lambda one, c=c: one.label[:, c],
                lambda one, c=c: one.estimate.mean[:, c],
                lambda one, c=c: one.estimate.std[:, c],
                lambda one, c=c: one.head[:, c],
            )
        )
        if not len(label):
            continue
        episode = np.concatenate([np.full(int(rows.sum()), k) for k, rows in enumerate(known)])
        late = np.concatenate([np.arange(len(rows))[rows] >= 0.75 * len(rows) for rows in known])
        score = np.abs(label - mean) / std
        level = conformal_level(score, episode, COVERAGE)
        out = _out_of_fold(score, episode)
        calibrated = bool(np.isfinite(level) and np.isfinite(out).all())
        if calibrated:
            widening[c] = float(level / WIDTH)
        judged.append(
            FactorJudged(
                name=name,
                episodes=len(np.unique(episode)),
                error=_rms(label - mean),
                guess=_rms(label - guesses(replay)[c]),
                late=_rms((label - mean)[late]),
                head=_rms(label - head),
                coverage=_by_episode(score <= (out if calibrated else WIDTH), episode),
                widening=widening[c] if calibrated else None,
            )
        )
    model.widening = tuple(widening) if any(factor.widening is not None for factor in judged) else None
    wider = np.array(widening)
    return judged, [one._replace(estimate=Estimate(one.estimate.mean, one.estimate.std * wider)) for one in found]


def _out_of_fold(score: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """(N,) for each moment the level that the other folds' episodes give."""
    names = np.unique(episode)
    fold = np.searchsorted(names, episode) % min(FOLDS, len(names))
    out = np.full(len(score), np.inf)
    for k in range(fold.max() + 1):
        others = fold != k
        if others.any():
            out[~others] = conformal_level(score[others], episode[others], COVERAGE)
    return out


def _by_episode(held: np.ndarray, episode: np.ndarray) -> float:
    """A share over moments, each episode counting the same."""
    _, which, count = np.unique(episode, return_inverse=True, return_counts=True)
    return float((np.bincount(which, held) / count).mean())


def guesses(replay: Replay) -> np.ndarray:
    """(C,) the mean of each factor over the training logs' labelled steps, SI; of pushes, which are rare, none."""
    spec, chosen = replay.context, replay.episodes
    weight = replay.length[chosen][:, None] * replay.known[chosen]
    mean = (weight * replay.values[chosen]).sum(0) / np.maximum(weight.sum(0), 1)
    return np.array(spec.centre) + np.array(spec.scale) * mean


def _rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.square(off).mean())) if len(off) else float("nan")


def by_step(found: Sequence[Series], guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, C) root mean square errors by step of an episode: of the estimate, and of the guess (C,)."""
    longest = max(len(one.label) for one in found)
    off, still = (np.full((len(found), longest, len(guess)), np.nan) for _ in range(2))
    for k, one in enumerate(found):
        off[k, : len(one.label)] = one.estimate.mean - one.label
        still[k, : len(one.label)] = np.asarray(guess) - one.label
    seen = np.isfinite(off).sum(0)
    counted = np.where(seen, seen, np.nan)
    return np.sqrt(np.nansum(off**2, 0) / counted), np.sqrt(np.nansum(still**2, 0) / counted)
