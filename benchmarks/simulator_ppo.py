"""What a user would take instead of dreams: stable-baselines3 in the simulator, under randomised physics.

    python benchmarks/simulator_ppo.py --task push-box --seeds 3 --multiples 1,10 --out runs/survival

PPO (or SAC) practises in PyBullet for as many steps as the logs hold, and for ten times as many. Every episode has
another world: half of them are as the logs vary it, half as the scenario does, so the edge cases are practised in. Then
it is tried in the worlds of `benchmarks/survival.py`, with the same seeds; with the same --out, that benchmark's table
shows it beside its own. Finished parts and checkpoints are kept, so an interrupted run goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import torch
from survival import Survival, logs, markdown, tried

from configs import UserError, parse_arguments, run_command
from dreaming.run import NightConfig
from dreaming.scenario import Scenario, load_scenarios
from envs import registry
from envs.physics import sample
from envs.record import Policy
from worldmodel.checkpoint import write_atomically
from worldmodel.speed import prepare_cpu

LEARNING_SEEDS = (2_000_000, 3_000_000)  # of episodes practised in; dreaming/selection.py lists the others
LOGGED_SHARE = 0.5  # of the episodes stay within the logs' physics, as half of the dreams do


@dataclass
class SimulatorPPO:
    """Failure rates in PyBullet of PPO or SAC that learnt in PyBullet, edge cases included."""

    task: str = "push-box"
    """The task."""
    seeds: int = 3
    """How many."""
    first_seed: int = 0
    """Seed of the first."""
    out: Path = Path("runs/survival")
    """The folder of benchmarks/survival.py, whose logs say how many steps are fair; recorded there if missing."""
    episodes: int | None = None
    """Logs; as many as a night records, unless told otherwise."""
    algorithm: Literal["ppo", "sac"] = "ppo"
    """What learns."""
    multiples: str = "1,10"
    """Simulator steps to learn from, in multiples of what the logs hold; each learns from nothing."""
    scenario: str = "edge-cases"
    """What is practised beside the logs' physics."""
    table: str = "nominal,edge-cases"
    """The worlds that are tried."""
    trials: int = 50
    """Episodes a world."""


class DrawnWorlds(gymnasium.Wrapper):
    """A task in another world every episode. A seed given to `reset` decides all worlds and starts from then on."""

    def __init__(self, task: str, scenarios: Sequence[Scenario]) -> None:
        super().__init__(registry.make(task))
        self.task, self.scenarios, self.ranges = task, list(scenarios), registry.log_ranges(task)
        self.rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        world = sample(self.ranges, registry.nominal(self.task), self.rng)
        if self.scenarios and self.rng.random() >= LOGGED_SHARE:
            scenario = self.scenarios[int(self.rng.integers(len(self.scenarios)))]
            world = scenario.sample(self.task, self.rng, world)
        return self.env.reset(seed=int(self.rng.integers(*LEARNING_SEEDS)), options={"physics": world})


def arms(options: SimulatorPPO) -> dict[str, float]:
    """What each multiple is called in the table."""
    try:
        multiples = [float(part) for part in options.multiples.split(",")]
    except ValueError:
        multiples = []
    if not multiples or min(multiples) <= 0:
        raise UserError(f"--multiples is {options.multiples!r}; give numbers above 0, as 1,10")
    practised = Path(options.scenario).stem
    return {f"{options.algorithm}-{multiple:g}x-{practised}": multiple for multiple in multiples}


def practise(options: SimulatorPPO, seed: int, steps: int, folder: Path, name: str) -> Policy:
    """What is learnt in so many steps, or was learnt before under that name."""
    from agents.learner import ENVS, Training, recent_return
    from stable_baselines3.common.vec_env import DummyVecEnv

    from dreaming.sb3 import SB3Policy

    scenarios = load_scenarios(options.scenario, options.task)
    worlds: list[Callable[[], gymnasium.Env]] = [lambda: DrawnWorlds(options.task, scenarios)]
    worlds *= ENVS[options.algorithm]
    training = Training(options.algorithm, lambda: DummyVecEnv(worlds), seed, folder, name)

    def tell() -> None:
        speed, paid = training.steps / training.cpu_s, recent_return(training.learner)
        print(f"  {training.steps:,} of {steps:,} steps, {speed:.0f} a CPU second, return {paid:.1f}", flush=True)

    training.run(steps, on_save=tell)
    return SB3Policy(training.learner)


def one_seed(options: SimulatorPPO, seed: int) -> dict[str, list[dict]]:
    """Results by arm, each of which has a file of its own; what is there already is not learnt again."""
    folder = options.out / options.task / f"seed-{seed}"
    same = Survival(task=options.task, out=options.out, trials=options.trials, table=options.table)
    episodes = options.episodes or NightConfig.for_task(options.task).episodes
    results: dict[str, list[dict]] = {}
    for arm, multiple in arms(options).items():
        file = folder / f"{arm}.json"
        if not file.exists():
            logged = logs(options.task, episodes, seed, folder / "episodes").episodes
            steps = round(multiple * sum(episode["length"] for episode in logged))
            print(f"seed {seed}: {arm}", flush=True)
            policy = practise(options, seed, steps, folder / "simulator", arm)
            write_atomically(file, json.dumps([cell.to_dict() for cell in tried(same, policy)]).encode())
        results[arm] = json.loads(file.read_text())
    return results


def run() -> None:
    options = parse_arguments(SimulatorPPO)
    import dreaming.sb3  # noqa: F401, which says what to install if it is missing

    arms(options)  # a mistake there is told before anything is learnt
    torch.set_num_threads(1)
    prepare_cpu()
    found = [one_seed(options, seed) for seed in range(options.first_seed, options.first_seed + options.seeds)]
    print(f"\n{options.task}, {options.scenario} practised, {options.seeds} seeds, {options.trials} trials a cell\n")
    print(markdown(found))


if __name__ == "__main__":
    run_command(run)
