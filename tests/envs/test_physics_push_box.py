"""Every Physics factor changes the motion of push-box as physics demands, in numbers."""

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
from envs import registry
from envs.physics import FACTORS
from envs.tasks.push_box import BOX_HEIGHT_M, CONTROL_HZ, FINGER_FORCE_N, FINGER_RADIUS_M, PushBox

Vector = Sequence[float] | np.ndarray
G = 9.81
DT = 1.0 / CONTROL_HZ
STILL = np.zeros(2, np.float32)
FAR = np.array([-0.45, -0.45])


@pytest.fixture(scope="module")
def env():
    env = registry.make("push-box")
    yield env
    env.close()


def begin(
    env: PushBox, box: Vector = (0, 0), box_v: Vector = (0, 0), yaw=0.0, finger: Vector = FAR, **factors: Any
) -> np.ndarray:
    """Starts an episode with the box where the test wants it; returns the true state."""
    env.reset(seed=0, options={"physics": factors})
    env._place(np.array(finger), np.zeros(2), np.array(box), yaw, np.zeros(2), 0.0)
    for _ in range(2):  # settle into contact with the table before it is set in motion
        pybullet.stepSimulation(physicsClientId=env.client)
    env._place(np.array(finger), np.zeros(2), np.array(box), yaw, np.array(box_v), 0.0)
    env._vector = env._observe()
    return env._vector


def run(env: PushBox, steps: int, action: Vector = STILL) -> np.ndarray:
    """Returns the true states after each step."""
    states = []
    for _ in range(steps):
        env.step(np.array(action, np.float32))
        states.append(env._vector)
    return np.array(states)


def touch(env: PushBox, action: Vector) -> np.ndarray:
    """Moves the finger until it touches the box; returns the state then."""
    for _ in range(60):
        state = run(env, 1, action)[0]
        if state[17]:
            return state
    raise AssertionError("the finger never met the box")


def shove(env: PushBox, force=(0.0, 0.0, 0.0), torque_z=0.0) -> np.ndarray:
    """One control step with a force at the middle of the box's outline and a torque; returns the state after it."""
    middle = [*env._vector[4:6], BOX_HEIGHT_M / 2]
    pybullet.applyExternalForce(env._box, -1, force, middle, pybullet.WORLD_FRAME, physicsClientId=env.client)
    pybullet.applyExternalTorque(env._box, -1, (0, 0, torque_z), pybullet.WORLD_FRAME, physicsClientId=env.client)
    return run(env, 1)[0]


@pytest.mark.parametrize("mu", [0.03, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("direction_deg", [0.0, 37.0, 90.0])
def test_floor_friction_decelerates_by_mu_g(env, mu, direction_deg):
    direction = np.array([math.cos(math.radians(direction_deg)), math.sin(math.radians(direction_deg))])
    speed = 0.8
    steps = min(6, int(0.8 * speed / (mu * G) / DT))
    begin(env, box=(-0.2, -0.2), box_v=speed * direction, floor_friction=mu, finger=(0.45, -0.45))
    state = run(env, steps)[-1]
    assert (speed - state[6:8] @ direction) / (steps * DT) == pytest.approx(mu * G, rel=0.02)
    assert abs(state[6:8] @ [-direction[1], direction[0]]) < 0.01


def test_gravity_scales_friction(env):
    for gravity in (3.0, 15.0):
        begin(env, box_v=(0.8, 0.0), floor_friction=0.1, gravity_m_s2=gravity)
        assert (0.8 - run(env, 6)[-1][6]) / (6 * DT) == pytest.approx(0.1 * gravity, rel=0.02)


@pytest.mark.parametrize("slope_deg", [8.0, -8.0])
def test_slope_accelerates_downhill_by_g_sin_less_mu_cos(env, slope_deg):
    mu, slope = 0.05, math.radians(abs(slope_deg))
    begin(env, slope_deg=slope_deg, floor_friction=mu)
    before, after = run(env, 8)[[1, 7], 6]
    expected = G * (math.sin(slope) - mu * math.cos(slope))
    assert (after - before) / (6 * DT) == pytest.approx(-math.copysign(expected, slope_deg), rel=0.02)


def test_slope_below_the_friction_angle_holds_the_box(env):
    begin(env, slope_deg=8.0, floor_friction=0.2)  # tan 8 deg = 0.14
    assert np.abs(run(env, 20)[-1][4:8]).max() < 2e-3


@pytest.mark.parametrize("mass", [0.3, 2.0])
def test_box_mass_takes_the_computed_impulse(env, mass):
    begin(env, floor_friction=0.0, box_mass_kg=mass)
    assert shove(env, force=(3.0, 0.0, 0.0))[6] == pytest.approx(3.0 * DT / mass, rel=0.01)


def test_box_mass_scales_inertia(env):
    for mass in (0.3, 2.0):
        begin(env, floor_friction=0.0, box_mass_kg=mass)
        inertia = mass * (0.1**2 + 0.1**2) / 12
        assert shove(env, torque_z=0.01)[10] == pytest.approx(0.01 * DT / inertia, rel=0.01)


def test_payload_kg_adds_to_the_mass(env):
    begin(env, floor_friction=0.0, payload_kg=1.0)
    after = shove(env, force=(3.0, 0.0, 0.0))
    assert after[6] == pytest.approx(3.0 * DT / 1.5, rel=0.01)
    assert abs(after[10]) < 1e-6


def test_payload_x_m_shifts_the_centre_of_mass(env):
    mass, payload, x = 0.5, 1.0, 0.03
    begin(env, floor_friction=0.0, payload_kg=payload, payload_x_m=x)
    lever = payload * x / (mass + payload)
    assert env._mass_xy == pytest.approx((lever, 0.0), abs=1e-6)
    # A force along y through the middle of the outline turns the box about the shifted centre of mass.
    inertia = mass * (0.1**2 + 0.1**2) / 12 + mass * payload / (mass + payload) * x**2
    after = shove(env, force=(0.0, 3.0, 0.0))
    assert after[10] == pytest.approx(-lever * 3.0 * DT / inertia, rel=0.03)


def test_payload_x_m_decides_when_the_box_is_lost(env):
    for x, lost in ((0.04, True), (-0.04, False)):
        begin(env, box=(0.49, 0.0), payload_kg=2.0, payload_x_m=x)
        *_, terminated, _, info = env.step(STILL)
        assert terminated == info["failure"] == lost


@pytest.mark.parametrize("restitution", [0.0, 0.5, 0.9])
def test_restitution_of_a_dropped_box(env, restitution):
    begin(env, restitution=restitution)
    client, height = env.client, 0.1
    pybullet.setPhysicsEngineParameter(fixedTimeStep=1 / 240, numSubSteps=0, physicsClientId=client)
    pybullet.resetBasePositionAndOrientation(
        env._box, (0, 0, BOX_HEIGHT_M / 2 + height), (0, 0, 0, 1), physicsClientId=client
    )
    pybullet.resetBaseVelocity(env._box, (0, 0, 0), (0, 0, 0), physicsClientId=client)
    speeds = []
    for _ in range(60):
        pybullet.stepSimulation(physicsClientId=client)
        speeds.append(pybullet.getBaseVelocity(env._box, physicsClientId=client)[0][2])
    assert min(speeds) == pytest.approx(-math.sqrt(2 * G * height), rel=0.02)
    assert max(speeds) / -min(speeds) == pytest.approx(restitution, abs=0.05)


def test_restitution_between_finger_and_box(env):
    for restitution in (0.0, 0.6):
        begin(env, box=(0.0, 0.0), finger=(-0.09, 0.0), floor_friction=0.0, restitution=restitution)
        client = env.client
        pybullet.setPhysicsEngineParameter(fixedTimeStep=1 / 240, numSubSteps=0, physicsClientId=client)
        pybullet.setJointMotorControlArray(
            env._finger, (0, 1), pybullet.VELOCITY_CONTROL, forces=(0, 0), physicsClientId=client
        )
        pybullet.resetJointState(env._finger, 0, -0.09, 0.5, physicsClientId=client)
        for _ in range(40):
            pybullet.stepSimulation(physicsClientId=client)
        state = env._observe()
        assert state[6] > 0.05
        assert (state[6] - state[2]) / 0.5 == pytest.approx(restitution, abs=0.05)


def test_motor_strength_scales_the_fingers_speed(env):
    for strength in (1.0, 0.6):
        begin(env, motor_strength=strength)
        states = run(env, 4, (0.8, -0.4))
        assert states[-1][2:4] == pytest.approx([0.8 * 0.5 * strength, -0.4 * 0.5 * strength], rel=0.01)
        assert env.step(np.array([0.8, -0.4]))[4]["applied_action"] == pytest.approx(
            [0.8 * strength, -0.4 * strength], rel=1e-6
        )


@pytest.mark.parametrize("latency", [0, 1, 2, 5])
def test_latency_steps_delay_the_first_effect_exactly(env, latency):
    begin(env, latency_steps=latency)
    speeds = run(env, 8, (1.0, 0.0))[:, 2]
    assert np.abs(speeds[:latency]).max(initial=0.0) < 1e-9
    assert (speeds[latency:] > 0.4).all()


def test_sensor_noise_has_the_stated_deviation_on_every_channel(env):
    env.reset(seed=1, options={"physics": {"sensor_noise": 0.05}})
    errors = []
    for seed in range(20):
        env.reset(seed=seed, options={"physics": {"sensor_noise": 0.05}})
        for _ in range(79):
            observation, *_ = env.step(STILL)
            errors.append(observation - env._vector)
    assert np.std(errors, axis=0) == pytest.approx(np.full(18, 0.05), rel=0.08)
    assert np.abs(np.mean(errors, axis=0)).max() < 0.006


def test_push_m_s_gives_the_box_that_speed_along_x(env):
    for speed in (0.4, -0.4):
        begin(env, yaw=0.7, floor_friction=0.0, push_m_s=speed, push_start_s=0.25)
        states = run(env, 8)
        assert np.abs(states[:5, 6]).max() < 1e-3
        assert states[5:, 6] == pytest.approx(np.full(3, speed), abs=1e-3)
        assert np.abs(states[:, 7]).max() < 1e-3


def test_push_start_s_and_push_every_s_time_the_pushes(env):
    begin(env, floor_friction=0.3, push_m_s=0.05, push_start_s=0.25, push_every_s=0.5)
    pushes = [env.step(STILL)[4]["push"] for _ in range(30)]
    assert [t for t, push in enumerate(pushes) if push] == [5, 15, 25]
    begin(env, push_m_s=0.05, push_start_s=1.0, push_every_s=0.0)
    assert [t for t in range(60) if env.step(STILL)[4]["push"]] == [20]


@pytest.mark.parametrize(("length", "width"), [(0.06, 0.14), (0.16, 0.1)])
def test_box_length_m_and_box_width_m_make_the_shape_and_the_inertia(env, length, width):
    size: Any = {"box_length_m": length, "box_width_m": width, "floor_friction": 0.0}
    begin(env, **size)
    inertia = 0.5 * (length**2 + width**2) / 12
    assert shove(env, torque_z=0.01)[10] == pytest.approx(0.01 * DT / inertia, rel=0.01)
    for axis, half in ((0, length / 2), (1, width / 2)):
        start, action = np.zeros(2), np.zeros(2)
        start[axis], action[axis] = -0.2, 0.2
        size["floor_friction"] = 0.8
        begin(env, finger=start, **size)
        state = touch(env, action)
        assert state[13 + axis] == pytest.approx(half + FINGER_RADIUS_M, abs=0.003)


def test_box_notch_makes_an_l(env):
    length, width, notch, mass = 0.16, 0.12, 0.5, 0.5
    begin(env, box_length_m=length, box_width_m=width, box_notch=notch, floor_friction=0.0)
    # The full rectangle less the rectangle cut from the corner at +x, +y, as areas.
    cut_size = np.array([length, width]) * notch
    cut_middle = (np.array([length, width]) - cut_size) / 2
    full, cut = length * width, cut_size.prod()
    density = mass / (full - cut)
    centre = -cut * cut_middle / (full - cut)
    assert env._mass_xy == pytest.approx(centre, abs=1e-6)
    about_middle = density * (
        full * (length**2 + width**2) / 12 - cut * ((cut_size**2).sum() / 12 + (cut_middle**2).sum())
    )
    inertia = about_middle - mass * (centre**2).sum()
    assert shove(env, torque_z=0.01)[10] == pytest.approx(0.01 * DT / inertia, rel=0.02)
    begin(env, box_length_m=length, box_width_m=width, box_notch=notch, floor_friction=0.0)
    after = shove(env, force=(3.0, 0.0, 0.0))
    assert after[10] == pytest.approx(centre[1] * 3.0 * DT / inertia, rel=0.03)
    # A finger reaches further in where the corner is missing.
    reach = {}
    for y in (-0.04, 0.04):
        begin(env, finger=(0.2, y), floor_friction=0.8, box_length_m=length, box_width_m=width, box_notch=notch)
        reach[y] = -touch(env, (-0.2, 0.0))[13]
    assert reach[-0.04] == pytest.approx(length / 2 + FINGER_RADIUS_M, abs=0.004)
    assert reach[0.04] == pytest.approx(length / 2 * (1 - 2 * notch) + FINGER_RADIUS_M, abs=0.004)


def test_light_red_green_blue_tint_the_picture(env):
    begin(env)
    white = env.render(64, 64).astype(float).mean((0, 1))
    for channel, name in enumerate(("light_red", "light_green", "light_blue")):
        factor: Any = {name: 0.3}
        begin(env, **factor)
        dimmer = env.render(64, 64).astype(float).mean((0, 1)) / white
        assert dimmer[channel] < 0.75
        assert np.delete(dimmer, channel) == pytest.approx([1.0, 1.0], abs=0.02)


def test_light_shadow_darkens_the_table_beside_the_box(env):
    begin(env, light_shadow=1)
    shaded = env.render(160, 160).astype(float)
    begin(env, light_shadow=0)
    plain = env.render(160, 160).astype(float)
    darker = plain - shaded
    assert (darker.mean(-1) > 10).sum() > 20
    assert darker.min() > -10  # a shadow brightens nothing


def test_light_azimuth_deg_lights_the_side_it_shines_on(env):
    brightness = {}
    for azimuth in (-90.0, 90.0):
        begin(env, light_azimuth_deg=azimuth, light_shadow=0)
        _, red, blue = _box_pixels(env)
        brightness[azimuth] = np.sort(red - blue)[: len(red) // 4].mean()  # the darker face, towards the camera
    assert brightness[-90.0] > brightness[90.0] + 10


def test_light_elevation_deg_lengthens_shadows(env):
    shadow = {}
    for elevation in (30.0, 80.0):
        pictures = []
        for on in (0, 1):
            begin(env, light_elevation_deg=elevation, light_shadow=on)
            pictures.append(env.render(160, 160).astype(float).mean(-1)[40:130, 30:130])
        shadow[elevation] = (pictures[0] - pictures[1] > 10).sum()
    assert shadow[30.0] > 1.5 * shadow[80.0]


def _box_pixels(env: PushBox) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    picture = env.render(160, 160).astype(float)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    orange = (red > 1.5 * green) & (red > 1.8 * blue)
    assert orange.sum() > 50
    return orange, red[orange], blue[orange]


def test_the_finger_is_force_limited(env):
    mass = 20.0
    begin(env, finger=(-0.0701, 0.0), floor_friction=0.0, box_mass_kg=mass)
    speeds = run(env, 6, (1.0, 0.0))[:, 6]
    assert np.diff(speeds)[1:].mean() / DT == pytest.approx(FINGER_FORCE_N / (mass + 0.3), rel=0.05)


def test_the_finger_stops_at_the_edge(env):
    begin(env, finger=(0.4, 0.4))
    assert run(env, 30, (1.0, 1.0))[-1][:2] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_switch_takes_effect_under_way_and_does_not_outlive_a_reset(env):
    begin(env, box=(-0.3, 0.0), box_v=(0.8, 0.0), floor_friction=0.3, finger=(0.45, 0.45))
    before = run(env, 2)[-1][6]
    assert (0.8 - before) / (2 * DT) == pytest.approx(0.3 * G, rel=0.02)
    env.set_physics({"floor_friction": 0.05})
    state = run(env, 5)[-1]
    assert (before - state[6]) / (5 * DT) == pytest.approx(0.05 * G, rel=0.02)
    env.set_physics({"floor_friction": 0.0, "payload_kg": 1.0, "box_mass_kg": 1.0})
    assert shove(env, force=(3.0, 0.0, 0.0))[6] - state[6] == pytest.approx(3.0 * DT / 2.0, rel=0.01)
    begin(env, box_v=(0.8, 0.0))
    assert (0.8 - run(env, 3)[-1][6]) / (3 * DT) == pytest.approx(0.3 * G, rel=0.02)
    with pytest.raises(UserError, match="box_length_m is fixed while an episode runs"):
        env.set_physics({"box_length_m": 0.12})


def test_every_factor_has_a_test():
    tests = inspect.getsource(sys.modules[__name__]).split("def test_every_factor")[0]
    assert [name for name in FACTORS if name not in tests] == []
