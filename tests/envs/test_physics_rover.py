"""Every Physics factor changes the motion of rover as mechanics demands, in numbers."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pybullet
import pytest

from configs import UserError
from envs.physics import FACTORS
from envs.tasks import rover
from envs.tasks.rover import MIDDLE_M, WHEEL_TORQUE_NM, Rover
from envs.tasks.rover_lane import CONTROL_HZ, TOP_SPEED_M_S, WHEELBASE_M, Lane
from envs.tasks.rover_scene import WHEEL_INERTIA_KG_M2, WHEEL_RADIUS_M, WHEELS

G = 9.81
DT = 1.0 / CONTROL_HZ
STOP, GO = np.zeros(2), np.array([1.0, 0.0])
# From racecar.urdf: the masses and where they stand ahead of the rear axle, and a wheel about its own axle.
PARTS = [(0.1, 0.0), (0.1, 0.0), (4.0, 0.1477), (2 * 0.34055, 0.0), (2 * (0.1 + 0.34055), 0.325), (0.13, 0.265)]
MASS_KG = sum(mass for mass, _ in PARTS)
ALONG = math.sqrt(0.5)  # of +x, as of +y, ahead and to the right on the straight lane
HEADING, FORWARD, LEFT, RATE, STEERING = 1, 2, 3, 4, 11  # channels
RIMS = slice(7, 11)


@pytest.fixture(scope="module")
def env():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rover, "HALF_WIDTH_M", 1e3)  # laws hold beside the lane too
        env = Rover()
        yield env
        env.close()


def begin(env: Rover, velocity=(0.0, 0.0), rolling=False, **factors: Any) -> None:
    """Starts on a straight lane, its wheels still or rolling along, with a velocity forward and leftward."""
    env.reset(seed=0, options={"physics": factors})
    env._lane = Lane(np.zeros(0), np.zeros(0), np.zeros(0))
    env._place(0.0, 0.0, np.zeros(2), 0.0, np.zeros(4), 0.0)
    for _ in range(4):  # settle into contact with the floor before it is set in motion
        pybullet.stepSimulation(physicsClientId=env.client)
    env._place(0.0, 0.0, np.array(velocity), 0.0, np.full(4, velocity[0] * rolling), 0.0)
    env._vector = env._observe()


def run(env: Rover, steps: int, action: Sequence[float] | np.ndarray = STOP) -> np.ndarray:
    """Returns the true states after each step."""
    states = []
    for _ in range(steps):
        env.step(np.array(action, np.float32))
        states.append(env._vector)
    return np.array(states)


@pytest.mark.parametrize("mu", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("direction_deg", [0.0, 37.0, 90.0])
def test_floor_friction_stops_locked_wheels_by_mu_g(env, mu, direction_deg):
    direction = np.array([math.cos(math.radians(direction_deg)), math.sin(math.radians(direction_deg))])
    speed, steps = 1.5, 5
    begin(env, speed * direction, floor_friction=mu)
    state = run(env, steps)[-1]
    deceleration = (speed * direction - state[[FORWARD, LEFT]]) / (steps * DT)
    assert deceleration == pytest.approx(mu * G * direction, abs=0.04 * mu * G)


@pytest.mark.parametrize("turned_rad", [-0.8, -0.3, 0.3, 0.8])
def test_floor_friction_has_its_size_whatever_the_heading(env, turned_rad):
    begin(env, floor_friction=0.2)
    velocity = np.array([1.2, 0.9])
    env._place(0.0, turned_rad, velocity, 0.0, np.zeros(4), 0.0)
    state = run(env, 3)[-1]
    assert np.linalg.norm(velocity - state[[FORWARD, LEFT]]) / (3 * DT) == pytest.approx(0.2 * G, rel=0.03)


@pytest.mark.parametrize("mu", [0.05, 0.2])
def test_floor_friction_is_all_that_spinning_wheels_accelerate_by(env, mu):
    begin(env, floor_friction=mu)
    states = run(env, 6, GO)
    assert (states[-1, FORWARD] - states[1, FORWARD]) / (4 * DT) == pytest.approx(mu * G, rel=0.02)
    assert (states[-1, RIMS] > states[-1, FORWARD] + 1.0).all()  # they do spin


@pytest.mark.parametrize("mu", [0.1, 0.3, 0.8])
def test_floor_friction_bounds_the_acceleration_in_a_bend(env, mu):
    begin(env, (3.0, 0.0), rolling=True, floor_friction=mu)
    states = run(env, 12, (0.75, 0.6))
    moving = np.hypot(states[:, FORWARD], states[:, LEFT])
    course = np.unwrap(states[:, HEADING] + np.arctan2(states[:, LEFT], states[:, FORWARD]))
    sideways = np.max(np.diff(course) * CONTROL_HZ * moving[1:])
    wanted = 9.0 * math.tan(0.6 * 0.4) / WHEELBASE_M  # v^2 / R = 6.8 m/s^2
    assert sideways < 1.03 * mu * G
    assert sideways > 0.85 * min(mu * G, wanted)


@pytest.mark.parametrize("steering", [0.3, -0.7])
def test_with_grip_the_path_is_ackermanns(env, steering):
    begin(env, (1.0, 0.0), rolling=True, floor_friction=1.0)
    state = run(env, 20, (0.25, steering))[-1]
    assert state[STEERING] == pytest.approx(0.4 * steering, rel=0.02)
    rear_speed = state[FORWARD]
    assert state[RATE] / rear_speed == pytest.approx(math.tan(0.4 * steering) / WHEELBASE_M, rel=0.03)
    assert state[LEFT] == pytest.approx(state[RATE] * MIDDLE_M, abs=0.02)  # the rear axle goes straight ahead


def test_gravity_m_s2_scales_friction(env):
    for gravity in (3.0, 15.0):
        begin(env, (1.5, 0.0), floor_friction=0.1, gravity_m_s2=gravity)
        assert (1.5 - run(env, 4)[-1, FORWARD]) / (4 * DT) == pytest.approx(0.1 * gravity, rel=0.02)


@pytest.mark.parametrize("slope_deg", [8.0, -8.0])
def test_slope_deg_slides_the_robot_downhill_by_g_sin_less_mu_cos(env, slope_deg):
    mu, slope = 0.05, math.radians(abs(slope_deg))
    begin(env, slope_deg=slope_deg, floor_friction=mu)
    before, after = run(env, 8)[[1, 7]][:, [FORWARD, LEFT]]
    expected = G * (math.sin(slope) - mu * math.cos(slope))
    downhill = math.copysign(expected, slope_deg) * np.array([-ALONG, ALONG])
    assert (after - before) / (6 * DT) == pytest.approx(downhill, rel=0.04)
    begin(env, slope_deg=slope_deg, floor_friction=0.2)  # tan 8 deg = 0.14
    assert abs(run(env, 20)[-1, [0, FORWARD, LEFT]]).max() < 2e-3


@pytest.mark.parametrize("payload", [0.0, 1.0, 4.0])
def test_payload_kg_adds_to_what_the_motors_accelerate(env, payload):
    begin(env, floor_friction=2.0, payload_kg=payload)
    states = run(env, 6, GO)
    inert = MASS_KG + payload + 4 * WHEEL_INERTIA_KG_M2 / WHEEL_RADIUS_M**2
    expected = 4 * WHEEL_TORQUE_NM / WHEEL_RADIUS_M / inert
    assert (states[-1, FORWARD] - states[1, FORWARD]) / (4 * DT) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("payload_x", [-0.2, 0.0, 0.3])
def test_payload_x_m_shifts_the_load_between_the_axles(env, payload_x):
    payload = 2.0
    begin(env, payload_kg=payload, payload_x_m=payload_x)
    run(env, 10)
    moment = sum(mass * ahead for mass, ahead in PARTS) + payload * (MIDDLE_M + payload_x)
    load = {wheel: 0.0 for wheel in WHEELS}
    for point in pybullet.getContactPoints(env._robot, env._floor, physicsClientId=env.client):
        load[point[3]] += point[9]
    front = (load[WHEELS[0]] + load[WHEELS[1]]) / sum(load.values())
    assert front == pytest.approx(moment / (MASS_KG + payload) / WHEELBASE_M, abs=0.01)


@pytest.mark.parametrize("restitution", [0.0, 0.4, 0.8])
def test_restitution_of_a_dropped_robot(env, restitution):
    # The payload brings the centre of mass between the axles, so that it does not tumble.
    moment = sum(mass * ahead for mass, ahead in PARTS)
    begin(env, restitution=restitution, payload_kg=1.0, payload_x_m=(MASS_KG * MIDDLE_M - moment) / 1.0)
    client, height = env.client, 0.1
    pybullet.setPhysicsEngineParameter(fixedTimeStep=1 / 240, numSubSteps=0, physicsClientId=client)
    (x, y, _), turn = pybullet.getBasePositionAndOrientation(env._robot, physicsClientId=client)
    pybullet.resetBasePositionAndOrientation(env._robot, (x, y, height), turn, physicsClientId=client)
    pybullet.resetBaseVelocity(env._robot, (0, 0, 0), (0, 0, 0), physicsClientId=client)
    speeds = []
    for _ in range(60):
        pybullet.stepSimulation(physicsClientId=client)
        speeds.append(pybullet.getBaseVelocity(env._robot, physicsClientId=client)[0][2])
    assert min(speeds) == pytest.approx(-math.sqrt(2 * G * height), rel=0.03)
    assert max(speeds) / -min(speeds) == pytest.approx(restitution, abs=0.06)


def test_motor_strength_scales_speed_and_steering(env):
    for strength in (1.0, 0.6):
        begin(env, motor_strength=strength)
        state = run(env, 30, (0.4, -0.2))[-1]
        assert np.mean(state[9:11]) == pytest.approx(0.4 * strength * TOP_SPEED_M_S, rel=0.01)
        assert state[STEERING] == pytest.approx(-0.2 * strength * 0.4, rel=0.02)
        applied = env.step(np.array([0.4, -0.2]))[4]["applied_action"]
        assert applied == pytest.approx([0.4 * strength, -0.2 * strength], rel=1e-6)


@pytest.mark.parametrize("latency", [0, 1, 2, 5])
def test_latency_steps_delay_the_first_effect_exactly(env, latency):
    begin(env, latency_steps=latency)
    states = run(env, 8, (1.0, 1.0))
    assert np.abs(states[:latency, [FORWARD, STEERING]]).max(initial=0.0) < 1e-3
    assert (states[latency:, FORWARD] > 0.1).all() and (states[latency:, STEERING] > 0.1).all()


def test_sensor_noise_has_the_stated_deviation_on_every_channel(env):
    errors = []
    for seed in range(10):
        env.reset(seed=seed, options={"physics": {"sensor_noise": 0.05}})
        for _ in range(159):
            observation, *_ = env.step(STOP)
            errors.append(observation - env._vector)
    assert np.std(errors, axis=0) == pytest.approx(np.full(23, 0.05), rel=0.08)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.006


def test_push_m_s_gives_the_robot_that_speed_along_x(env):
    for speed in (0.6, -0.6):
        begin(env, (2.0, 0.0), rolling=True, floor_friction=0.0, push_m_s=speed, push_start_s=0.25)
        states = run(env, 8, (0.5, 0.0))
        assert states[:5, [FORWARD, LEFT]] == pytest.approx(np.tile([2.0, 0.0], (5, 1)), abs=1e-3)
        pushed = [2.0 + ALONG * speed, -ALONG * speed]
        assert states[5:, [FORWARD, LEFT]] == pytest.approx(np.tile(pushed, (3, 1)), abs=1e-3)
        assert np.abs(states[:, RATE]).max() < 1e-3


def test_push_start_s_and_push_every_s_time_the_pushes(env):
    begin(env, push_m_s=0.05, push_start_s=0.25, push_every_s=0.5)
    pushes = [env.step(STOP)[4]["push"] for _ in range(30)]
    assert [t for t, push in enumerate(pushes) if push] == [5, 15, 25]


def picture(env: Rover, **light: Any) -> np.ndarray:
    """The floor around the robot, which stands in the middle of its columns."""
    begin(env, **light)
    return env.render(160, 160).astype(float)[60:120, 30:130]


def test_light_red_green_blue_tint_the_picture(env):
    white = picture(env).mean((0, 1))
    for channel, name in enumerate(("light_red", "light_green", "light_blue")):
        dimmer = picture(env, **{name: 0.3}).mean((0, 1)) / white
        assert dimmer[channel] < 0.75
        assert np.delete(dimmer, channel) == pytest.approx([1.0, 1.0], abs=0.02)


def test_light_azimuth_deg_and_light_shadow_throw_a_shadow_away_from_the_light(env):
    side = {}
    for azimuth in (-90.0, 90.0):
        plain, shaded = (picture(env, light_azimuth_deg=azimuth, light_shadow=on) for on in (0, 1))
        darker = (plain - shaded).mean(-1)
        assert darker.min() > -10  # a shadow brightens nothing
        assert (darker > 10).sum() > 40
        side[azimuth] = np.nonzero(darker > 10)[1].mean() - 50
    # The lane leads along +x in the picture, so that light from -y comes from the right.
    assert side[-90.0] < -4 < 4 < side[90.0]


def test_light_elevation_deg_lights_the_floor(env):
    low, high = (picture(env, light_elevation_deg=elevation, light_shadow=0) for elevation in (30.0, 85.0))
    assert low.mean() < 0.9 * high.mean()


def test_a_switch_takes_effect_under_way_and_does_not_outlive_a_reset(env):
    begin(env, (3.0, 0.0), floor_friction=0.3)
    before = run(env, 2)[-1, FORWARD]
    assert (3.0 - before) / (2 * DT) == pytest.approx(0.3 * G, rel=0.05)
    env.set_physics({"floor_friction": 0.05, "payload_kg": 3.0})
    after = run(env, 5)[-1, FORWARD]
    assert (before - after) / (5 * DT) == pytest.approx(0.05 * G, rel=0.03)
    mass = pybullet.getDynamicsInfo(env._robot, 12, physicsClientId=env.client)[0]
    assert mass == 3.0
    begin(env)
    assert pybullet.getDynamicsInfo(env._robot, 12, physicsClientId=env.client)[0] == 0.0
    states = run(env, 3, GO)
    assert states[-1, FORWARD] - states[0, FORWARD] > 2 * DT * 3.5
    with pytest.raises(UserError, match="payload_x_m is fixed while an episode runs"):
        env.set_physics({"payload_x_m": 0.1})


def test_every_factor_has_a_test_or_is_refused(env):
    tests = inspect.getsource(sys.modules[__name__]).split("def test_every_factor")[0]
    assert {name for name in FACTORS if name not in tests} == env.unused
    with pytest.raises(UserError, match="rover: box_mass_kg"):
        env.reset(seed=0, options={"physics": {"box_mass_kg": 2.0}})
