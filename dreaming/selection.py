"""Ground truth picks the policy: now and then it is tried in PyBullet, and the best one so far is kept.

More dreaming is not better: policies peak, then exploit the model. These simulator steps select, they never teach;
they are counted as such, and the seeds are used for nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreaming.beside import Tell
from dreaming.evaluate import evaluate
from dreaming.scenario import Scenario
from envs.physics import Physics, PhysicsRange, sample
from envs.record import Policy
from envs.workers import Workers, put

SELECTION_SEEDS = 3_000_000  # seeds from here on; logs use those below 1,000,000, survival those from 5,000,000 on
AUDIT_SEEDS = 4_000_000
SURVIVAL_SEEDS = 5_000_000
CLEARLY = 2.0  # standard errors, for a policy to count as worse than the best one
# Worlds a scenario (twice as many inside the logs' physics), and the trials that there must be time for. Of many trials
# in few worlds the best one is the luckiest: long nights try in more.
DRAWS = {96: 20, 48: 20, 24: 20, 12: 3, 8: 3, 4: 3}


@dataclass
class Score:
    """Success rates inside the logs' physics and by scenario, and what selection goes by."""

    nominal: float
    scenarios: dict[str, float]
    total: float  # 0 to 1; of episodes, half is not to fail, and half what they earn
    error: float = 0.0  # standard, of `total`
    inside: float = 0.0  # the part of `total` that is of the logs' physics, and its standard error
    inside_error: float = 0.0

    def clearly_loses(self, first: float) -> bool:
        """Whether luck does not explain that this policy is worth less inside the logs' physics than the first one was.

        Who stands still never falls, and would pay for that with what the robot can do already.
        """
        return self.inside < first - CLEARLY * self.inside_error

    def clearly_below(self, best: float) -> bool:
        """Whether luck does not explain that this is worse than another policy's total."""
        return self.total < best - CLEARLY * self.error


class Selector:
    """Tries policies in the same drawn worlds, always.

    Trials have time for few worlds. Whether a policy failed there says little of it; how far it came, by what it
    earned, says more.

    Args:
        ranges: of the logs' physics.
        earned: what a poor and what an excellent episode earns, for 0 and 1 of what counts beside not to fail. Where
            they are the same, returns say nothing, and not to fail is all.
    """

    def __init__(
        self,
        task: str,
        scenarios: Sequence[Scenario],
        base: Physics,
        ranges: PhysicsRange,
        draws: int,
        earned: tuple[float, float],
    ) -> None:
        self.task, self.draws, self.earned = task, draws, earned
        logged = np.random.default_rng(SELECTION_SEEDS - 1)
        self.cells = [("logged", str(i), sample(ranges, base, logged)) for i in range(2 * draws)]
        for number, scenario in enumerate(scenarios):
            rng = np.random.default_rng([SELECTION_SEEDS, number])
            self.cells += [(scenario.name, str(i), scenario.sample(task, rng, base)) for i in range(draws)]
        named = ", ".join(["logged", *(scenario.name for scenario in scenarios)])
        inside = ", ".join(f"{name} {bounds}" for name, bounds in ranges.items())
        # Scores of earlier code, whose policies drew their actions, do not compare.
        self.worlds = (
            f"{draws} draws of {named}; logged {inside}; returns from {earned[0]:g} to {earned[1]:g}; by the mode"
        )

    def score(self, workers: Workers, tell: Tell, policy: Policy) -> Score:
        def on_episode(done: int, jobs: int) -> None:
            tell(f"trying the policy in the simulator: {done} of {jobs} episodes")

        results = evaluate(self.task, policy, self.cells, [SELECTION_SEEDS], workers, True, on_episode)
        survived: dict[str, list[float]] = {}
        worth: dict[str, list[float]] = {}
        for result in results:
            survived.setdefault(result.scenario, []).append(1.0 - result.failure_rate)
            worth.setdefault(result.scenario, []).append(self.worth(1.0 - result.failure_rate, result.return_mean))
        rates = {name: float(np.mean(found)) for name, found in survived.items()}
        (inside, variance), *what_ifs = [(float(np.mean(found)), _variance(found)) for found in worth.values()]
        total, error = inside, math.sqrt(variance)
        if what_ifs:  # half for what the robot already lives in, half for them: neither may be paid for with the other
            outside, scatter = np.mean(what_ifs, axis=0)
            total = 0.5 * inside + 0.5 * float(outside)
            error = 0.5 * math.sqrt(variance + scatter / len(what_ifs))
        return Score(rates.pop("logged"), rates, total, error, inside, math.sqrt(variance))

    def worth(self, survived: float, returned: float) -> float:
        """Of an episode, 0 to 1."""
        poor, excellent = self.earned
        if math.isclose(poor, excellent, rel_tol=1e-6):
            return survived
        share = (returned - poor) / (excellent - poor) if math.isfinite(returned) else 0.0
        return 0.5 * survived + 0.5 * float(np.clip(share, 0.0, 1.0))


def _variance(values: Sequence[float]) -> float:
    """Of the mean of so many values from 0 to 1, at most, and never 0: where all are alike, the next one may not be
    (Laplace's rule)."""
    share = (sum(values) + 1) / (len(values) + 2)
    return share * (1 - share) / len(values)


def some_steps(workers: Workers, _tell: Tell, policy: Policy, physics: Physics, steps: int) -> None:
    """Begins all the workers' environments anew and takes so many steps with this policy, to see what that takes."""
    rows = np.arange(workers.n_envs)
    policy.reset(len(rows))
    seeds = SELECTION_SEEDS - 1 - rows
    observation = workers.reset(rows.tolist(), seeds.tolist(), [physics] * len(rows))
    is_first = np.ones(len(rows), bool)
    for _ in range(steps):
        after = workers.step(rows.tolist(), policy.act(observation, is_first))
        observation, is_first = after.observation, after.terminated | after.truncated
        if is_first.any():
            over = rows[is_first].tolist()
            put(observation, over, workers.reset(over, seeds[over].tolist(), [physics] * len(over)), len(rows))


def affordable_draws(step_s: float, max_steps: int, scenarios: int, n_envs: int, seconds: float) -> int:
    """Worlds a scenario, so that `seconds` last for as many trials as DRAWS asks for; at least 2, and a dozen if
    no step could be timed."""

    def trials(draws: int) -> float:
        cost_s = math.ceil(draws * (2 + scenarios) / n_envs) * max_steps * step_s
        return seconds / cost_s if cost_s else 3.0  # a clock too coarse to tell

    return next((draws for draws, least in DRAWS.items() if trials(draws) >= least), 2)
