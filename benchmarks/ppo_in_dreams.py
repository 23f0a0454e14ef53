"""Anyone's agent in our dreams: stable-baselines3's PPO learns in the dreams of a recorded robot, and is audited.

    dream --task hopper --hours 0.16
    python benchmarks/ppo_in_dreams.py --run runs/hopper --steps 200000

The run folder gives the world model, and the logs that dreams start from. PPO takes no step in the simulator; what it
has learnt is then tried in PyBullet, beside the demonstrator, in worlds that the logs hold and in others.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from configs import parse_arguments, run_command
from dreaming.dream_env import DreamVectorEnv
from dreaming.evaluate import CellResult, evaluate
from dreaming.run import RunFolder
from dreaming.scenario import load_scenarios
from dreaming.selection import SURVIVAL_SEEDS
from dreaming.survival import cells_of
from envs.record import ExpertPolicy, Policy
from envs.workers import Workers
from worldmodel.speed import prepare_cpu

ENVS = 25  # in PyBullet, at once


@dataclass
class PPOInDreams:
    """stable-baselines3's PPO, taught in dreams and tried in PyBullet."""

    run: Path = Path("runs/hopper")
    """Folder of a night, or of as much of one as learnt a world model."""
    steps: int = 200_000
    """Steps to dream."""
    dreams: int = 256
    """At once."""
    horizon: int = 32
    """Steps until a dream is cut off."""
    scenario: str = "nominal,edge-cases"
    """What is dreamt, one of these drawn for each dream, and the worlds that are tried."""
    trials: int = 10
    """Episodes a world."""
    seed: int = 0
    """Of dreams and PPO."""


def learn(options: PPOInDreams) -> Policy:
    """PPO after so many dreamt steps."""
    from agents.learner import Tick, build, recent_return

    from dreaming.sb3 import SB3Policy, SB3VecEnv

    dreams = DreamVectorEnv.from_run(options.run, options.dreams, options.scenario, options.horizon)
    learner = build("ppo", SB3VecEnv(dreams), options.seed)

    def tell() -> None:
        if learner.num_timesteps:
            steps, paid = learner.num_timesteps, recent_return(learner)
            print(f"  {steps:,} of {options.steps:,} steps dreamt, return {paid:.1f} a dream", flush=True)

    learner.learn(options.steps, Tick(tell))
    tell()
    return SB3Policy(learner)


def markdown(found: dict[str, list[CellResult]]) -> str:
    """Failures with their 95% Wilson interval, and the mean return, by world and policy."""
    lines = ["| world | " + " | ".join(found) + " |", "|---" * (1 + len(found)) + "|"]
    for cells in zip(*found.values(), strict=True):
        row = [f"{cells[0].scenario} {cells[0].label}"]
        for cell in cells:
            low, high = cell.failure_interval
            row.append(f"{cell.failure_rate:.2f} [{low:.2f}, {high:.2f}], return {cell.return_mean:.1f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def run() -> None:
    options = parse_arguments(PPOInDreams)
    import dreaming.sb3  # noqa: F401, which says what to install if it is missing

    torch.set_num_threads(1)
    prepare_cpu()
    task = RunFolder(options.run).config().task
    cells = cells_of(load_scenarios(options.scenario, task), task)
    seeds = range(SURVIVAL_SEEDS, SURVIVAL_SEEDS + options.trials)
    policies = {"demonstrator": ExpertPolicy(task, options.seed), "PPO, taught in dreams": learn(options)}
    with Workers(task, ENVS, processes=0) as workers:
        found = {name: evaluate(task, policy, cells, seeds, workers) for name, policy in policies.items()}
    print(f"\n{task}: failures in PyBullet of {options.trials} episodes a world\n\n{markdown(found)}")


if __name__ == "__main__":
    run_command(run)
