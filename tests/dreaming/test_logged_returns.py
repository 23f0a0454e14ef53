"""What logged rows were worth, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from dreaming.logged_returns import logged_returns, poor_and_excellent


def replay_of(*episodes: tuple[list[float], bool]) -> SimpleNamespace:
    """Episodes of these rewards, terminated or not; each has a row more than steps, whose reward means nothing."""
    rewards = [np.array([*paid, 1e6]) for paid, _ in episodes]
    return SimpleNamespace(
        reader=SimpleNamespace(rows={"reward": np.concatenate(rewards).astype(np.float32)}),
        start=np.cumsum([0, *(len(r) for r in rewards[:-1])]),
        length=np.array([len(paid) for paid, _ in episodes]),
        episodes=np.arange(len(episodes)),
        terminated=np.array([over for _, over in episodes]),
    )


def of(replay, episode: int, step: int, discount: float) -> float:
    return logged_returns(replay, np.array([episode]), np.array([step]), discount)[0]


def test_by_hand():
    replay = replay_of(([1, 2, 3, 4], True), ([1, 2, 3, 4], False))
    assert of(replay, 0, 0, 0.5) == pytest.approx(1 + 2 / 2 + 3 / 4 + 4 / 8)
    assert of(replay, 0, 3, 0.5) == 4.0
    assert of(replay, 0, 4, 0.5) == 0.0  # over
    # Cut off: it goes on at the mean of the last two, 3.5 a step, which is worth 7.
    assert of(replay, 1, 2, 0.5) == pytest.approx(3 + 4 / 2 + 7 / 4)
    assert of(replay, 1, 4, 0.5) == pytest.approx(7.0)


def test_what_always_pays_the_same_is_worth_it_for_ever():
    replay = replay_of(([2.0] * 100, False), ([2.0] * 500, True))
    steps = np.array([0, 30, 99, 100])
    found = logged_returns(replay, np.zeros(4, int), steps, 0.9)
    np.testing.assert_allclose(found, 20.0, rtol=1e-6)
    # A termination far ahead is not waited for.
    assert of(replay, 1, 0, 0.9) == pytest.approx(20.0)
    assert of(replay, 1, 490, 0.9) == pytest.approx(20 * (1 - 0.9**10))


def test_an_episode_of_no_step_and_the_last_one_of_a_log():
    replay = replay_of(([], False), ([5.0], False))
    assert of(replay, 0, 0, 0.9) == 0.0
    assert of(replay, 1, 0, 0.9) == pytest.approx(50.0)


def test_poor_and_excellent_episodes():
    """Of 21 the second is poor, the last but one is good, and a quarter more is excellent."""
    replay = replay_of(*[([float(k)] * 2, False) for k in range(21)])  # returns of 0, 2, ... 40
    assert poor_and_excellent(replay) == pytest.approx((2.0, 2.0 + 1.25 * 36.0))
    replay.episodes = np.array([3, 3])
    assert poor_and_excellent(replay) == (6.0, 6.0)
