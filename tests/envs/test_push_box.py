"""push-box: its observation, reward, end, demonstrator and oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from configs import UserError
from envs import registry
from envs.experts.push_box import careful_oracle, push_box_expert
from envs.physics import Physics, sample
from envs.tasks.push_box import FINGER_RADIUS_M


@pytest.fixture(scope="module")
def env():
    env = registry.make("push-box")
    yield env
    env.close()


def play(env, policy, seed, physics):
    """Returns observations, rewards and the last info."""
    observation, _ = env.reset(seed=seed, options={"physics": physics})
    observations, rewards = [observation], []
    while True:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            return np.array(observations), np.array(rewards), info


def outcomes(env, friction, seeds, oracle=False):
    """Returns how many episodes failed (lost, or not at the goal at the end) and how many lost the box."""
    physics, failed, lost = Physics(floor_friction=friction), 0, 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        policy = (lambda o: careful_oracle(o, physics)) if oracle else (lambda o, rng=rng: push_box_expert(o, rng))
        _, _, info = play(env, policy, seed, physics)
        failed, lost = failed + (not info["success"]), lost + info["failure"]
    return failed, lost


@pytest.mark.parametrize("camera", [False, True])
def test_gymnasiums_own_checker_passes(camera):
    env = registry.make("push-box", camera=camera)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have bounded observations and a registered name
        check_env(env)
    env.close()


def test_the_observation_is_what_its_names_say(env):
    physics = Physics(box_notch=0.4, box_length_m=0.14, payload_kg=0.3, payload_x_m=0.02)
    rng = np.random.default_rng(0)
    observations, _, _ = play(env, lambda o: push_box_expert(o, rng), 7, physics)
    channel = dict(zip(env.observation_names, observations.T, strict=True))
    for body in ("finger", "box"):
        for axis in "xy":
            moved = np.diff(channel[f"{body}_{axis}_m"]) * env.control_hz
            speed = channel[f"{body}_v{axis}_m_s"]
            assert np.median(np.abs(moved - (speed[1:] + speed[:-1]) / 2)) < 0.01
    turned = np.diff(np.unwrap(np.arctan2(channel["box_sin_yaw"], channel["box_cos_yaw"]))) * env.control_hz
    rate = channel["box_yaw_rate_rad_s"]
    assert np.corrcoef(turned, (rate[1:] + rate[:-1]) / 2)[0, 1] > 0.9
    for axis in "xy":
        assert channel[f"finger_to_box_{axis}_m"] == pytest.approx(
            channel[f"box_{axis}_m"] - channel[f"finger_{axis}_m"], abs=1e-6
        )
        assert channel[f"box_to_goal_{axis}_m"] == pytest.approx(
            channel[f"goal_{axis}_m"] - channel[f"box_{axis}_m"], abs=1e-6
        )
    assert 0 < channel["contact"].sum() < len(observations)
    assert set(channel["contact"]) == {0.0, 1.0}


def test_starts_are_as_documented(env):
    for seed in range(100):
        o, _ = env.reset(seed=seed)
        assert 0.2 <= np.hypot(o[15], o[16]) <= 0.35
        assert 0.1 - 1e-6 <= 0.5 - np.abs(o[11:13]).max() <= 0.2 + 1e-6
        assert np.hypot(o[13], o[14]) > 0.1 / np.sqrt(2) + FINGER_RADIUS_M
        assert not o[17]


def test_rewards_and_the_end(env):
    nominal = Physics()
    rng = np.random.default_rng(0)
    observations, rewards, info = play(env, lambda o: push_box_expert(o, rng), 0, nominal)
    assert len(rewards) == env.max_steps == 80
    assert (rewards >= 0).all() and (rewards <= 1).all()
    assert rewards[-1] > 0.6 and info["success"] and not info["failure"]
    distance = np.hypot(observations[1:, 15], observations[1:, 16])
    slow = np.hypot(observations[1:, 6], observations[1:, 7]) < 0.05
    assert rewards == pytest.approx(0.4 * (1 - np.tanh(5 * distance)) + 0.6 * (slow & (distance < 0.05)), abs=1e-5)
    observations, rewards, info = play(env, lambda o: push_box_expert(o, rng), 0, nominal.replace(floor_friction=0.0))
    assert info["failure"] and not info["success"]
    assert rewards[-1] == -1.0
    assert np.abs(observations[-1, 4:6]).max() > 0.5 >= np.abs(observations[-2, 4:6]).max()
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros(2))


def test_the_demonstrator_masters_the_logs_floors_and_fails_on_slippery_ones(env):
    assert outcomes(env, 0.3, range(20)) == (0, 0)
    assert outcomes(env, 0.6, range(10)) == (0, 0)
    failed, _ = outcomes(env, 0.08, range(20))
    assert failed >= 14
    _, lost = outcomes(env, 0.02, range(10))
    assert lost >= 8


def test_slippery_floors_are_feasible_for_one_who_knows(env):
    assert outcomes(env, 0.05, range(20), oracle=True)[0] <= 1
    assert outcomes(env, 0.12, range(10), oracle=True) == (0, 0)


def test_log_ranges_are_worlds_the_demonstrator_survives(env):
    rng = np.random.default_rng(3)
    ranges = registry.log_ranges("push-box")
    assert ranges["floor_friction"] == (0.15, 0.8)
    successes = 0
    for seed in range(30):
        physics = sample(ranges, env.nominal, rng)
        *_, info = play(env, lambda o: push_box_expert(o, rng), seed, physics)
        successes += info["success"]
    assert successes >= 26


def test_extreme_worlds_stay_finite(env):
    rng = np.random.default_rng(1)
    worlds = [
        {"gravity_m_s2": 0.0}, {"floor_friction": 10.0, "gravity_m_s2": 30.0}, {"slope_deg": 45.0},
        {"payload_kg": 100.0, "payload_x_m": 0.5}, {"box_mass_kg": 0.01}, {"restitution": 1.0},
        {"box_length_m": 0.04, "box_width_m": 0.2, "box_notch": 0.6}, {"push_m_s": 10.0, "push_start_s": 0.0},
    ]  # fmt: skip
    for world in worlds:
        observations, rewards, _ = play(env, lambda o: push_box_expert(o, rng), 5, world)
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()
