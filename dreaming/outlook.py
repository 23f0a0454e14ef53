"""What these logs cannot teach: how far beyond them each factor may go until dreams cannot be trusted."""

from collections.abc import Sequence

import numpy as np

from configs import UserError
from dreaming.imagination import Rollout
from dreaming.imagined_failure import ImaginedFailure, Trust
from dreaming.night import Night
from dreaming.reach import not_learnable
from dreaming.search import Space
from dreaming.survival import log_ranges
from dreaming.trust import judge
from envs import registry
from worldmodel.calibration import Calibration
from worldmodel.model import WorldModel

STARTS, LEVELS = 8, 7  # a few seconds' worth
SHARE = 0.5


def trusted_for(model: WorldModel, calibration: Calibration, least: float) -> Trust:
    """Trusts a world whose dreams can be trusted for at least so many steps, on average."""

    def trust(points: np.ndarray, rollout: Rollout) -> np.ndarray:
        return horizons(model, calibration, rollout).reshape(len(points), -1).mean(1) >= least

    return trust


def horizons(model: WorldModel, calibration: Calibration, rollout: Rollout) -> np.ndarray:
    """(N,) steps that each dream can be trusted for."""
    world = rollout.world
    found = judge(model, calibration, world.at(slice(None), 0), world.at(slice(None), slice(1, None)), rollout.inputs)
    return found.horizon.cpu().numpy().astype(float)


def outlook(night: Night) -> Sequence[str]:
    """In words, a line a factor and side; nothing where the model states no trust or the logs vary nothing."""
    trainer, task = night.trainer, night.config.task
    model = trainer.model
    if model.calibration is None:
        return []
    fixed = registry.task_class(task).reset_only if night.simulated else ()
    try:
        space = Space.of(model.context, log_ranges(trainer.reader, task), night.scenarios, task, without=fixed)
    except UserError:
        return []
    actor = night.dreamer.learner.actor
    dreams = ImaginedFailure(model, actor, trainer.held_out, night.nominal, night.control_hz, starts=STARTS)
    usual = horizons(model, model.calibration, dreams.in_logs()).mean()
    if usual < 1:
        return ["nothing beyond the logs: even within them no dream can be trusted for a step; learn for longer"]
    scan = space.scan(dreams.over(space, trusted_for(model, model.calibration, SHARE * usual)), LEVELS)
    return not_learnable(space, scan, night.scenarios, model.context, task)
