"""Policies in environments, to Episodes.

Episode i of a recording depends on (seed, i) alone: its start, sensor noise, physics and policy noise. Neither how
many episodes run at once nor how many processes run them changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from configs import UserError
from envs import registry
from envs.physics import Physics, PhysicsRange, check_range, sample
from envs.workers import Arrays, Workers, put
from worldmodel.episode import Episode

FOR_PHYSICS, FOR_EXPERT, FOR_RANDOM, FOR_NOISE = 1, 2, 3, 4  # streams of one recording's seed


class Policy(Protocol):
    """Acts for N rows at once; each row is one episode after another."""

    def reset(self, n: int) -> None:
        """Begins anew with `n` rows."""
        ...

    def act(self, observation: Arrays, is_first: np.ndarray) -> np.ndarray:
        """Actions (N, A) for observations (N, ...); `is_first` (N,) marks rows whose episode begins here."""
        ...


class RowStreams:
    """A random generator a row, begun anew with each episode.

    The n-th episode to begin (rows that begin together count in their order) gets stream n, whatever row it runs in.
    `purpose` keeps streams of one seed apart.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._seed, self._purpose = seed, purpose
        self.reset(0)

    def reset(self, n: int) -> None:
        self._begun = 0
        self.rows = [np.random.default_rng(0) for _ in range(n)]

    def begin(self, is_first: np.ndarray) -> list[int]:
        """Returns the rows that begin."""
        rows = np.flatnonzero(is_first).tolist()
        for row in rows:
            self.rows[row] = np.random.default_rng([self._seed, self._begun, self._purpose])
            self._begun += 1
        return rows


class ExpertPolicy:
    """The task's demonstrator."""

    name = "expert"

    def __init__(self, task: str, seed: int = 0) -> None:
        self._expert = registry.entry(task).expert
        self._streams = RowStreams(seed, FOR_EXPERT)

    def reset(self, n: int) -> None:
        self._streams.reset(n)

    def act(self, observation: Arrays, is_first: np.ndarray) -> np.ndarray:
        self._streams.begin(is_first)
        return np.stack([self._expert(*row) for row in zip(observation["vector"], self._streams.rows, strict=True)])


class RandomPolicy:
    """Uniform actions, each held for four steps on average: redrawn every step they would cancel out."""

    name = "random"
    hold_steps = 4

    def __init__(self, task: str, seed: int = 0) -> None:
        env = registry.make(task)
        self._size = len(env.action_names)
        env.close()
        self._streams = RowStreams(seed, FOR_RANDOM)

    def reset(self, n: int) -> None:
        self._streams.reset(n)
        self._action = np.zeros((n, self._size), np.float32)

    def act(self, observation: Arrays, is_first: np.ndarray) -> np.ndarray:
        self._streams.begin(is_first)
        for row, rng in enumerate(self._streams.rows):
            if rng.random() * self.hold_steps < 1.0 or is_first[row]:
                self._action[row] = rng.uniform(-1.0, 1.0, self._size)
        return self._action.copy()


class NoisyPolicy:
    """Another policy with noise on its actions, so that logs hold what happens beside the demonstrator's path.

    An episode's standard deviation is drawn from `std` (in units of the action). The noise is white: of noise that
    lasts, an imitator learns to repeat its own last command.

    Args:
        play: share of the episodes in which `player`'s hands act instead. A model of one way to act knows nothing of a
            gentler one: before there was play in the logs, a box that was pushed slowly did not move in its dreams.

    `meant` is what the wrapped policy would have done, kept in the log for imitators.

    Source: play as data, Lynch et al., "Learning Latent Plans from Play" (2019); noise and labels, Laskey et al.,
    "DART" (2017).
    """

    def __init__(
        self,
        policy: Policy,
        std: tuple[float, float],
        seed: int = 0,
        play: float = 0.0,
        player: Callable[[], registry.Player] | None = None,
    ) -> None:
        low, high = std
        if not 0.0 <= low <= high:
            raise UserError(f"policy noise runs from {low:g} to {high:g}; give 0 <= low <= high")
        if not 0.0 <= play <= 1.0:
            raise UserError(f"play = {play:g}; give a share of the episodes, from 0 to 1")
        if play and player is None:
            raise UserError(f"play = {play:g}, but there is nobody who plays; give 0")
        self._policy, self._std_range, self._play, self._player = policy, (low, high), play, player
        self._streams = RowStreams(seed, FOR_NOISE)
        self.name = policy_name(policy)

    def reset(self, n: int) -> None:
        self._policy.reset(n)
        self._streams.reset(n)
        self._std = np.zeros(n)
        self._plays = np.zeros(n, bool)
        self._players = [self._player() for _ in range(n)] if self._player else []

    def act(self, observation: Arrays, is_first: np.ndarray) -> np.ndarray:
        for row in self._streams.begin(is_first):
            rng = self._streams.rows[row]
            self._std[row] = rng.uniform(*self._std_range)
            self._plays[row] = rng.random() < self._play
            if self._plays[row]:
                self._players[row].begin(rng)
        self.meant = self._policy.act(observation, is_first)
        actions = self.meant.copy()
        for row, rng in enumerate(self._streams.rows):
            if self._plays[row]:
                actions[row] = self._players[row].act(observation["vector"][row], rng)
            actions[row] += self._std[row] * rng.standard_normal(actions.shape[1])
        return np.clip(actions, -1.0, 1.0)


def demonstrator(task: str, seed: int) -> NoisyPolicy:
    """The task's expert with its usual noise and share of play: what starter logs are recorded with."""
    entry = registry.entry(task)
    return NoisyPolicy(ExpertPolicy(task, seed), entry.noise, seed, entry.play, entry.player)


def policy_name(policy: Policy) -> str:
    return getattr(policy, "name", type(policy).__name__)


def count_steps(episodes: Iterable[Episode]) -> int:
    """Control steps that the simulator took for these episodes."""
    return sum(len(episode.action) for episode in episodes)


def episode_seed(seed: int, number: int) -> int:
    """The environment's seed of episode `number`; unrelated to those of other numbers and seeds."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def record(
    task: str,
    policy: Policy,
    episodes: int,
    seed: int,
    ranges: PhysicsRange | None = None,
    n_envs: int = 16,
    processes: int | None = None,
    camera: bool = False,
    on_episode: Callable[[Episode], None] | None = None,
    draw: Callable[[np.random.Generator], Physics] | None = None,
) -> Iterator[Episode]:
    """Yields `episodes` Episodes in the order of their numbers, each as soon as those before it are done.

    In that order, stopping early leaves no preference for short episodes. A caller that stops ends the workers.

    Args:
        ranges: physics to draw each episode's world from; None takes the task's `log_ranges`, {} nominal physics.
        on_episode: called with every Episode before it is yielded.
        draw: gives each episode's world, in place of ranges.
    """
    if seed < 0:
        raise UserError(f"seed {seed} is negative; give 0 or more")
    if episodes < 1:
        raise UserError(f"{episodes} episodes to record; give at least 1")
    nominal = registry.nominal(task)
    ranges = registry.log_ranges(task) if ranges is None else ranges
    check_range(ranges, nominal)
    with Workers(task, min(n_envs, episodes), processes, camera) as workers:
        for episode in _record(workers, policy, episodes, seed, draw or (lambda rng: sample(ranges, nominal, rng))):
            if on_episode is not None:
                on_episode(episode)
            yield episode


def _record(
    workers: Workers, policy: Policy, episodes: int, seed: int, draw: Callable[[np.random.Generator], Physics]
) -> Iterator[Episode]:
    rows: list[_Running | None] = [None] * workers.n_envs
    finished: dict[int, Episode] = {}
    current: Arrays = {}
    begun = yielded = 0
    policy.reset(workers.n_envs)
    while yielded < episodes:
        empty = [row for row, running in enumerate(rows) if running is None][: episodes - begun]
        is_first = np.zeros(workers.n_envs, bool)
        if empty:
            for row in empty:
                physics = draw(np.random.default_rng([seed, begun, FOR_PHYSICS]))
                rows[row] = _Running(begun, episode_seed(seed, begun), physics)
                begun += 1
            starting = [running for row in empty if (running := rows[row])]
            observation = workers.reset(empty, [r.seed for r in starting], [r.physics for r in starting])
            _note(observation, empty, rows, current)
            is_first[empty] = True
        active = [row for row, running in enumerate(rows) if running is not None]
        # A row that has run out of episodes keeps its last observation, so that the policy always sees all its rows.
        shown = {name: value.copy() for name, value in current.items()}
        actions = np.clip(policy.act(shown, is_first), -1.0, 1.0).astype(np.float32)
        meant = np.clip(getattr(policy, "meant", actions), -1.0, 1.0).astype(np.float32)
        steps = workers.step(active, actions[active])
        _note(steps.observation, active, rows, current)
        for k, row in enumerate(active):
            running = rows[row]
            assert running is not None
            running.action.append(actions[row])
            running.demonstrated.append(meant[row])
            running.applied_action.append(steps.info["applied_action"][k])
            running.reward.append(steps.reward[k])
            running.push.append(steps.info["push"][k])
            if steps.terminated[k] or steps.truncated[k]:
                episode = running.finish(bool(steps.terminated[k]), bool(steps.truncated[k]))
                episode.info |= {"task": workers.task, "policy": policy_name(policy), "recording_seed": seed}
                finished[running.number] = episode
                rows[row] = None
        while yielded in finished:
            yield finished.pop(yielded)
            yielded += 1


def _note(observation: Arrays, rows: list[int], running: list[_Running | None], current: Arrays) -> None:
    put(current, rows, observation, len(running))
    for name, values in observation.items():
        for row, value in zip(rows, values, strict=True):
            episode = running[row]
            assert episode is not None
            episode.observation.setdefault(name, []).append(value)


@dataclass
class _Running:
    """An episode under way."""

    number: int
    seed: int
    physics: Physics
    observation: dict[str, list[np.ndarray]] = field(default_factory=dict)
    action: list[np.ndarray] = field(default_factory=list)
    applied_action: list[np.ndarray] = field(default_factory=list)
    demonstrated: list[np.ndarray] = field(default_factory=list)
    reward: list[np.float32] = field(default_factory=list)
    push: list[np.float32] = field(default_factory=list)

    def finish(self, terminated: bool, truncated: bool) -> Episode:
        return Episode(
            observation={name: np.stack(values) for name, values in self.observation.items()},
            action=np.stack(self.action),
            applied_action=np.stack(self.applied_action),
            demonstrated=np.stack(self.demonstrated),
            reward=np.array(self.reward, np.float32),
            push=np.array(self.push, np.float32),
            terminated=terminated,
            truncated=truncated,
            physics=self.physics.to_dict(),
            info={"seed": self.seed, "episode": self.number, "source": "pybullet"},
        )
