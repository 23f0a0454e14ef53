"""Learning by acting, the same for every agent: a pendulum, a replay buffer, an update every few steps.

NumPy alone, so that it runs in any contender's own Python. An agent's script calls `serve_online`.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

STEPS_A_EPISODE, OBSERVATION, ACTION = 200, 3, 1
SIZE = {"deter": 128, "hidden": 32, "stoch": 16, "classes": 8, "blocks": 8}  # of the RSSM
UNITS, BATCH, LENGTH, HORIZON = 32, 16, 32, 15
LR, WARMUP = 3e-4, 100
Arrays = dict[str, np.ndarray]


class Agent(Protocol):
    def act(self, observation: np.ndarray, is_first: bool) -> np.ndarray:
        """Observation (3,) to a command (1,) in [-1, 1]."""
        ...

    def train(self, batch: Arrays) -> None:
        """One update on segments (B, T): vector, reward, is_first, is_last, is_terminal, and the action taken after
        each observation."""
        ...


class Pendulum:
    """Gymnasium's Pendulum-v1: swing up and stay; a step pays minus the squared angle, speed and torque."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        self.angle, self.speed = self.rng.uniform([-np.pi, -1], [np.pi, 1])
        return self.observation()

    def observation(self) -> np.ndarray:
        return np.array([np.cos(self.angle), np.sin(self.angle), self.speed], np.float32)

    def step(self, command: float) -> tuple[np.ndarray, float]:
        torque = 2 * float(np.clip(command, -1, 1))
        angle = (self.angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self.speed**2 + 0.001 * torque**2)
        self.speed = float(np.clip(self.speed + (15 * np.sin(self.angle) + 3 * torque) * 0.05, -8, 8))
        self.angle += self.speed * 0.05
        return self.observation(), reward


class Buffer:
    """Every row so far; segments start anywhere and run on over episodes' ends."""

    def __init__(self, rows: int) -> None:
        self.size, no = 0, np.zeros(rows, bool)
        self.rows: Arrays = {
            "vector": np.zeros((rows, OBSERVATION), np.float32),
            "action": np.zeros((rows, ACTION), np.float32),
            "reward": np.zeros(rows, np.float32),
            **{name: no.copy() for name in ("is_first", "is_last", "is_terminal")},
        }

    def add(self, **row: object) -> None:
        for name, value in row.items():
            self.rows[name][self.size] = value
        self.size += 1

    def sample(self, rng: np.random.Generator) -> Arrays:
        at = rng.integers(0, self.size - LENGTH + 1, BATCH)[:, None] + np.arange(LENGTH)
        batch = {name: rows[at] for name, rows in self.rows.items()}
        batch["is_first"][:, 0] = True
        return batch


def serve_online(build: Callable[[argparse.Namespace], Agent]) -> None:
    """Prints one JSON object an episode: environment steps so far, return, seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=4, help="environment steps an update")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    agent, pendulum, rng = build(options), Pendulum(1000 + options.seed), np.random.default_rng(options.seed)
    buffer = Buffer(-(-options.steps // STEPS_A_EPISODE) * (STEPS_A_EPISODE + 1))
    begun, steps = time.monotonic(), 0
    while steps < options.steps:
        observation, reward, paid = pendulum.reset(), 0.0, 0.0
        for t in range(STEPS_A_EPISODE + 1):
            last = t == STEPS_A_EPISODE
            # The first five episodes act at random, as nothing is learnt before.
            random = steps < 5 * STEPS_A_EPISODE
            command = rng.uniform(-1, 1, ACTION) if random else agent.act(observation, t == 0)
            buffer.add(vector=observation, action=command, reward=reward, is_first=t == 0, is_last=last)
            if last:
                break
            observation, reward = pendulum.step(float(command[0]))
            paid += reward
            steps += 1
            if not random and steps % options.every == 0:
                agent.train(buffer.sample(rng))
        seconds = round(time.monotonic() - begun, 1)
        answers.write(json.dumps({"steps": steps, "return": round(paid, 1), "seconds": seconds}) + "\n")
