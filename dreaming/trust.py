"""How far each dream can be believed, and what is learnt of it: nothing beyond that.

Cut where its trust horizon ends, a dream's rest is the critic's value there. The penalty takes from the reward what the
ensemble is at odds about, and its gradient runs through the dream: it keeps a policy where the model knows.
Source of the penalty: Yu et al., "MOPO: Model-based Offline Policy Optimization" (2020). N dreams, H steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from dreaming.imagination import Rollout
from dreaming.truth import Dream, Truth
from worldmodel.calibration import Calibration, conformal_level, disagreement, scores
from worldmodel.model import Belief, WorldModel


@dataclass(frozen=True)
class TrustConfig:
    """What trust does to learning; nothing unless switched on, and then the model must be calibrated."""

    cut: bool = False  # learn from dreams as far as they are trusted
    penalty: float = 0.0  # reward lost for as much disagreement as is usual on the logs; 0.01 is a cautious start
    coverage: float = 0.9  # share of dreams whose error stays below its bound up to the trust horizon
    # Of that bound, in standard deviations of the channels. Standing still comes to be wrong by 1 and more. At 1.0
    # dreams are trusted twice as long, and bounds calibrated on logs then held in 71% of a hopper's instead of 90%.
    tolerance: float = 0.5

    @property
    def acts(self) -> bool:
        return self.cut or self.penalty > 0

    def calibration_of(self, model: WorldModel) -> Calibration:
        """What says how far the model can be trusted, as asked here.

        Raises:
            UserError: it has not been calibrated, or for something else.
        """
        made = model.calibration
        asked = f"coverage {self.coverage:g} and tolerance {self.tolerance:g}"
        if made is None:
            raise UserError(f"trust in dreams needs a world model that was calibrated: calibrate(...) it to {asked}")
        if (made.coverage, made.tolerance) != (self.coverage, self.tolerance):
            raise UserError(
                f"the world model was calibrated to coverage {made.coverage:g} and tolerance {made.tolerance:g}, "
                f"and trust asks for {asked}; calibrate(...) it again or ask for these"
            )
        return made


@dataclass
class Judgement:
    """What the ensemble makes of N dreams."""

    disagreement: Tensor  # (N, H) in multiples of what is usual on held-out logs; with the dreams' gradient
    bound: Tensor  # (N, H) on the error, in standard deviations of the channels
    horizon: Tensor  # (N,) steps that can be trusted, at most H


def judge(model: WorldModel, calibration: Calibration, start: Belief, arrived: Belief, inputs: Tensor) -> Judgement:
    """Of dreams from beliefs `start` (N,) to `arrived` (N, H), under the world's inputs (N, H, ·)."""
    strife = disagreement(model, start, arrived, inputs)
    bound = calibration.bound(strife.detach())
    return Judgement(strife / calibration.scale, bound, calibration.trusted(bound))


class Weighed(NamedTuple):
    rollout: Rollout  # as it pays
    counted: Tensor | None  # (N, H) bool: what to learn from; None if all of it
    figures: dict[str, Tensor]  # to watch


def weighed(config: TrustConfig, model: WorldModel, rollout: Rollout) -> Weighed:
    if not config.acts:
        return Weighed(rollout, None, {})
    start, arrived = rollout.world.at(slice(None), 0), rollout.world.at(slice(None), slice(1, None))
    found = judge(model, config.calibration_of(model), start, arrived, rollout.inputs)
    steps = torch.arange(rollout.reward.shape[1], device=rollout.reward.device)
    lost = config.penalty * found.disagreement
    figures = {
        "disagreement": found.disagreement.mean(),
        "penalty": lost.mean(),
        "trust_horizon": found.horizon.float().mean(),
    }
    counted = steps < found.horizon.unsqueeze(-1) if config.cut else None
    paying = replace(rollout, reward=rollout.reward - lost)
    return Weighed(paying, counted, {name: value.detach() for name, value in figures.items()})


def stated(model: WorldModel, start: Belief, arrived: Belief, inputs: Tensor) -> dict[str, Any]:
    """A single dream's bounds and trust horizon, as `Dream` takes them; nothing of a model that is not calibrated."""
    if model.calibration is None:
        return {}
    found = judge(model, model.calibration, start, arrived, inputs)
    return {"uncertainty": found.bound[0].cpu().numpy(), "trust_horizon": int(found.horizon[0])}


def kept_its_word(dream: Dream, truth: Truth, channel_std: np.ndarray) -> bool | None:
    """Whether a dream's error stayed below its bound at every step that it said could be trusted.

    None if it trusted none that truly came to be: nothing was claimed.
    """
    bound, steps = _bounds(dream), min(dream.trust_horizon or 0, truth.steps)
    return bool((_error(dream, truth, channel_std)[:steps] <= bound[:steps]).all()) if steps else None


def covered(dreams: Sequence[Dream], truths: Sequence[Truth], channel_std: np.ndarray) -> tuple[int, int]:
    """How many dreams kept their word, of how many that gave it."""
    said = [kept_its_word(dream, truth, channel_std) for dream, truth in zip(dreams, truths, strict=True)]
    return sum(word is True for word in said), sum(word is not None for word in said)


def recalibrated(
    calibration: Calibration, dreams: Sequence[Dream], truths: Sequence[Truth], channel_std: np.ndarray
) -> Calibration:
    """The same bounds at the level that audited dreams ask for, those of a policy, say, or of one scenario.

    The logs' own commands say how a model errs on the way that the demonstrator takes. What another policy makes of it,
    or another world, a few dozen replays show: trust is widened by them or refused. Nothing is learnt from them.
    With too few episodes for the coverage the level is infinite, and nothing is trusted.
    """
    steps = min(calibration.horizon, max(dream.horizon for dream in dreams))
    error, bound = np.zeros((len(dreams), steps)), np.full((len(dreams), steps), np.inf)
    lived = np.zeros((len(dreams), steps), bool)
    for i, (dream, truth) in enumerate(zip(dreams, truths, strict=True)):
        bounds, off = _bounds(dream)[:steps], _error(dream, truth, channel_std)[:steps]
        bound[i, : len(bounds)], error[i, : len(off)], lived[i, : len(off)] = bounds, off, True
    found = scores(error, bound / calibration.level, lived, calibration.tolerance)
    episode = np.array([dream.episode for dream in dreams])
    level = conformal_level(found, episode, calibration.coverage)
    return replace(calibration, level=level, episodes=len(np.unique(episode)))


def restated(dream: Dream, before: Calibration, now: Calibration) -> Dream:
    """The dream with its bounds as `now` has them, which are those of `before` but for the level."""
    bound = _bounds(dream) * (now.level / before.level)
    return replace(dream, uncertainty=bound, trust_horizon=int(now.trusted(torch.from_numpy(bound).unsqueeze(0))[0]))


def _bounds(dream: Dream) -> np.ndarray:
    if dream.uncertainty is None:
        raise ValueError("the dream states no trust: dream it with a calibrated world model")
    return dream.uncertainty


def _error(dream: Dream, truth: Truth, channel_std: np.ndarray) -> np.ndarray:
    """(steps,) as long as there was any truth, root mean squares over channels in their standard deviations."""
    off = (dream.observation[1 : truth.steps + 1] - truth.observation[1 : truth.steps + 1]) / channel_std
    return np.sqrt(np.mean(off**2, -1))
