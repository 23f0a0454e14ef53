"""ant: the old environment's observations, rewards and ends; its expert; what counts as failure; exact replay."""

import types

import numpy as np
import pybullet
import pytest
from gymnasium.utils.env_checker import check_env
from walking import old_walker
from walking import roll_out as roll_out_with

from envs.bullet import start_at
from envs.experts.ant import AntPlayer, ant_expert
from envs.tasks.ant import STEP_S, Ant


@pytest.fixture(scope="module")
def env():
    env = Ant()
    yield env
    env.close()


def roll_out(env, seed, policy=ant_expert, steps=500, **physics):
    return roll_out_with(env, seed, policy, steps, **physics)


def torso(env):
    """Its place in m and its yaw in rad."""
    place, orientation_xyzw = pybullet.getBasePositionAndOrientation(env._robot, physicsClientId=env.client)
    return np.array(place), pybullet.getEulerFromQuaternion(orientation_xyzw)[2]


def test_gymnasium_checker_passes():
    for camera in (False, True):
        env = Ant(camera=camera)
        check_env(env, skip_render_check=True)
        env.close()


# -- the old environment ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_env():
    old_env = old_walker("AntBulletEnv")
    yield old_env
    old_env.close()


def test_agrees_with_pybullets_own_environment_step_by_step(env, old_env):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        observation, _ = env.reset(seed=seed)
        joints = iter(env._joint_state()[0])
        old_env.robot.np_random = types.SimpleNamespace(uniform=lambda joints=joints, **_: float(next(joints)))
        np.testing.assert_allclose(old_env.reset(), observation, atol=1e-6)
        for t in range(150):
            noisy = ant_expert(observation) + 0.2 * rng.normal(size=8) if seed < 2 else rng.choice([-1.0, 1.0], 8)
            action = np.clip(noisy, -1, 1).astype(np.float32)
            observation, reward, terminated, _, info = env.step(action)
            old_observation, old_reward, old_done, _ = old_env.step(action.astype(np.float64))
            np.testing.assert_allclose(observation, old_observation, atol=1e-6)
            if seed or t:  # in its very first episode, the old code's mean place counts the floor from step 1 on
                assert reward == pytest.approx(old_reward, abs=1e-4)
            assert terminated == old_done == info["failure"]
            if terminated:
                break


# -- ends and failure ------------------------------------------------------------------------------


def test_it_is_down_when_its_ball_all_but_touches_the_floor(env):
    env.reset(seed=0)
    middle = np.radians([0, 65, 0, -65, 0, -65, 0, 65])  # upside down, the feet up
    env._set_state(np.array([0, 0, 0.5]), np.array([np.pi, 0, 0]), np.zeros(3), np.zeros(3), middle, np.zeros(8))
    terminated = False
    while not terminated:
        _, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        assert terminated == info["failure"] == (torso(env)[0][2] <= 0.26)
        assert not terminated or (reward < 0 and not info["success"])


def test_limp_it_sinks_to_the_floor(env):
    log = roll_out(env, 0, lambda observation: np.zeros(8, np.float32), 100)
    assert log.terminated and 10 < log.length < 60


@pytest.mark.parametrize(
    ("physics", "metres", "success"),
    [({}, (15, 18), True), ({"motor_strength": 0.7}, (4, 14), None), ({"floor_friction": 0.2}, (0, 4), False)],
)
def test_failure_is_less_than_half_the_demonstrators_pace(env, physics, metres, success):
    observation, _ = env.reset(seed=0, options={"physics": physics})
    infos, observations = [], [observation]
    for step in range(1, 501):
        observation, _, terminated, truncated, info = env.step(ant_expert(observation))
        assert not terminated and truncated == (step == 500)
        assert info["success"] == (info["progress"] >= 1.0 * step * STEP_S)
        infos.append(info)
        observations.append(observation)
    assert metres[0] < infos[-1]["progress"] < metres[1]
    assert success in (infos[-1]["success"], None)
    assert env.solved(np.stack(observations)) == infos[-1]["success"]


# -- the expert ------------------------------------------------------------------------------------


def test_expert_walks_at_nominal_physics(env):
    returns = [roll_out(env, seed).reward.sum() for seed in range(4)]
    assert 1100 < np.mean(returns) < 1230, returns


def test_expert_acts_row_by_row(env):
    observations = roll_out(env, 0, steps=30).observation["vector"]
    one_by_one = np.stack([ant_expert(row) for row in observations])
    np.testing.assert_array_equal(ant_expert(observations), one_by_one)
    assert one_by_one.dtype == np.float32 and abs(one_by_one).max() <= 1.0


def test_play_shows_paces_that_the_expert_never_has(env):
    player, rng, paces = AntPlayer(), np.random.default_rng(0), []
    for seed in range(8):
        player.begin(rng)
        log = roll_out(env, seed, lambda observation: player.act(observation, rng).astype(np.float32), 200)
        paces.append(env.travelled(log.observation["vector"])[-1] / (log.length * STEP_S))
    assert min(paces) < 0.4 and max(paces) > 1.0, paces


# -- seeds, replay, switches -----------------------------------------------------------------------


def test_seeds_decide_everything(env):
    other = Ant()
    first = roll_out(env, 7, steps=150, sensor_noise=0.02)
    roll_out(other, 8, steps=50, floor_friction=0.2, payload_kg=50.0, slope_deg=5.0, gravity_m_s2=5.0)
    again = roll_out(other, 7, steps=150, sensor_noise=0.02)
    np.testing.assert_array_equal(first.observation["vector"], again.observation["vector"])
    np.testing.assert_array_equal(first.reward, again.reward)
    different = roll_out(env, 9, steps=1)
    assert not np.array_equal(first.observation["vector"][0], different.observation["vector"][0])
    other.close()


def test_a_logged_episode_is_entered_at_any_step(env):
    physics = {"sensor_noise": 0.01, "latency_steps": 1, "payload_kg": 30.0, "push_m_s": 0.5, "push_start_s": 0.5}
    log = roll_out(env, 3, steps=90, **physics)
    np.testing.assert_array_equal(start_at(env, log, 60), log.observation["vector"][60])
    for t in range(60, log.length):
        observation, reward, *_ = env.step(log.action[t])
        np.testing.assert_array_equal(observation, log.observation["vector"][t + 1])
        assert np.float32(reward) == log.reward[t]


def test_physics_switches_at_the_start_of_a_replay(env):
    log = roll_out(env, 3, steps=60)
    switched = env.nominal.replace(floor_friction=0.1, payload_kg=50.0, payload_x_m=0.1, slope_deg=-5, restitution=0.2)
    observation = start_at(env, log, 30, switched)
    np.testing.assert_array_equal(observation, log.observation["vector"][30])
    later = np.stack([env.step(log.action[t])[0] for t in range(30, 40)])
    assert not np.allclose(later, log.observation["vector"][31:41], atol=1e-3)
    assert env.physics == switched


def test_perturb_moves_the_state_by_about_its_scale(env):
    log = roll_out(env, 3, steps=20)
    scale = np.zeros(28)
    moved = [0, 1, *range(3, 24)]  # the target's cosine and the contacts follow from the rest
    scale[moved] = 0.01
    kicks = []
    for seed in range(40):
        start_at(env, log, 15)
        env.perturb(np.random.default_rng(seed), scale)
        kicks.append(env._vector - log.observation["vector"][15])
    kicks = np.array(kicks)[:, moved]
    np.testing.assert_allclose(kicks.std(0), 0.01, rtol=0.4)
    assert abs(np.corrcoef(kicks.T) - np.eye(len(moved))).max() < 0.6
    spin = pybullet.getBaseVelocity(env._robot, physicsClientId=env.client)[1]
    env.perturb(np.random.default_rng(0), np.zeros(28))
    np.testing.assert_allclose(pybullet.getBaseVelocity(env._robot, physicsClientId=env.client)[1], spin)
    env.step(np.zeros(8, np.float32))  # it goes on from there


# -- pictures --------------------------------------------------------------------------------------


def test_render_vector_draws_the_observation_alone(env):
    log = roll_out(env, 3, steps=60)
    truth = env.render(120, 90)
    place, _ = torso(env)
    drawn = env.render_vector(log.observation["vector"][-1], 120, 90, x_m=float(place[0]))
    assert truth.shape == drawn.shape == (90, 120, 3) and truth.dtype == drawn.dtype == np.uint8
    turned = log.observation["vector"][-1].copy()
    turned[1:3] = np.sin(0.7), np.cos(0.7)
    elsewhere = env.render_vector(turned, 120, 90)
    coloured = [np.ptp(picture.astype(int), axis=-1) > 90 for picture in (truth, drawn, elsewhere)]
    assert coloured[0].sum() > 40

    def overlap(a, b):
        return (a & b).sum() / (a | b).sum()

    # The camera follows the robot, so that the place across, which is not observed, does not matter.
    assert overlap(coloured[0], coloured[1]) > 0.9
    assert overlap(coloured[0], coloured[2]) < 0.8
    ghost = env.render_vector(log.observation["vector"][-1], 120, 90, ghost_of=turned)
    assert not np.array_equal(ghost, drawn)


def test_travelled_integrates_the_observed_speed(env):
    log = roll_out(env, 3, steps=300)
    metres = env.travelled(log.observation["vector"])
    assert metres.shape == (301,)
    assert metres[-1] == pytest.approx(torso(env)[0][0], abs=0.1) and metres[-1] > 5.0
