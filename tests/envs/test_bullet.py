"""What every environment promises: replay bit for bit, start anywhere, errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs import UserError
from envs import registry
from envs.bullet import start_at
from envs.experts.push_box import push_box_expert
from envs.physics import FACTORS, Physics, sample
from worldmodel.episode import Episode

WORLD = {
    "floor_friction": 0.2, "restitution": 0.2, "slope_deg": 1.0, "payload_kg": 0.2, "payload_x_m": 0.02,
    "motor_strength": 0.9, "latency_steps": 1, "sensor_noise": 0.003, "push_m_s": 0.1, "push_every_s": 0.7,
    "box_notch": 0.4, "box_mass_kg": 0.8,
}  # fmt: skip


@pytest.fixture(scope="module")
def env():
    env = registry.make("push-box")
    yield env
    env.close()


def log(env, seed, physics) -> Episode:
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options={"physics": physics})
    vectors, steps = [observation], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = push_box_expert(observation, rng)
        observation, reward, terminated, truncated, step_info = env.step(action)
        vectors.append(observation)
        steps.append((action, step_info["applied_action"], reward, step_info["push"]))
    actions, applied, rewards, pushes = (np.array(column, np.float32) for column in zip(*steps, strict=True))
    return Episode(
        observation={"vector": np.array(vectors)},
        action=actions,
        applied_action=applied,
        reward=rewards,
        push=pushes,
        terminated=terminated,
        truncated=truncated,
        physics=env.physics.to_dict(),
        info={"task": env.task_name, **info},
    )


def replay(env, episode: Episode) -> np.ndarray:
    observation, _ = env.reset(seed=episode.info["seed"], options={"physics": episode.physics})
    return np.array([observation, *(env.step(action)[0] for action in episode.action)])


def test_a_replay_is_bit_identical_in_any_environment_after_any_past(env):
    episode = log(env, 3, WORLD).check()
    assert np.array_equal(replay(env, episode), episode.observation["vector"])
    other = registry.make("push-box")
    log(other, 8, {"floor_friction": 0.02, "box_mass_kg": 3.0})
    assert np.array_equal(replay(other, episode), episode.observation["vector"])
    other.close()


def test_seeds_decide_everything(env):
    first, same, different = (log(env, seed, {"sensor_noise": 0.01}) for seed in (1, 1, 2))
    assert np.array_equal(first.observation["vector"], same.observation["vector"])
    assert not np.array_equal(first.observation["vector"][0], different.observation["vector"][0])
    _, info = env.reset(seed=None)
    _, again = env.reset(seed=None)
    assert info["seed"] != again["seed"]


@pytest.mark.parametrize("step", [0, 1, 17, 60])
def test_start_at_enters_a_logged_episode_and_then_switches_physics(env, step):
    episode = log(env, 4, WORLD)
    observation = start_at(env, episode, step)
    assert np.array_equal(observation, episode.observation["vector"][step])
    went_on = np.array([env.step(action)[0] for action in episode.action[step:]])
    assert np.array_equal(went_on, episode.observation["vector"][step + 1 :])

    switched = env.physics.replace(floor_friction=0.02, payload_kg=1.0, latency_steps=3, slope_deg=-3.0)
    tracks = []
    for _ in range(2):
        observation = start_at(env, episode, step, switched)
        assert np.array_equal(observation, episode.observation["vector"][step])
        assert env.physics == switched
        track = []
        for action in episode.action[step:]:
            observation, _, terminated, *_ = env.step(action)
            track.append(observation)
            if terminated:
                break
        tracks.append(np.array(track))
    assert np.array_equal(*tracks)
    assert not np.array_equal(tracks[0][:3], went_on[: len(tracks[0])][:3])


def test_start_at_refuses_a_log_that_does_not_replay(env):
    episode = log(env, 4, WORLD)
    wrong = replace(episode, physics={**episode.physics, "floor_friction": 0.21})
    with pytest.raises(UserError, match=r"does not replay: at step \d+ (box|finger)"):
        start_at(env, wrong, 60)
    with pytest.raises(UserError, match="outside the episode's 80 steps"):
        start_at(env, episode, 81)
    with pytest.raises(UserError, match="seed"):
        start_at(env, replace(episode, info={}), 3)


def test_perturb_moves_the_state_by_about_its_scale(env):
    scale = np.full(18, 0.01)
    kicks = []
    for seed in range(200):
        env.reset(seed=0)
        before = env._vector
        env.perturb(np.random.default_rng(seed), scale)
        kicks.append(env._vector - before)
    spread = np.std(kicks, axis=0)
    assert spread[[0, 1, 2, 3, 4, 5, 6, 7, 10]] == pytest.approx(np.full(9, 0.01), rel=0.2)
    assert (spread[[11, 12]] == 0).all()
    first, same = (env.reset(seed=0) and env.perturb(np.random.default_rng(1), scale) or env._vector for _ in range(2))
    assert np.array_equal(first, same)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"floor_fricton": 0.1}, "floor_friction"),
        ({"floor_friction": -0.1}, "floor_friction = -0.1 is out of range; it may lie from 0 to 10"),
        ({"floor_friction": float("nan")}, "floor_friction"),
        ({"floor_friction": "low"}, "floor_friction must be a number"),
        ({"latency_steps": 1.5}, "latency_steps = 1.5 must be a whole number"),
    ],
)
def test_bad_physics_is_named(env, factors, message):
    with pytest.raises(UserError, match=message):
        env.reset(seed=0, options={"physics": factors})


@pytest.mark.parametrize(
    ("action", "message"), [([0.0], "shape"), ([0.0, np.nan], "not finite"), ([np.inf, 0.0], "not finite")]
)
def test_bad_actions_are_named(env, action, message):
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.step(np.array(action))


def test_actions_are_clipped(env):
    env.reset(seed=0)
    assert env.step(np.array([3.0, -3.0]))[4]["applied_action"].tolist() == [1.0, -1.0]


def test_sample_keeps_to_its_ranges_and_names_what_is_wrong():
    rng = np.random.default_rng(0)
    drawn = [sample({"floor_friction": (0.1, 0.4), "latency_steps": (0, 2), "payload_kg": 0.5}, Physics(), rng)
             for _ in range(300)]  # fmt: skip
    friction = np.array([physics.floor_friction for physics in drawn])
    assert friction.min() >= 0.1 and friction.max() <= 0.4
    assert friction.mean() == pytest.approx(0.25, abs=0.02)
    assert {physics.latency_steps for physics in drawn} == {0.0, 1.0, 2.0}
    assert {physics.payload_kg for physics in drawn} == {0.5}
    for ranges, message in [
        ({"friction": 0.1}, "friction"),
        ({"floor_friction": (0.4, 0.1)}, "lower bound first"),
        ({"floor_friction": (0.1, 99.0)}, "out of range"),
        ({"floor_friction": "low"}, "a number or a pair"),
    ]:
        with pytest.raises(UserError, match=message):
            sample(ranges, Physics(), rng)


def test_physics_goes_through_a_dict_and_back():
    physics = Physics.from_dict(WORLD)
    assert Physics.from_dict(physics.to_dict()) == physics
    assert list(physics.to_dict()) == list(FACTORS)


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="push-box"):
        registry.make("push-bx")


def test_without_pybullet_one_line_says_so(root):
    script = """
import sys
sys.modules["pybullet"] = None
from configs import UserError
from envs import registry
try:
    registry.make("push-box")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert "PyBullet is not installed" in done.stdout and "3.11" in done.stdout


def test_bullet_keeps_off_the_terminal(root):
    script = "from envs import registry; e = registry.make('push-box'); e.reset(seed=0); e.close(); print('mine')"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("mine\n", "")


@pytest.mark.parametrize("task", registry.TASKS)
def test_beginning_again_takes_no_memory(task):
    """A night begins tens of thousands of episodes. Bullet kept 5 to 22 KB of each: what it had read, and the goal."""

    def resident_kb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1000

    env = registry.make(task)
    for seed in range(150):
        env.reset(seed=seed)
    before = resident_kb()
    for seed in range(300):
        env.reset(seed=seed)
    assert (resident_kb() - before) / 300 < 2.0
    env.close()
