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
from worldmodel.calibration import Calibration, disagreement
from worldmodel.model import Belief, WorldModel


@dataclass(frozen=True)
class TrustConfig:
    """What trust does to learning; nothing unless switched on, and then the model must be calibrated."""

    cut: bool = False  # learn from dreams as far as they are trusted
    penalty: float = 0.0  # reward lost for as much disagreement as is usual on the logs; 0.01 is a cautious start
    coverage: float = 0.9  # share of dreams whose error stays below its bound up to the trust horizon
    # Of that bound, in standard deviations of the channels. Standing still comes to be wrong by 1 and more: a dream cut
    # there still tells something.
    tolerance: float = 1.0

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
    if dream.uncertainty is None or dream.trust_horizon is None:
        raise ValueError("the dream states no trust: dream it with a calibrated world model")
    steps = min(dream.trust_horizon, truth.steps)
    if not steps:
        return None
    off = (dream.observation[1 : steps + 1] - truth.observation[1 : steps + 1]) / channel_std
    return bool((np.sqrt(np.mean(off**2, -1)) <= dream.uncertainty[:steps]).all())


def covered(dreams: Sequence[Dream], truths: Sequence[Truth], channel_std: np.ndarray) -> tuple[int, int]:
    """How many dreams kept their word, of how many that gave it."""
    said = [kept_its_word(dream, truth, channel_std) for dream, truth in zip(dreams, truths, strict=True)]
    return sum(word is True for word in said), sum(word is not None for word in said)
