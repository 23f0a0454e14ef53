"""rover: its lane, observation, reward and end; its demonstrator, player and oracle; exact replay; its pictures."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from configs import UserError
from envs import registry
from envs.bullet import start_at
from envs.experts.rover import RoverPlayer, careful_rover_oracle, rover_expert
from envs.physics import sample
from envs.record import ExpertPolicy, record
from envs.tasks.rover import ENOUGH_M, HALF_WIDTH_M, NOMINAL_SPEED_M_S, Rover
from envs.tasks.rover_lane import LENGTHS_M, LOOKAHEAD_M, PEAKS_1_M, Lane


@pytest.fixture(scope="module")
def env():
    env = registry.make("rover")
    yield env
    env.close()


def play(env, policy, seed, physics):
    """Returns observations, rewards, the last info and how far along the lane each observation was made."""
    observation, _ = env.reset(seed=seed, options={"physics": physics})
    observations, rewards, along = [observation], [], [env._s]
    while True:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        observations.append(observation)
        rewards.append(reward)
        along.append(env._s)
        if terminated or truncated:
            return np.array(observations), np.array(rewards), info, np.array(along)


def expert(seed):
    rng = np.random.default_rng(seed)
    return lambda observation: rover_expert(observation, rng)


def outcomes(env, friction, seeds, oracle=False):
    """Returns how many episodes failed, and how many of them out of the lane."""
    physics, failed, lost = env.nominal.replace(floor_friction=friction), 0, 0
    for seed in seeds:
        policy = (lambda o: careful_rover_oracle(o, physics)) if oracle else expert(seed)
        _, _, info, _ = play(env, policy, seed, physics)
        failed, lost = failed + (not info["success"]), lost + info["failure"]
    return failed, lost


@pytest.mark.parametrize("camera", [False, True])
def test_gymnasiums_own_checker_passes(camera):
    env = registry.make("rover", camera=camera)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have bounded observations and a registered name
        check_env(env, skip_render_check=True)
    env.close()


# -- the lane --------------------------------------------------------------------------------------


def test_the_lanes_curvature_is_the_slope_of_its_heading_and_the_heading_that_of_its_places():
    lane = Lane.random(np.random.default_rng(3))
    s = np.linspace(0.0, 25.0, 400)
    d = 1e-4
    assert (lane.heading(s + d) - lane.heading(s - d)) / (2 * d) == pytest.approx(lane.curvature(s), abs=1e-6)
    places = np.array([lane.place(x) for x in s])
    ahead = np.diff(places, axis=0) / np.diff(s)[:, None]
    middle = lane.heading((s[1:] + s[:-1]) / 2)
    assert ahead == pytest.approx(np.stack([np.cos(middle), np.sin(middle)], 1), abs=3e-3)
    assert lane.place(0.0) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_a_place_beside_the_lane_is_found_again():
    lane = Lane.random(np.random.default_rng(4))
    for s, left in ((0.0, 0.3), (3.1, -0.3), (12.4, 0.1)):
        (x, y), heading = lane.place(s), float(lane.heading(s))
        found, offset = lane.nearest(x - left * math.sin(heading), y + left * math.cos(heading), s - 0.15)
        assert (found, offset) == pytest.approx((s, left), abs=2e-3)


def test_lanes_wind_as_much_as_stated():
    s = np.linspace(0.0, 30.0, 500)
    sharpest = [np.abs(Lane.random(np.random.default_rng(seed)).curvature(s)).max() for seed in range(50)]
    (long, short), _ = PEAKS_1_M, LENGTHS_M
    assert min(sharpest) > long[0] and max(sharpest) <= long[1] + short[1]


# -- observation, reward, end ----------------------------------------------------------------------


def test_the_observation_is_what_its_names_say(env):
    observations, _, _, along = play(env, expert(7), 7, {"floor_friction": 0.5})
    channel = dict(zip(env.observation_names, observations.T.astype(float), strict=True))
    assert len(channel) == 23
    lane, hz = env._lane, env.control_hz
    for ahead in LOOKAHEAD_M:
        seen = channel[f"lane_curvature_{ahead:.1f}m_ahead_1_m"]
        assert seen == pytest.approx(lane.curvature(along + ahead), abs=1e-6)
    turned = channel["lane_heading_rad"]
    compass = np.arctan2(channel["compass_sin"], channel["compass_cos"])
    assert np.sin(compass - turned - lane.heading(along)) == pytest.approx(np.zeros(len(along)), abs=1e-5)

    def between(values):
        return (values[1:] + values[:-1]) / 2

    rate = np.diff(np.unwrap(compass)) * hz
    assert np.median(np.abs(rate - between(channel["yaw_rate_rad_s"]))) < 0.03
    aside = channel["forward_speed_m_s"] * np.sin(turned) + channel["leftward_speed_m_s"] * np.cos(turned)
    assert np.median(np.abs(np.diff(channel["lane_offset_m"]) * hz - between(aside))) < 0.02
    assert env.travelled(observations)[-1] == pytest.approx(along[-1], rel=0.01)
    wheels = np.mean([channel[f"wheel_{place}_m_s"] for place in ("rear_left", "rear_right")], axis=0)
    assert np.median(np.abs(wheels - channel["forward_speed_m_s"])) < 0.1


def test_it_sees_the_same_wherever_it_is_on_the_floor(env):
    """Curvature, and all that moves by it, is of the lane; only the compass is of the floor."""
    env.reset(seed=3)
    here = env._vector
    for s in (4.0, 11.0):
        env._s = s
        env._place(0.1, -0.2, np.array([1.0, -0.3]), 0.4, np.full(4, 1.2), 0.15)
        seen = env._observe()
        assert seen[:5] == pytest.approx([0.1, -0.2, 1.0, -0.3, 0.4], abs=1e-4)
        assert seen[7:12] == pytest.approx([1.2, 1.2, 1.2, 1.2, 0.15], abs=2e-3)
    assert here[:5] == pytest.approx([0, 0, 0, 0, 0], abs=1e-9)


def test_rewards_and_the_end(env):
    observations, rewards, info, along = play(env, expert(0), 0, {})
    assert len(rewards) == env.max_steps == 160
    assert info["success"] and not info["failure"] and info["progress"] == along[-1]
    expected = np.diff(along) * 20 / NOMINAL_SPEED_M_S - 0.2 * (observations[1:, 0] / HALF_WIDTH_M) ** 2
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert rewards.sum() == pytest.approx(160, rel=0.1)  # the demonstrator's mean speed is what pays 1 a step
    observations, rewards, info, _ = play(env, expert(0), 0, {"floor_friction": 0.1})
    assert info["failure"] and not info["success"] and rewards[-1] == -1.0
    assert np.abs(observations[-1, 0]) > HALF_WIDTH_M >= np.abs(observations[-2, 0])
    with pytest.raises(UserError, match="call reset first"):
        env.step(np.zeros(2))


def test_one_who_stands_still_or_crawls_has_failed(env):
    for speed, success in ((0.0, False), (0.4, False), (0.8, True)):
        slow = RoverPlayer()
        slow.change_rate, slow.offset_m, slow.speeds_m_s, slow.sideways_m_s2 = 0.0, 0.0, (speed, speed), (9.0, 9.0)
        rng = np.random.default_rng(0)
        slow.begin(rng)
        observations, _, info, _ = play(env, lambda o, slow=slow, rng=rng: slow.act(o, rng), 1, {})
        assert env.solved(observations) == success
        assert not info["failure"] and info["success"] == success == (info["progress"] >= ENOUGH_M)


# -- who drives ------------------------------------------------------------------------------------


def test_the_demonstrator_masters_the_logs_floors_and_slides_out_on_slippery_ones(env):
    assert outcomes(env, 0.8, range(6)) == (0, 0)
    assert outcomes(env, 0.4, range(8))[0] <= 1
    for friction in (0.1, 0.2, 0.25):
        failed, lost = outcomes(env, friction, range(8))
        assert failed == lost >= 7


def test_slippery_floors_are_feasible_for_one_who_knows(env):
    assert outcomes(env, 0.05, range(4), oracle=True)[0] <= 1
    assert outcomes(env, 0.1, range(4), oracle=True) == (0, 0)
    assert outcomes(env, 0.2, range(4), oracle=True) == (0, 0)


def test_log_ranges_are_worlds_the_demonstrator_survives(env):
    rng, ranges = np.random.default_rng(3), registry.log_ranges("rover")
    worlds = [sample(ranges, env.nominal, rng) for _ in range(12)]
    assert sum(play(env, expert(seed), seed, world)[2]["success"] for seed, world in enumerate(worlds)) >= 11


def test_play_holds_slow_and_fast_driving_and_slides(env):
    speeds, slides, lost = [], 0, 0
    for seed in range(12):
        rng, player = np.random.default_rng(seed), RoverPlayer()
        player.begin(rng)
        observations, _, info, _ = play(env, lambda o, p=player, r=rng: p.act(o, r), seed, {"floor_friction": 0.4})
        speeds.append(observations[:, 2])
        slides += np.abs(observations[:, 3]).max() > 0.4
        lost += info["failure"]
    slow, fast = np.percentile(np.concatenate(speeds), [10, 90])
    assert slow < 1.0 and fast > 2.5
    assert slides >= 3 and 1 <= lost <= 9


def test_extreme_worlds_stay_finite(env):
    rng = np.random.default_rng(1)
    worlds = [
        {"gravity_m_s2": 0.0}, {"floor_friction": 10.0, "gravity_m_s2": 30.0}, {"slope_deg": 45.0},
        {"payload_kg": 100.0, "payload_x_m": 0.5}, {"restitution": 1.0}, {"push_m_s": 10.0, "push_start_s": 0.0},
        {"motor_strength": 2.0}, {"floor_friction": 0.0},
    ]  # fmt: skip
    for world in worlds:
        observations, rewards, *_ = play(env, lambda o: rng.uniform(-1, 1, 2), 5, world)
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()


# -- seeds, replay, kicks --------------------------------------------------------------------------


def test_a_logged_episode_is_entered_at_any_step_in_a_fresh_client():
    ranges = {"floor_friction": 0.35, "sensor_noise": 0.01, "latency_steps": 1, "push_m_s": 0.3, "payload_kg": 1.0}
    (log,) = record("rover", ExpertPolicy("rover"), 1, seed=5, ranges=ranges, processes=0)
    for step in (0, log.length // 2, log.length):
        env = Rover()
        observation = start_at(env, log, step)
        np.testing.assert_array_equal(observation, log.observation["vector"][step])
        env.close()


def test_a_kick_moves_every_channel_that_is_free_by_what_is_asked(env):
    env.reset(seed=2)
    for _ in range(30):
        env.step(np.array([0.5, 0.1]))
    before = env._vector

    class Draw:
        def normal(self, size):
            return np.linspace(-1.0, 1.0, size)

    env.perturb(Draw(), np.full(23, 0.05))  # pyright: ignore[reportArgumentType]
    kick, moved = 0.05 * np.linspace(-1, 1, 23), env._vector - before
    free = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert moved[free] == pytest.approx(kick[free], abs=2e-3)
    assert moved[12:] == pytest.approx(np.zeros(11), abs=1e-6)


# -- pictures --------------------------------------------------------------------------------------


def test_drawing_from_the_observation_gives_the_true_scene_and_moves_nothing(env):
    observation, _ = env.reset(seed=4)
    for _ in range(25):
        observation, *_ = env.step(rover_expert(observation, np.random.default_rng(0)))
    before = env._observe()  # which seeks the nearest point of the lane anew
    true = env.render(96, 96).astype(int)
    drawn = env.render_vector(observation, 96, 96, x_m=env._s).astype(int)
    assert np.abs(true - drawn).max() <= 2  # float32
    np.testing.assert_allclose(env._observe(), before, atol=1e-12)
    red, green, blue = true[..., 0], true[..., 1], true[..., 2]
    assert ((blue > 120) & (red < 40)).sum() > 40  # the robot
    assert ((red > 150) & (green < 90)).sum() > 60  # kerbs
    white = (true.min(-1) > 200).astype(int)
    assert white[:, 40:56].sum() < 12  # on the lane stands nothing but the drawn robot, whose camera is white
    elsewhere = observation.copy()
    elsewhere[0] += 0.3
    assert (np.abs(env.render_vector(elsewhere, 96, 96, x_m=env._s) - true).max(-1) > 60).sum() > 60
