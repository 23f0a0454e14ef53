"""The silent failures of a world model: each a check, and plain advice where it finds something.

A run with one of them ends with a loss that looks fine. All but one check look at what the model does on held-out logs;
the last looks at the logs alone. Letters as in `worldmodel.model`; N windows, H steps ahead.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.calibration import Moments, moments
from worldmodel.device import random_kept, seeded, set_random_state
from worldmodel.drift import drift
from worldmodel.model import WorldModel
from worldmodel.replay import Replay
from worldmodel.results import channel_names

PAST, AHEAD = 10, 10  # rows that are filtered, and steps that are then imagined
WINDOWS = 192
UPDATES = 300  # before so many a model is merely untrained
COLLAPSED = 0.05  # nats that all latents together tell, below which they tell nothing
CONSTANT = 0.05  # share of the logged rewards' spread
FOLLOWED = 0.1  # share of what a straight line explains of a channel, below which the decoder ignores it
EXPLAINED = 0.2  # of a channel by a straight line, from which on there is something to ignore
SURE = 3.0  # standard errors
GAP = 1.5  # error on held-out over that on training logs


@dataclass(frozen=True)
class Finding:
    name: str
    advice: str  # what was seen, and what helps

    def __str__(self) -> str:
        return f"{self.name}: {self.advice}"


@torch.no_grad()
def diagnose(model: WorldModel, replay: Replay, held_out: Replay, updates: int, seed: int = 0) -> list[Finding]:
    """What looks wrong; empty for a healthy model on healthy logs. Random numbers of others stay where they are."""
    found = list(_of_logs(replay))
    if updates < UPDATES:
        return found
    was_training = model.training
    model.eval()
    with random_kept(replay.device):
        set_random_state(seeded(seed, replay.device), replay.device)
        seen = Filtered.of(model, moments(held_out, WINDOWS, seed, PAST, AHEAD))
        found += _latents(model, seen)
        found += _reward(model, seen)
        found += _channels(model, seen, replay)
        found += _commands(model, seen)
        found += _amount(model, seen, Filtered.of(model, moments(replay, WINDOWS, seed, PAST, AHEAD)), replay)
    model.train(was_training)
    return found


@dataclass
class Filtered:
    """Windows of logs and what the model makes of them, told what physics the log knows."""

    moments: Moments
    inputs: Tensor  # (N, PAST + H, ·)
    reward: Tensor  # (N, PAST + H) as predicted
    posterior: Tensor  # (N, PAST + H, S, K) log probabilities
    prior: Tensor
    expected: Tensor  # (N, PAST + H, D) of each row from what came before, or its reconstruction if nothing is carried
    before: Tensor  # (N, PAST + H, D) scaled
    ahead: Tensor  # (N, H, D) imagined, scaled
    error: Tensor  # (N, H, D) of it
    counted: Tensor  # (N, PAST + H) bool: rows with a past to judge them by

    @classmethod
    def of(cls, model: WorldModel, windows: Moments) -> "Filtered":
        batch = windows.batch
        inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
        beliefs, posterior, before = model.filter(batch.vector, batch.image, inputs, batch.is_first)
        start = beliefs.at(slice(None), PAST - 1)
        ahead = model.scale(model.decode(model.imagine(start, inputs[:, PAST:])))
        lived = torch.as_tensor(windows.lived, device=ahead.device)
        counted = ~batch.is_first
        counted[:, PAST:] &= lived
        scaled = model.scale(batch.vector)
        previous = torch.cat([scaled[:, :1], scaled[:, :-1]], 1)
        return cls(
            moments=windows,
            inputs=inputs,
            reward=model.predict_reward(beliefs),
            posterior=posterior,
            prior=model.rssm.prior_log_probs(beliefs.deter),
            expected=model.expected(beliefs.latent, before, inputs)[0],
            before=previous,
            ahead=ahead,
            error=(ahead - scaled[:, PAST:]) * lived.unsqueeze(-1),
            counted=counted,
        )


def _of_logs(replay: Replay) -> Iterator[Finding]:
    for change in drift(replay.reader, replay.context, replay.episodes.tolist()):
        yield Finding(
            "logs that change with time",
            f"{change}. The machine, its load or its floor changed on the way, and the model learns a mean of both: "
            "label what did (`physics` in the mapping), or leave out the part that is no longer true",
        )


def _latents(model: WorldModel, seen: Filtered) -> Iterator[Finding]:
    """Of models that hold an observation, or the image, in their latents.

    Where all of it is carried beside them they are free to tell nothing: in a good model of rover they told 0.2 nats,
    and the KL lay below the free ones in every row.
    """
    if model.carried and model.image_decoder is None:
        return
    posterior, prior = seen.posterior[seen.counted], seen.prior[seen.counted]  # (rows, S, K)
    p = posterior.exp()
    told = float((p * (posterior - p.mean(0).log())).sum((-2, -1)).mean())
    gap = (p * (posterior - prior)).sum((-2, -1))
    free = model.config.rssm.free_nats
    if told < COLLAPSED:
        yield Finding(
            "posterior collapse",
            f"the latents are the same whatever is observed (they tell {told:.2g} nats of it), so that nothing of it "
            "reaches dreams. Train longer, or with a lower learning rate; look for single channels of huge values, "
            "beside which all else looks alike",
        )
    elif float((gap < free).float().mean()) > 0.95 and float(gap.mean()) > 0.5 * told:
        yield Finding(
            "KL at the free-bits floor",
            f"of the {told:.2g} nats that the latents tell of an observation the prior foretells less than half, and "
            f"as that lies below the {free:g} nats that are free, nothing teaches it: dreams draw latents at random. "
            "Lower rssm.free_nats in the size",
        )


def _reward(model: WorldModel, seen: Filtered) -> Iterator[Finding]:
    logged, predicted = seen.moments.batch.reward[seen.counted], seen.reward[seen.counted]
    spread, spread_predicted = float(logged.std()), float(predicted.std())
    if spread > 1e-6 and spread_predicted < CONSTANT * spread:
        yield Finding(
            "reward head constant",
            f"it says {float(predicted.mean()):.3g} everywhere, while the logged rewards vary by {spread:.3g}: no "
            "policy can learn from it. Does the reward depend on something that is not observed? Are rewards so rare "
            "or so small that a larger unit would help? Else train longer",
        )


def _channels(model: WorldModel, seen: Filtered, replay: Replay) -> Iterator[Finding]:
    names = channel_names(replay.reader.schema, model.spaces.vector)
    scaled = model.scale(seen.moments.batch.vector)
    carried = model.carried > 0
    rows = seen.counted.cpu()
    target, predicted = (
        (x - seen.before if carried else x).cpu()[rows].double().numpy() for x in (scaled, seen.expected)
    )
    given = torch.cat([seen.before, seen.inputs], -1).cpu()[rows].double().numpy()
    follows, line = _squared_correlation(predicted, target), _squared_correlation(_line(given, target), target)
    for name, model_does, line_does in zip(names, follows, line, strict=True):
        if line_does > EXPLAINED and model_does < FOLLOWED * line_does:
            yield Finding(
                "decoder ignores a channel",
                f"{name}: of its {'changes' if carried else 'values'} a straight line through the observation before "
                f"and the command explains {line_does:.0%}, the model {model_does:.0%}. Is it tiny beside its own "
                "spikes or offset? Give it a better unit, mend the spikes, or train longer",
            )


def _line(given: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Ridge regression's answer on each half of the rows, as learnt from the other."""
    given = np.concatenate([given, np.ones((len(given), 1))], 1)
    halves, out = np.arange(len(given)) * 2 // max(1, len(given)), np.zeros_like(target)
    for half in (0, 1):
        a, b = given[halves != half], target[halves != half]
        weight = np.linalg.solve(a.T @ a + 1e-3 * len(a) * np.eye(a.shape[1]), a.T @ b)
        out[halves == half] = given[halves == half] @ weight
    return out


def _squared_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(D,) of columns; 0 where one is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = (a**2).sum(0) * (b**2).sum(0)
    return np.where(size > 1e-12, (a * b).sum(0) ** 2 / np.maximum(size, 1e-12), 0.0)


def _commands(model: WorldModel, seen: Filtered) -> Iterator[Finding]:
    commands = seen.moments.batch.applied_action[seen.counted]
    if float(commands.std(0).max()) < 1e-6:
        return  # the logs cannot show what they do, and say so before training
    batch, actions = seen.moments.batch, model.spaces.action
    start = model.observe(batch, hidden=False).at(slice(None), PAST - 1)
    order = torch.roll(torch.arange(len(start.deter)), len(start.deter) // 2)
    swapped = torch.cat([seen.inputs[order, PAST:, :actions], seen.inputs[:, PAST:, actions:]], -1)
    ahead = model.scale(model.decode(model.imagine(start, swapped)))
    lived = torch.as_tensor(seen.moments.lived, device=ahead.device).unsqueeze(-1)
    worse = ((ahead - model.scale(batch.vector[:, PAST:])) * lived).square().mean(1).sqrt()
    better = worse - seen.error.square().mean(1).sqrt()  # (N, D)
    sure = better.mean(0) / (better.std(0) / len(better) ** 0.5).clamp(min=1e-9)
    if float(sure.max()) < SURE:
        moved = float((ahead - seen.ahead).square().mean().sqrt() / seen.error.square().mean().sqrt().clamp(min=1e-9))
        yield Finding(
            "commands without effect",
            f"{AHEAD} steps ahead the model foretells no channel better under the commands given than under those of "
            f"other moments (they move its predictions by {moved:.0%} of its error). Do the action columns hold what "
            "was commanded, in the row that it belongs to? Do commands vary apart from observations? Else train longer",
        )


def _amount(model: WorldModel, seen: Filtered, learnt: Filtered, replay: Replay) -> Iterator[Finding]:
    """Episodes count, not windows: those of one episode err alike."""

    def by_episode(one: Filtered) -> np.ndarray:
        error = (one.error.square().mean((1, 2)).sqrt().clamp(min=1e-6)).log().cpu().double().numpy()
        _, which = np.unique(one.moments.episode, return_inverse=True)
        return np.bincount(which, error) / np.bincount(which)

    held, own = by_episode(seen), by_episode(learnt)
    spread = np.concatenate([held - held.mean(), own - own.mean()]).std() + 1e-6
    gap = held.mean() - own.mean()
    if gap > np.log(GAP) and gap > SURE * spread * (1 / len(held) + 1 / len(own)) ** 0.5:
        steps = int(replay.length[replay.episodes].sum())
        weights = sum(p.numel() for p in model.parameters())
        yield Finding(
            "too little data for the size",
            f"{AHEAD} steps ahead the error on held-out logs is {np.exp(gap):.1f} times that on the logs it learnt: "
            f"{steps:,} steps are few for {weights:,} weights. Log more, take a smaller --size, or train for less; if "
            "the held-out logs are of other conditions, it has not learnt to go there",
        )
