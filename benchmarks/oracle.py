"""push-box: how often the demonstrator fails at each friction, and how often one who knows it has to.

    python benchmarks/oracle.py --episodes 50

prints a Markdown table. Failure: the box is lost over the edge or not at the goal at the end. hopper has no oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs import UserError, parse_arguments, run_command
from envs import registry
from envs.experts.push_box import careful_oracle, push_box_expert
from envs.physics import Physics

FRICTIONS = (0.02, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8)


@dataclass(frozen=True)
class Arguments:
    """Failure rates of push-box's demonstrator and oracle by floor friction."""

    episodes: int = 50
    """Episodes a cell; the seeds are the same in all cells."""
    first_seed: int = 1000
    """Seed of the first episode."""


def rates(env, physics: Physics, seeds: range, oracle: bool) -> tuple[float, float]:
    """Returns the share of episodes that failed, and that lost the box."""
    failed = lost = 0
    for seed in seeds:
        act = _oracle(physics) if oracle else _demonstrator(seed)
        observation, _ = env.reset(seed=seed, options={"physics": physics})
        over, info = False, {}
        while not over:
            observation, _, terminated, truncated, info = env.step(act(observation))
            over = terminated or truncated
        failed += not info["success"]
        lost += info["failure"]
    return failed / len(seeds), lost / len(seeds)


def _oracle(physics: Physics) -> Callable[[np.ndarray], np.ndarray]:
    return lambda observation: careful_oracle(observation, physics)


def _demonstrator(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda observation: push_box_expert(observation, rng)


def run() -> None:
    arguments = parse_arguments(Arguments)
    if arguments.episodes < 1:
        raise UserError(f"--episodes is {arguments.episodes}; at least 1 is needed")
    env = registry.make("push-box")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    print(f"{arguments.episodes} episodes a cell, failed (of these lost over the edge)\n")
    print("| floor friction | demonstrator | oracle |\n|---|---|---|")
    for friction in FRICTIONS:
        physics = env.nominal.replace(floor_friction=friction)
        cells = [rates(env, physics, seeds, oracle) for oracle in (False, True)]
        print(f"| {friction} | " + " | ".join(f"{failed:.2f} ({lost:.2f})" for failed, lost in cells) + " |")
    env.close()


if __name__ == "__main__":
    run_command(run)
