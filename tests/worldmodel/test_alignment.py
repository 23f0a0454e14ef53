import dataclasses

import numpy as np
import pytest
from toy_logs import sliding_mass, write_log

from worldmodel.alignment import alignment
from worldmodel.episode import Episode


def moved(episode: Episode, shift: int) -> Episode:
    """The command of row t stands in row t + shift."""
    action = np.roll(episode.action, shift, axis=0)
    return dataclasses.replace(episode, action=action, applied_action=action, demonstrated=action)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
def test_a_shifted_log_is_found_out(tmp_path, shift):
    found = alignment(write_log(tmp_path, [moved(episode, shift) for episode in sliding_mass(20)]))
    assert found is not None and found.best == shift
    assert found.suspicious == (shift != 0) and (found.advice() is None) == (shift == 0)
    if advice := found.advice():
        assert f"row t{shift:+d}" in advice and (" late: " in advice) == (shift > 0)


def test_it_agrees_with_least_squares_done_in_another_way(tmp_path):
    episodes = sliding_mass(8, label=False)
    found = alignment(write_log(tmp_path, episodes))
    assert found is not None
    state, change = [], []
    for episode in episodes:
        x, a = episode.observation["vector"].astype(float), episode.action.astype(float)
        for t in range(2, len(a) - 2):
            state.append([*x[t], *x[t - 1], *a[t], 1.0])
            change.append(x[t + 1] - x[t])
    state, change = np.array(state), np.array(change)
    fit = int(0.8 * len(state))
    weights = np.linalg.lstsq(state[:fit], change[:fit], rcond=None)[0]
    left = ((change[fit:] - state[fit:] @ weights) ** 2).mean(0) / change[fit:].var(0)
    assert found.by_shift[0] == pytest.approx(left.mean(), abs=0.01) and found.rows == len(state)


def test_a_controller_that_answers_at_once_is_not_taken_for_a_shift(tmp_path):
    """Commands that follow the observation of their own row, with noise of their own."""
    rng, episodes = np.random.default_rng(0), []
    for episode in sliding_mass(20):
        x, v, rows, sent = 1.0, 0.0, [], []
        for _ in range(41):
            rows.append((x, v))
            sent.append([-0.5 * x - 0.3 * v + 0.3 * rng.normal()])
            x, v = x + 0.1 * v, v + 0.1 * (4 * sent[-1][0] - v)
        action = np.array(sent[:-1], np.float32)
        vector = {"vector": np.array(rows, np.float32)}
        episodes.append(
            dataclasses.replace(
                episode,
                observation=vector,
                action=action,
                applied_action=action,
                demonstrated=action,
                reward=action[:, 0],
                push=0 * action[:, 0],
            )
        )
    found = alignment(write_log(tmp_path, episodes))
    assert found is not None and not found.suspicious and found.advice() is None


def test_commands_without_effect_are_named(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        dataclasses.replace(episode, action=rng.uniform(-1, 1, episode.action.shape).astype(np.float32))
        for episode in sliding_mass(20)
    ]
    found = alignment(write_log(tmp_path, episodes))
    assert found is not None and "no linear effect" in (found.advice() or "")


def test_too_few_rows_say_nothing(tmp_path):
    assert alignment(write_log(tmp_path, sliding_mass(2, steps=20))) is None
