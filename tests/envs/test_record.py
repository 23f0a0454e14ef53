"""Recording: Episodes that depend on the seed and their number alone."""

import numpy as np
import pytest

from configs import UserError
from envs import registry
from envs.bullet import start_at
from envs.experts.hopper import HopperPlayer, hopper_expert
from envs.experts.push_box import BoxPlayer
from envs.record import (
    ExpertPolicy,
    NoisyPolicy,
    RandomPolicy,
    RowStreams,
    count_steps,
    demonstrator,
    episode_seed,
    record,
)

TASKS = sorted(registry.TASKS)


def same(a, b):
    for name, values in a.observation.items():
        np.testing.assert_array_equal(values, b.observation[name])
    for name in ("action", "applied_action", "demonstrated", "reward", "push"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.terminated, a.truncated, a.physics, a.info) == (b.terminated, b.truncated, b.physics, b.info)


@pytest.fixture(scope="module")
def hopper_log():
    """Random actions fall soon, at different steps, so rows begin their next episodes at different times."""
    return list(record("hopper", RandomPolicy("hopper", 1), 8, seed=4, n_envs=3, processes=0))


@pytest.mark.parametrize("n_envs, processes", [(3, 2), (8, 0), (1, 0)])
def test_neither_rows_nor_processes_change_an_episode(hopper_log, n_envs, processes):
    again = record("hopper", RandomPolicy("hopper", 1), 8, seed=4, n_envs=n_envs, processes=processes)
    for a, b in zip(hopper_log, again, strict=True):
        same(a, b)


@pytest.mark.parametrize("task", TASKS)
def test_experts_with_noise_repeat_themselves(task):
    def run(n_envs):
        policy = demonstrator(task, 2)
        ranges = {**registry.log_ranges(task), "sensor_noise": 0.01}
        return list(record(task, policy, 3, seed=9, ranges=ranges, n_envs=n_envs, processes=0))

    for a, b in zip(run(1), run(3), strict=True):
        same(a, b)


@pytest.mark.parametrize("task", TASKS)
def test_episodes_are_whole_and_labelled(task):
    (episode,) = record(task, ExpertPolicy(task), 1, seed=3, ranges={}, processes=0)
    episode.check()
    assert episode.observation["vector"].dtype == episode.action.dtype == episode.applied_action.dtype == np.float32
    assert episode.reward.dtype == episode.push.dtype == np.float32
    assert episode.terminated != episode.truncated
    assert episode.physics == registry.nominal(task).to_dict()
    np.testing.assert_array_equal(episode.applied_action, episode.action)  # nominal motors are prompt and strong
    expected = {"task": task, "policy": "expert", "source": "pybullet", "episode": 0, "seed": episode_seed(3, 0)}
    assert expected.items() <= episode.info.items()
    assert abs(episode.action).max() <= 1.0


def test_recorded_episodes_can_be_entered(hopper_log):
    env = registry.make("hopper")
    episode = max(hopper_log, key=lambda e: e.length)
    np.testing.assert_array_equal(
        start_at(env, episode, episode.length - 1), episode.observation["vector"][episode.length - 1]
    )
    observation, reward, terminated, *_ = env.step(episode.action[-1])
    np.testing.assert_array_equal(observation, episode.observation["vector"][-1])
    assert np.float32(reward) == episode.reward[-1] and terminated == episode.terminated
    env.close()


def test_physics_are_drawn_from_the_ranges(hopper_log):
    ranges = registry.log_ranges("hopper")
    assert ranges
    for name, bounds in ranges.items():
        drawn = [episode.physics[name] for episode in hopper_log]
        assert all(bounds[0] <= value <= bounds[1] for value in drawn) and len(set(drawn)) == len(drawn)
    pushes = {"push_m_s": 0.5, "push_start_s": 0.1, "latency_steps": 2, "motor_strength": 0.5}
    (episode,) = record("hopper", ExpertPolicy("hopper"), 1, seed=0, ranges=pushes, processes=0)
    np.testing.assert_allclose(episode.push[:12], np.float32(0.5) * (np.arange(12) == 6))
    np.testing.assert_allclose(episode.applied_action[2:], 0.5 * episode.action[:-2])


def test_cameras_are_recorded():
    (episode,) = record("hopper", RandomPolicy("hopper"), 1, seed=0, processes=0, camera=True)
    images = episode.observation["image"]
    assert images.shape == (episode.length + 1, 64, 64, 3) and images.dtype == np.uint8
    assert (images[0] != images[-1]).any()
    plain = next(record("hopper", RandomPolicy("hopper"), 1, seed=0, processes=0))
    np.testing.assert_array_equal(episode.observation["vector"], plain.observation["vector"])


def test_stopping_early_ends_the_workers_and_keeps_the_order(hopper_log):
    seen = []
    episodes = record("hopper", RandomPolicy("hopper", 1), 8, 4, n_envs=3, processes=1, on_episode=seen.append)
    for k, episode in enumerate(episodes):
        same(episode, hopper_log[k])
        if k == 1:
            break
    episodes.close()
    assert [episode.info["episode"] for episode in seen] == [0, 1]
    assert count_steps(seen) == sum(episode.length for episode in hopper_log[:2])


class Still:
    """Means 0.25 always."""

    def reset(self, n):
        self.n = n

    def act(self, observation, is_first):
        return np.full((self.n, 2), 0.25, np.float32)


def acted(policy: NoisyPolicy, rows: int, steps: int) -> np.ndarray:
    """Commands (T, N, A) of one episode a row; what was meant must stay untouched."""
    policy.reset(rows)
    first = np.ones(rows, bool)
    actions = []
    for t in range(steps):
        actions.append(policy.act({"vector": np.zeros((rows, 1))}, first if t == 0 else ~first))
        np.testing.assert_array_equal(policy.meant, np.full((rows, 2), 0.25))
    return np.stack(actions)


def test_noise_is_drawn_for_each_episode_and_is_white():
    actions = acted(NoisyPolicy(Still(), (0.05, 0.2), seed=0), 200, 40)
    assert actions.mean() == pytest.approx(0.25, abs=0.01)
    std = actions.std((0, 2))
    assert 0.03 < std.min() < 0.08 and 0.16 < std.max() < 0.25
    for lag in (1, 3):
        assert abs(np.corrcoef(actions[:-lag].ravel(), actions[lag:].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]) < 0.05  # rows are independent
    assert abs(np.corrcoef(actions[..., 0].ravel(), actions[..., 1].ravel())[0, 1]) < 0.05  # and so are motors


class Wave:
    """Plays by commanding what its episode drew when it began."""

    def begin(self, rng):
        self.command = rng.uniform(0.5, 1.0, 2)

    def act(self, observation, rng):
        return self.command


def test_play_takes_whole_episodes_of_its_share():
    policy = NoisyPolicy(Still(), (0.0, 0.0), seed=0, play=0.3, player=Wave)
    actions = acted(policy, 300, 20)
    plays = (actions != np.float32(0.25)).all(-1)  # (T, N)
    assert (plays == plays[0]).all() and plays[0].mean() == pytest.approx(0.3, abs=0.08)
    np.testing.assert_array_equal(actions[:, plays[0]], np.broadcast_to(actions[0], actions.shape)[:, plays[0]])
    assert len(np.unique(actions[0, plays[0], 0])) == plays[0].sum()  # every episode draws its own


def test_play_pushes_slowly_and_fast_and_over_the_edge():
    """What the demonstrator never does; without it a model cannot tell what would happen."""

    def speeds(play):
        policy = NoisyPolicy(ExpertPolicy("push-box"), (0.0, 0.0), 4, play, BoxPlayer)
        episodes = list(record("push-box", policy, 30, seed=4, ranges={}, processes=0))
        vector = np.concatenate([e.observation["vector"][1:] for e in episodes])
        pushed = vector[vector[:, 17] == 1]
        return np.linalg.norm(pushed[:, 6:8], axis=1), sum(e.terminated for e in episodes)

    (played, lost), (shown, never) = speeds(1.0), speeds(0.0)
    slow = lambda speed: ((speed > 0.05) & (speed < 0.25)).mean()  # noqa: E731
    assert lost > 0 and never == 0
    assert slow(played) > 2 * slow(shown) and len(played) > 1.5 * len(shown)


def test_a_playing_hopper_falls_and_the_log_keeps_what_the_expert_would_have_done():
    policy = NoisyPolicy(ExpertPolicy("hopper"), (0.0, 0.0), 4, 1.0, HopperPlayer)
    episodes = list(record("hopper", policy, 12, seed=4, ranges={}, processes=0))
    lengths = np.array([episode.length for episode in episodes])
    assert np.mean([episode.terminated for episode in episodes]) > 0.6 and len(set(lengths.tolist())) > 6
    assert 20 < np.median(lengths) < 400  # seconds, not the full sixteen, and not at once
    for episode in episodes[:3]:
        meant = hopper_expert(episode.observation["vector"][:-1].astype(np.float32))
        np.testing.assert_allclose(episode.demonstrated, meant, atol=1e-5)
        assert np.abs(episode.demonstrated - episode.action).mean() > 0.02


def test_noise_leaves_what_was_meant_in_the_log():
    """What is demonstrated is the expert's own answer to each observation; what is commanded holds the noise."""
    policy = NoisyPolicy(ExpertPolicy("hopper"), (0.1, 0.2), 3)
    (episode,) = record("hopper", policy, 1, seed=5, ranges={}, processes=0)
    expert = ExpertPolicy("hopper")
    expert.reset(1)
    for t in range(episode.length):
        vector = episode.observation["vector"][t : t + 1]
        own = np.clip(expert.act({"vector": vector}, np.array([t == 0])), -1.0, 1.0)
        np.testing.assert_allclose(episode.demonstrated[t], own[0], atol=1e-6)
    assert (episode.action != episode.demonstrated).any(1).mean() > 0.9
    np.testing.assert_array_equal(episode.applied_action, episode.action)
    plain = next(record("hopper", ExpertPolicy("hopper"), 1, seed=5, ranges={}, processes=0))
    np.testing.assert_array_equal(plain.demonstrated, plain.action)


def test_streams_follow_the_order_in_which_episodes_begin():
    one, three = RowStreams(5, purpose=1), RowStreams(5, purpose=1)
    one.reset(1)
    three.reset(3)
    alone = [one.rows[0].random() for _ in range(4) if one.begin(np.array([True]))]
    assert three.begin(np.array([True, True, True])) == [0, 1, 2]
    together = [rng.random() for rng in three.rows]
    assert three.begin(np.array([False, True, False])) == [1]
    together.append(three.rows[1].random())
    assert alone == together


def test_mistakes_are_named():
    policy = RandomPolicy("hopper")
    with pytest.raises(UserError, match="hoper"):
        next(record("hoper", policy, 1, 0))
    with pytest.raises(UserError, match="floor_frictoin"):
        next(record("hopper", policy, 1, 0, ranges={"floor_frictoin": 0.3}))
    with pytest.raises(UserError, match="seed -1"):
        next(record("hopper", policy, 1, -1))
    with pytest.raises(UserError, match="0 episodes"):
        next(record("hopper", policy, 0, 0))
    with pytest.raises(UserError, match="noise runs from 0.3 to 0.1"):
        NoisyPolicy(policy, (0.3, 0.1))
    with pytest.raises(UserError, match="play = 1.5"):
        NoisyPolicy(policy, (0.0, 0.1), play=1.5)
    with pytest.raises(UserError, match="nobody who plays"):
        NoisyPolicy(policy, (0.0, 0.1), play=0.5)
