"""Does a dream tell a good policy from a bad one? Scripted policies of push-box, in dreams and in PyBullet.

    python benchmarks/ranking.py --run runs/survival/push-box/seed-0/shared

The run is a night's, or one that `survival.py` left. Dreams begin where logged
episodes began, are told the friction, and last as long as an episode.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import tyro

from dreaming.agent import Actor
from dreaming.atlas import dreamt_failures
from dreaming.evaluate import evaluate
from dreaming.run import RunFolder
from envs import registry
from envs.experts.push_box import careful_oracle, push_box_expert
from envs.physics import Physics
from envs.workers import Workers
from worldmodel.lessons import held_out_of
from worldmodel.model import WorldModel
from worldmodel.saved import load_model
from worldmodel.storage import LogReader

TASK, SEED = "push-box", 6_500_000
FRICTIONS = (0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
Rule = Callable[[np.ndarray, Physics], np.ndarray]  # observation (18,) and physics to action (2,)


def demonstrator(observation: np.ndarray, physics: Physics) -> np.ndarray:
    return push_box_expert(observation, np.random.default_rng(0))


def slow_demonstrator(observation: np.ndarray, physics: Physics) -> np.ndarray:
    """Walks as the demonstrator does and pushes at two fifths of its speed."""
    action = push_box_expert(observation, np.random.default_rng(0))
    touching = observation[17] > 0.5
    return 0.4 * action if touching else action


RULES: dict[str, Rule] = {
    "demonstrator": demonstrator,
    "slow demonstrator": slow_demonstrator,
    "careful oracle": careful_oracle,
}


@dataclass
class Ranking:
    """Failure rates of scripted policies by floor friction, dreamt and true."""

    run: Path
    count: int = 64
    """Dreams, and episodes in PyBullet, of each policy at each friction."""


class Scripted:
    """A rule as a policy of the simulator and as an actor of dreams; all rows have one physics."""

    view = "blind"

    def __init__(self, rule: Rule, physics: Physics, model: WorldModel) -> None:
        self.rule, self.physics, self.model = rule, physics, model

    def reset(self, n: int) -> None:
        pass

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        return np.stack([self.rule(row, self.physics) for row in observation["vector"].astype(np.float64)])

    def __call__(self, scaled: torch.Tensor, estimate: torch.Tensor, explore: bool = False) -> "Chosen":
        vector = (scaled * self.model.std + self.model.mean).numpy()
        return Chosen(torch.as_tensor(self.act({"vector": vector}, np.zeros(0)), dtype=torch.float32))


@dataclass
class Chosen:
    raw: torch.Tensor

    def mode(self) -> torch.Tensor:
        return self.raw


def main(options: Ranking) -> None:
    torch.set_num_threads(1)
    run = RunFolder(options.run)
    model, _ = load_model(run.checkpoints)
    reader = LogReader(run.logs(run.config()))
    replay = held_out_of(reader, model.context)
    print("| friction | " + " | ".join(map(str, FRICTIONS)) + " |\n" + "|---" * (1 + len(FRICTIONS)) + "|")
    with Workers(TASK, 32, processes=0) as workers:
        for name, rule in RULES.items():
            rows: dict[str, list[str]] = {"dreamt": [], "true": []}
            for friction in FRICTIONS:
                physics = registry.nominal(TASK).replace(floor_friction=friction)
                policy = Scripted(rule, physics, model)
                actor = cast(Actor, policy)  # called as one
                failed = dreamt_failures(model, actor, replay, TASK, physics, options.count, SEED)
                (cell,) = evaluate(TASK, policy, [("", "", physics)], range(SEED, SEED + options.count), workers)
                rows["dreamt"].append(f"{failed.mean():.2f}")
                rows["true"].append(f"{cell.failure_rate:.2f}")
            for kind, rates in rows.items():
                print(f"| {name}, {kind} | " + " | ".join(rates) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Ranking))
