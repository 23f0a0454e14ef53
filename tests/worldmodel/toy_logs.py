"""Small logs, described here in full, for the tests of the world model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldmodel.episode import Episode
from worldmodel.storage import LogReader, LogWriter, make_schema


def write_log(
    folder: Path,
    episodes: Sequence[Episode],
    task: str = "toy",
    bounds: tuple[float, float] = (-1.0, 1.0),
    control_hz: float = 10.0,
) -> LogReader:
    vector, action = episodes[0].observation["vector"], episodes[0].action
    image = episodes[0].observation.get("image")
    names = [f"channel {i}" for i in range(vector.shape[1])]
    actions = [f"motor {i}" for i in range(action.shape[1])]
    low, high = ([bound] * len(actions) for bound in bounds)
    shape = None if image is None else image.shape[1:]
    with LogWriter(folder, make_schema(task, control_hz, names, actions, low, high, shape)) as writer:
        for episode in episodes:
            writer.append(episode)
    return LogReader(folder)


def named_after_origin(lengths: Sequence[int], terminated: Sequence[bool], label: bool = True) -> list[Episode]:
    """Every number says where it comes from: episode e, step t gives 100 e + t, and a fraction that names the field."""
    episodes = []
    for e, (length, ends) in enumerate(zip(lengths, terminated, strict=True)):
        t = 100.0 * e + np.arange(length, dtype=np.float32)
        rows = 100.0 * e + np.arange(length + 1, dtype=np.float32)
        episodes.append(
            Episode(
                observation={"vector": np.stack([rows, -rows], 1)},
                action=np.stack([t + 0.25], 1),
                applied_action=np.stack([t + 0.5], 1),
                demonstrated=np.stack([t + 0.375], 1),
                reward=t + 0.75,
                push=t + 0.125,
                terminated=ends,
                truncated=not ends,
                physics={"floor_friction": 0.1 * (e + 1)} if label else {},
            )
        )
    return episodes


def sliding_mass(
    episodes: int, steps: int = 40, friction: tuple[float, float] = (0.2, 3.0), seed: int = 0, label: bool = True
) -> list[Episode]:
    """A mass on a viscous floor, 10 Hz: position x, speed v; dv/dt = 4 action - friction v. Reward: being near 0."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        mu = rng.uniform(*friction)
        push = np.repeat(rng.uniform(-1, 1, steps // 5 + 1), 5)[:steps]
        made.append(slide(mu, push, rng.uniform(-1, 1), rng.uniform(-1, 1), label))
    return made


def slide(mu: float, push: np.ndarray, x: float, v: float, label: bool = True) -> Episode:
    rows = [(x, v)]
    for a in push:
        x, v = x + 0.1 * v, v + 0.1 * (4 * a - mu * v)
        rows.append((x, v))
    vector = np.array(rows, np.float32)
    action = np.asarray(push, np.float32)[:, None]
    return Episode(
        observation={"vector": vector},
        action=action,
        applied_action=action,
        reward=np.exp(-np.abs(vector[1:, 0])),
        push=np.zeros(len(push), np.float32),
        terminated=False,
        truncated=True,
        physics={"floor_friction": mu} if label else {},
    )


def with_images(episode: Episode) -> Episode:
    """Adds a grey picture whose brightness is the first channel's."""
    level = np.clip(127 + 50 * episode.observation["vector"][:, :1], 0, 255).astype(np.uint8)
    image = np.broadcast_to(level[:, :, None, None], (len(level), 64, 64, 3))
    episode.observation["image"] = np.ascontiguousarray(image)
    return episode
