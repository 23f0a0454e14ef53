"""Do held-out recordings stay within bounds that were stated before them? An audit that needs no simulator.

For each step ahead the bound is such that 90% of rollouts in a new recording should stay below it. It is set on some
recordings and audited on others that the model did not learn from. Where enough are held out, every second of them sets
the bound and the rest audit it. Where few are, the recordings that were learnt from set it, on which the model errs
less; what the audit finds then says by how much such bounds promise too much.
"""

from dataclasses import dataclass

import numpy as np

from configs import UserError
from worldmodel.calibration import conformal_level, fewest_episodes, rolled
from worldmodel.model import WorldModel
from worldmodel.replay import Replay

COVERAGE = 0.9


@dataclass(frozen=True)
class Audit:
    """Of open-loop rollouts of recordings, under their own commands, by steps ahead (H,).

    Errors are root mean squares over channels, in standard deviations of each over the training logs.
    """

    bound: np.ndarray  # infinite where too few recordings go on for so long
    held: np.ndarray  # share of the audited rollouts whose error is below
    rollouts: int
    recordings: int  # audited
    held_out_bound: bool  # whether held-out recordings, too, set the bound

    def lines(self, steps: list[int]) -> list[str]:
        """Args: steps: ahead, at which to say it."""
        steps = [h for h in steps if h <= len(self.bound) and np.isfinite(self.bound[h - 1])]
        at = " / ".join(str(h) for h in steps)
        bound = " / ".join(f"{self.bound[h - 1]:.2f}" for h in steps)
        held = " / ".join(f"{self.held[h - 1]:.0%}" for h in steps)
        by = "others that were held out" if self.held_out_bound else "the training recordings, as few are held out"
        return [
            f"audit: after {at} steps {held} of {self.rollouts} rollouts stayed below the bound; {COVERAGE:.0%} should",
            f"  bound {bound} standard deviations, set on {by}; audited on {self.recordings} held out",
        ]


def audit(model: WorldModel, replay: Replay, held_out: Replay, windows: int = 200) -> Audit:
    """Args:
    replay: of the recordings that were learnt from.

    Raises:
        UserError: too few recordings to set a bound on; nothing that judges the model.
    """
    fewest = fewest_episodes(COVERAGE)
    enough = len(held_out.episodes) >= 2 * fewest
    setting, judging = replay, held_out
    if enough:
        setting, judging = (held_out.only(held_out.episodes[i::2].tolist()) for i in (0, 1))
    if len(setting.episodes) < fewest:
        raise UserError(f"an audit needs {fewest} recordings to set a bound on, there are {len(setting.episodes)}")
    known, found = rolled(model, setting, windows, seed=0), rolled(model, judging, windows, seed=1)
    error = np.where(np.isfinite(known.error), known.error, np.inf)
    steps = range(error.shape[1])
    lived = [known.lived[:, h] for h in steps]
    bound = [conformal_level(error[on, h], known.episode[on], COVERAGE) for h, on in zip(steps, lived, strict=True)]
    below = found.error <= np.array(bound)  # what is not finite is not
    held = np.where(found.lived, below, False).sum(0) / np.maximum(found.lived.sum(0), 1)
    return Audit(np.array(bound), held, len(found.error), len(judging.episodes), enough)
