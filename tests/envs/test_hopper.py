"""hopper: the old environment's observations, rewards and ends; its expert; exact replay."""

import types

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from walking import old_walker
from walking import roll_out as roll_out_with

from configs import UserError
from envs.bullet import start_at
from envs.experts.hopper import hopper_expert
from envs.tasks.hopper import Hopper

ROBOT_KG = 15.82


@pytest.fixture(scope="module")
def env():
    env = Hopper()
    yield env
    env.close()


def roll_out(env, seed, **options):
    return roll_out_with(env, seed, hopper_expert, **options)


def test_gymnasium_checker_passes():
    for camera in (False, True):
        env = Hopper(camera=camera)
        check_env(env, skip_render_check=True)
        env.close()


# -- the old environment ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_env():
    old_env = old_walker("HopperBulletEnv")
    yield old_env
    old_env.close()


def test_agrees_with_pybullets_own_environment_step_by_step(env, old_env):
    falls = 0
    for seed in range(4):
        noise = 0.15 * seed
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        joints = iter(env._state()[0][3:])
        old_env.robot.np_random = types.SimpleNamespace(uniform=lambda joints=joints, **_: float(next(joints)))
        np.testing.assert_allclose(old_env.reset(), observation, atol=1e-6)
        for t in range(400):
            noisy = hopper_expert(observation) + noise * rng.normal(size=3)
            action = np.clip(noisy, -1, 1).astype(np.float32)
            observation, reward, terminated, _, info = env.step(action)
            old_observation, old_reward, old_done, _ = old_env.step(action.astype(np.float64))
            np.testing.assert_allclose(observation, old_observation, atol=1e-6)
            if seed or t:  # in its very first episode, the old code's mean of x counts the floor from step 1 on
                assert reward == pytest.approx(old_reward, abs=1e-4)
            assert terminated == old_done == info["failure"]
            if terminated:
                falls += 1
                break
    assert falls >= 1


# -- the expert ------------------------------------------------------------------------------------


def test_expert_runs_at_nominal_physics(env):
    returns = [roll_out(env, seed).reward.sum() for seed in range(6)]
    assert 2350 < np.mean(returns) < 2650, returns


@pytest.mark.parametrize(
    "physics",
    [
        {"floor_friction": 0.3},
        {"floor_friction": 0.1},
        {"payload_kg": 0.3 * ROBOT_KG},
        {"slope_deg": -10.0},
        {"latency_steps": 1},
        {"motor_strength": 0.7},
    ],
)
def test_expert_always_falls_in_known_edge_cases(env, physics):
    episodes = [roll_out(env, 100 + seed, **physics) for seed in range(8)]
    assert all(episode.terminated for episode in episodes), [episode.length for episode in episodes]


def test_expert_acts_row_by_row(env):
    observations = roll_out(env, 0, steps=30).observation["vector"]
    one_by_one = np.stack([hopper_expert(row) for row in observations])
    np.testing.assert_array_equal(hopper_expert(observations), one_by_one)
    assert one_by_one.dtype == np.float32 and abs(one_by_one).max() <= 1.0


# -- seeds, replay, switches -----------------------------------------------------------------------


def test_seeds_decide_everything(env):
    other = Hopper()
    first = roll_out(env, 7, steps=200, sensor_noise=0.02)
    roll_out(other, 8, steps=50, floor_friction=0.2, payload_kg=5.0, slope_deg=5.0, gravity_m_s2=5.0)
    again = roll_out(other, 7, steps=200, sensor_noise=0.02)
    np.testing.assert_array_equal(first.observation["vector"], again.observation["vector"])
    np.testing.assert_array_equal(first.reward, again.reward)
    different = roll_out(env, 9, steps=1)
    assert not np.array_equal(first.observation["vector"][0], different.observation["vector"][0])
    other.close()


def test_a_logged_episode_is_entered_at_any_step(env):
    physics = {"sensor_noise": 0.01, "latency_steps": 1, "motor_strength": 1.2, "push_m_s": 0.2, "push_start_s": 0.5}
    log = roll_out(env, 3, steps=60, **physics)
    start = min(35, log.length - 5)
    np.testing.assert_array_equal(start_at(env, log, start), log.observation["vector"][start])
    for t in range(start, log.length):
        observation, reward, *_ = env.step(log.action[t])
        np.testing.assert_array_equal(observation, log.observation["vector"][t + 1])
        assert np.float32(reward) == log.reward[t]


def test_physics_switches_at_the_start_of_a_replay(env):
    log = roll_out(env, 3, steps=60)
    switched = env.nominal.replace(floor_friction=0.1, payload_kg=3.0, payload_x_m=0.1, slope_deg=-5, restitution=0.2)
    observation = start_at(env, log, 30, switched)
    np.testing.assert_array_equal(observation, log.observation["vector"][30])
    later = np.stack([env.step(log.action[t])[0] for t in range(30, 40)])
    assert not np.allclose(later, log.observation["vector"][31:41], atol=1e-3)
    assert env.physics == switched


def test_a_log_that_does_not_replay_is_named(env):
    log = roll_out(env, 3, steps=20)
    log.observation["vector"][7, 5] += 1e-3
    with pytest.raises(UserError, match=r"step 7 torso_vz_3\.33m_s differs \(seed 3\)"):
        start_at(env, log, 10)


def test_perturb_moves_the_state_by_about_its_scale(env):
    log = roll_out(env, 3, steps=40)
    scale = np.zeros(15)
    moved = [0, 3, 5, *range(7, 14)]  # the target's direction and the contact follow from the rest
    scale[moved] = 0.01
    kicks = []
    for seed in range(40):
        start_at(env, log, 30)
        env.perturb(np.random.default_rng(seed), scale)
        kicks.append(env._vector - log.observation["vector"][30])
    kicks = np.array(kicks)[:, moved]
    np.testing.assert_allclose(kicks.std(0), 0.01, rtol=0.4)
    env.perturb(np.random.default_rng(0), np.zeros(15))
    env.step(np.zeros(3, np.float32))  # it goes on from there


# -- pictures --------------------------------------------------------------------------------------


def test_render_vector_draws_the_observation_alone(env):
    log = roll_out(env, 3, steps=40)
    truth = env.render(120, 90)
    drawn = env.render_vector(log.observation["vector"][-1], 120, 90, x_m=float(env._state()[0][0]))
    assert truth.shape == drawn.shape == (90, 120, 3) and truth.dtype == drawn.dtype == np.uint8
    robot = log.observation["vector"][-1].copy()
    robot[7] += 0.6
    elsewhere = env.render_vector(robot, 120, 90)
    coloured = [
        np.ptp(picture.astype(int), axis=-1) > 90 for picture in (truth, drawn, elsewhere)
    ]  # the robot's pixels
    assert coloured[0].sum() > 40

    def overlap(a, b):
        return (a & b).sum() / (a | b).sum()

    # The observation shows the torso one sub-step late and not its x, so the pictures differ by a pixel here and there.
    assert overlap(coloured[0], coloured[1]) > 0.6
    assert overlap(coloured[0], coloured[2]) < 0.5
    ghost = env.render_vector(log.observation["vector"][-1], 120, 90, ghost_of=robot)
    assert not np.array_equal(ghost, drawn)


def test_travelled_integrates_the_observed_speed(env):
    log = roll_out(env, 3, steps=300)
    metres = env.travelled(log.observation["vector"])
    assert metres.shape == (301,)
    slide, _, pitch, *_ = env._state()[0]
    assert metres[-1] == pytest.approx(slide + 1.25 * np.sin(pitch), abs=0.1) and metres[-1] > 5.0
