"""What the pendulum's benchmark is fed and how it counts; the logs of the real one are not needed here."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from real_pendulum import HORIZONS, WARMUP, HeldOut, Trajectory, first_minutes, logged, markdown, simulated  # noqa: E402


def spinning(kind: str, steps: int, split: str = "train", speed: float = 2.0) -> Trajectory:
    """Both joints turn evenly, from an angle that names the kind."""
    t = 0.01 * np.arange(steps + 1)
    rows = np.stack([float(len(kind)) + speed * t, speed * t, 0 * t + speed, 0 * t + speed], 1).astype(np.float32)
    return Trajectory(kind, split, rows, np.ones((steps, 2), np.float32))


def test_more_minutes_hold_fewer_and_kinds_take_turns():
    every = [spinning(kind, 600) for kind in ("a", "bb", "ccc") for _ in range(6)] + [spinning("a", 600, "test")]
    one, two = (first_minutes(every, minutes, seed=0) for minutes in (0.25, 0.5))
    assert [len(part.torque) for part in one] == [600, 600, 300]
    assert {part.kind for part in one} == {"a", "bb", "ccc"} and all(part.split == "train" for part in two)
    assert sum(len(part.torque) for part in two) == 3000
    for less, more in zip(one, two, strict=False):
        assert np.array_equal(less.observed, more.observed[: len(less.observed)])


def test_rollouts_begin_in_logged_states_in_motion():
    class Marked:
        def rollout(self, position, velocity, torque):
            return np.tile(np.concatenate([position, velocity]), (len(torque) + 1, 1))

    still = spinning("still", 600, speed=0.0)
    made = simulated(Marked(), [spinning("a", 600), still], 0.5, seed=0)  # pyright: ignore[reportArgumentType]
    assert len(made) == 15 and {part.split for part in made} == {"train", "test"}
    assert all(part.observed[0, 2] == 2.0 and len(part.torque) == 200 for part in made)


def test_a_perfect_guess_errs_by_nothing_and_persistence_by_what_it_moved(tmp_path):
    reader = logged(tmp_path, [spinning("a", 200, "test"), spinning("bb", 200, "test", speed=0.0)], bound=2.0)
    judge = HeldOut(reader, np.array([2.0, 2.0, 1.0, 1.0]), starts=20)
    batch, _ = judge.batch()
    assert (batch.vector[:, WARMUP - 1, 2] == 2.0).all()  # what stands still is left out
    assert torch.allclose(batch.vector[:, -1, 0] - batch.vector[:, WARMUP - 1, 0], torch.tensor(0.02 * HORIZONS[-1]))
    still = judge.of_persistence()
    assert still["rad"] == pytest.approx([0.02 * h for h in HORIZONS], rel=1e-3)
    assert still["rad/s"] == pytest.approx([0.0] * len(HORIZONS))
    assert still["sd"] == pytest.approx([0.01 * h / np.sqrt(2) for h in HORIZONS], rel=1e-3)

    class Told:
        def rollout(self, position, velocity, torque):
            assert (torque == 1.0).all()  # in Nm, as logged
            t = 0.01 * np.arange(len(torque) + 1)[:, None]
            return np.concatenate([position + t * velocity, np.tile(velocity, (len(t), 1))], 1)

    assert judge.of_machine(Told())["sd"] == pytest.approx([0.0] * len(HORIZONS), abs=1e-5)  # pyright: ignore


def test_the_table_has_means_and_the_spread_of_seeds():
    found = [{"real": {"model": {"sd": [x] * len(HORIZONS)}, "late": {"sd": [0.0] * 5}}} for x in (1.0, 2.0, 3.0)]
    del found[2]["real"]["late"]
    assert markdown(found, "real", "sd").splitlines()[2:] == ["| model" + " | 2.000" * 5 + " | 1.000 to 3.000 |"]
