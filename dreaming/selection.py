"""Ground truth picks the policy: now and then it is tried in PyBullet, and the best one so far is kept.

More dreaming is not better: policies peak, then exploit the model. These simulator steps select, they never teach;
they are counted as such, and the seeds are used for nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreaming.agent import Agent
from dreaming.evaluate import evaluate
from dreaming.scenario import Scenario
from envs.physics import Physics
from envs.workers import Workers

SELECTION_SEEDS = 3_000_000  # seeds from here on; logs use those below 1,000,000, survival those from 5,000,000 on
AUDIT_SEEDS = 4_000_000
SURVIVAL_SEEDS = 5_000_000


@dataclass
class Score:
    """Success rates: inside the logs' physics, by scenario, and what selection goes by."""

    nominal: float
    scenarios: dict[str, float]

    @property
    def total(self) -> float:
        """Half for what the robot already lives in, half for the what-ifs: neither may be paid for with the other."""
        what_ifs = list(self.scenarios.values())
        return self.nominal if not what_ifs else 0.5 * self.nominal + 0.5 * float(np.mean(what_ifs))


class Selector:
    """Tries policies in the same drawn worlds, always."""

    def __init__(
        self, task: str, nominal: Sequence[Physics], scenarios: Sequence[Scenario], base: Physics, workers: Workers, draws: int = 12
    ) -> None:
        self.task, self.workers = task, workers
        rng = np.random.default_rng(SELECTION_SEEDS)
        self.cells: list[tuple[str, str, Physics]] = [("logged", str(i), p) for i, p in enumerate(nominal)]
        for scenario in scenarios:
            self.cells += [(scenario.name, str(i), scenario.sample(task, rng, base)) for i in range(draws)]

    def score(self, agent: Agent) -> Score:
        results = evaluate(self.task, agent, self.cells, [SELECTION_SEEDS], self.workers, seed_per_cell=True)
        by_scenario: dict[str, list[float]] = {}
        for result in results:
            by_scenario.setdefault(result.scenario, []).append(1.0 - result.failure_rate)
        nominal = float(np.mean(by_scenario.pop("logged")))
        return Score(nominal, {name: float(np.mean(rates)) for name, rates in by_scenario.items()})
