"""The pendulum on which ours and the official code learn, and the buffer they learn from."""

import sys
from pathlib import Path

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "contenders"))

from online import BATCH, LENGTH, Buffer, Pendulum  # noqa: E402


def test_the_pendulum_is_gymnasiums():
    ours, theirs = Pendulum(0), gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset(seed=0)
    ours.reset()
    theirs.state = np.array([ours.angle, ours.speed])  # pyright: ignore[reportAttributeAccessIssue]
    rng = np.random.default_rng(0)
    for _ in range(300):
        command = rng.uniform(-1.2, 1.2)
        observation, reward = ours.step(command)
        expected, expected_reward, *_ = theirs.step(np.array([2 * command]))
        assert np.allclose(observation, expected, atol=1e-5)
        assert np.isclose(reward, float(expected_reward), atol=1e-5)


def test_segments_are_consecutive_rows_and_begin_afresh():
    buffer = Buffer(100)
    for i in range(80):
        vector = np.full(3, i, np.float32)
        buffer.add(vector=vector, action=np.full(1, -i), reward=i / 2, is_first=i % 40 == 0, is_last=i % 40 == 39)
    batch = buffer.sample(np.random.default_rng(0))
    rows = batch["vector"][..., 0]
    assert rows.shape == (BATCH, LENGTH) and (np.diff(rows, axis=1) == 1).all()
    assert (batch["action"][..., 0] == -rows).all() and (batch["reward"] == rows / 2).all()
    assert batch["is_first"][:, 0].all() and (batch["is_first"][:, 1:] == (rows[:, 1:] % 40 == 0)).all()
    assert (batch["is_last"] == (rows % 40 == 39)).all()
