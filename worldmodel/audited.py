"""Whether held-out recordings stay within the bounds that a model's rollouts state: an audit that needs no simulator.

Bounds are set on some recordings and audited on others that the model did not learn from. Where enough are held out,
every second of them sets the level and the rest audit it. Where few are, the level comes from the recordings that
were learnt from, on which the model errs less; what the audit finds then says by how much such bounds promise too much.
"""

from dataclasses import dataclass

import numpy as np

from worldmodel.calibration import HORIZON, calibrate, fewest_episodes, rolled
from worldmodel.model import WorldModel
from worldmodel.replay import Replay

COVERAGE, TOLERANCE = 0.9, 0.5


@dataclass(frozen=True)
class Audit:
    """Of open-loop rollouts of held-out recordings, under their own commands, each believed up to its trust horizon."""

    stated: float  # share of rollouts that should stay within their bounds
    held: float  # share that did, at every step that is trusted
    tolerance: float  # the trust horizon ends where the bound exceeds it; standard deviations over the training logs
    trusted: int  # median trust horizon, steps
    horizon: int  # of the rollouts, steps
    rollouts: int
    recordings: int  # audited
    held_out_level: bool  # whether held-out recordings, too, set the level

    def lines(self, hz: float) -> list[str]:
        level = "others that were held out" if self.held_out_level else "the training recordings: too few are held out"
        trusted, of = f"{self.trusted / hz:.2f}", f"{self.horizon / hz:.2f}"
        return [
            f"audit on held-out recordings ({self.recordings}; bounds set on {level}):",
            f"  {self.held:.0%} of {self.rollouts} rollouts stayed within what they stated, {self.stated:.0%} should",
            f"  a rollout trusts itself for {trusted} of {of} s (median): so far it states an error of less than "
            f"{self.tolerance:g} standard deviations",
        ]


def audit(model: WorldModel, replay: Replay, held_out: Replay, windows: int = 100) -> Audit:
    """Args:
    replay: of the recordings that were learnt from.

    Raises:
        UserError: no ensemble, or too few recordings to set a level on.
    """
    enough = len(held_out.episodes) >= 2 * fewest_episodes(COVERAGE)
    setting, judging = replay, held_out
    if enough:
        setting, judging = (held_out.only(held_out.episodes[i::2].tolist()) for i in (0, 1))
    calibration = calibrate(model, replay, setting, COVERAGE, TOLERANCE, windows)
    found = rolled(model, judging, windows, seed=1)
    bound = calibration.bound(found.disagreement)
    trusted = calibration.trusted(bound).numpy()
    counted = found.lived & (np.arange(HORIZON) < trusted[:, None])
    broken = np.any(counted & ~(found.error <= bound.numpy()), axis=1)  # what is not finite, too
    return Audit(
        stated=COVERAGE,
        held=1 - float(np.mean(broken)),
        tolerance=TOLERANCE,
        trusted=int(np.median(trusted)),
        horizon=HORIZON,
        rollouts=len(trusted),
        recordings=len(judging.episodes),
        held_out_level=enough,
    )
