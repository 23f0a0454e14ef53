"""hopper: every factor of Physics moves the robot as mechanics demands.

The reference is Lagrange's equation written here in numpy from the robot's measures, independent of Bullet's solver.
"""

import math

import numpy as np
import pybullet
import pytest

from configs import UserError
from envs.tasks.hopper import Hopper

STEP_S = 0.0165
# Capsules as hopper.xml has them: mass (Bullet's, from density and volume), centre in its parent joint's frame, and
# moment of inertia for pitching about the centre (Bullet takes that of the bounding box).
MASSES = np.array([3.665192, 4.057890, 2.781357, 5.315574])
INERTIAS = np.array([0.1126436, 0.1451710, 0.1068968, 0.1719145])


@pytest.fixture(scope="module")
def env():
    env = Hopper()
    yield env
    env.close()


def place(env, positions=(0, 0.5, 0, 0, 0, 0), rates=(0, 0, 0, 0, 0, 0), **physics):
    """Starts an episode in a state of our choice: x, z, pitch, thigh, leg, foot. z = 0.5 hangs it in the air.

    Bullet drags what moves, (0.04 + 0.04 v) m v on every link; it is off here, for laws that are exact.
    """
    env.reset(seed=0, options={"physics": env.nominal.replace(**physics)})
    pybullet.changeDynamics(env._robot, -1, linearDamping=0, angularDamping=0, physicsClientId=env.client)
    env._set_state(np.array(positions, float), np.array(rates, float))


def rates_after(env, steps, action=(0, 0, 0)):
    for _ in range(steps):
        env.step(np.array(action, np.float32))
    return env._state()[1]


def centres(q, payload_x):
    """Centres of torso, thigh, leg, foot and payload as (5, 2) x-z positions; pitch is a turn about +y."""

    def turned(angle, x, z):
        return np.array([x * math.cos(angle) + z * math.sin(angle), -x * math.sin(angle) + z * math.cos(angle)])

    base, torso, thigh, leg, foot = q[:2], q[2], q[2] - q[3], q[2] - q[3] - q[4], q[2] - q[3] - q[4] - q[5]
    hip = base + turned(torso, 0, 1.05)
    knee = hip + turned(thigh, 0, -0.45)
    ankle = knee + turned(leg, 0, -0.5)
    return np.stack(
        [
            base + turned(torso, 0, 1.25),
            hip + turned(thigh, 0, -0.225),
            knee + turned(leg, 0, -0.25),
            ankle + turned(foot, 0.065, 0),
            base + turned(torso, payload_x, 1.35),
        ]
    )


def lagrange(q, command, payload_kg=0.0, payload_x=0.0, gravity=(0.0, 0.0)):
    """Joint accelerations (6,) from rest: (sum m J'J + I w'w) qdd = torques + sum m J'g."""
    masses = np.append(MASSES, payload_kg)
    steps = 1e-6 * np.eye(6)
    jacobian = np.stack([centres(q + s, payload_x) - centres(q - s, payload_x) for s in steps], -1) / 2e-6  # (5, 2, 6)
    mass = np.einsum("b,bxi,bxj->ij", masses, jacobian, jacobian)
    turns = np.array([[0, 0, 1, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 1, -1, -1, 0], [0, 0, 1, -1, -1, -1]])
    mass += np.einsum("b,bi,bj->ij", INERTIAS, turns, turns)
    force = np.concatenate([np.zeros(3), 75.0 * np.array(command)])
    force += np.einsum("b,bxi,x->i", masses, jacobian, np.array(gravity))
    return np.linalg.solve(mass, force)


POSE = np.array([0.0, 0.5, 0.2, -0.3, -0.5, 0.2])
COMMAND = np.array([0.02, -0.03, 0.01])


def momentum(env, payload_kg=0.0, payload_x_m=0.0):
    """Of the whole robot, x and z, in kg m/s; from the joints' state alone."""
    q, rates = env._state()
    ahead, behind = (centres(q + t * rates, payload_x_m) for t in (1e-6, -1e-6))
    return np.append(MASSES, payload_kg) @ (ahead - behind) / 2e-6


@pytest.mark.parametrize("payload_kg, payload_x_m", [(0, 0), (4.75, 0), (2.0, 0.3), (2.0, -0.2)])
def test_payload_adds_its_mass_where_it_sits(env, payload_kg, payload_x_m):
    place(env, POSE, gravity_m_s2=0, payload_kg=payload_kg, payload_x_m=payload_x_m)
    expected = lagrange(POSE, COMMAND, payload_kg, payload_x_m) * STEP_S
    np.testing.assert_allclose(rates_after(env, 1, COMMAND), expected, atol=0.01 * np.abs(expected).max())


def test_payload_can_be_switched_while_running(env):
    place(env, POSE, gravity_m_s2=0)
    env.set_physics({"payload_kg": 2.0, "payload_x_m": 0.3})
    expected = lagrange(POSE, COMMAND, 2.0, 0.3) * STEP_S
    np.testing.assert_allclose(rates_after(env, 1, COMMAND), expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("strength", [0.5, 0.7, 1.0, 1.3])
def test_motor_strength_scales_the_first_acceleration(env, strength):
    place(env, POSE, gravity_m_s2=0, motor_strength=strength)
    expected = strength * lagrange(POSE, COMMAND) * STEP_S
    np.testing.assert_allclose(rates_after(env, 1, COMMAND), expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("gravity", [0.0, 3.7, 9.8, 20.0])
def test_gravity_makes_it_fall_freely(env, gravity):
    place(env, (0, 5, 0, 0, 0, 0), gravity_m_s2=gravity)
    steps, sub = 30, STEP_S / 4
    rates = rates_after(env, steps)
    # Bullet integrates semi-implicitly: n sub-steps fall g h^2 n (n + 1) / 2.
    fallen = gravity * sub**2 * (4 * steps) * (4 * steps + 1) / 2
    assert rates[1] == pytest.approx(-gravity * steps * STEP_S, rel=1e-6, abs=1e-9)
    assert 5 - env._state()[0][1] == pytest.approx(fallen, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("slope", [-10.0, 5.0, 20.0])
def test_slope_accelerates_downhill_in_free_flight(env, slope):
    place(env, (0, 5, 0, 0, 0, 0), slope_deg=slope)
    rates = rates_after(env, 20)
    time_s = 20 * STEP_S
    assert rates[0] == pytest.approx(-9.8 * math.sin(math.radians(slope)) * time_s, rel=1e-6)
    assert rates[1] == pytest.approx(-9.8 * math.cos(math.radians(slope)) * time_s, rel=1e-6)


@pytest.mark.parametrize("friction, slope", [(0.05, 0), (0.2, 0), (0.8, 0), (0.2, 10), (0.2, -10)])
def test_a_sliding_foot_brakes_at_friction_times_load(env, friction, slope):
    """Change of momentum along x = -mu * (load's impulse) - M g sin(slope) t; mu is floor times foot (0.8)."""
    place(env, (0, -0.04, 0, 0, 0, 0), (4, 0, 0, 0, 0, 0), floor_friction=friction, slope_deg=slope)
    rates_after(env, 1)  # lands
    before, steps = momentum(env), 8
    rates_after(env, steps)
    change, time_s, weight = momentum(env) - before, steps * STEP_S, MASSES.sum() * 9.8
    load = change[1] + weight * math.cos(math.radians(slope)) * time_s
    expected = -friction * 0.8 * load - weight * math.sin(math.radians(slope)) * time_s
    assert load > 0.5 * weight * time_s
    assert change[0] == pytest.approx(expected, abs=0.03 * friction * load)


@pytest.mark.parametrize("restitution", [0.0, 0.3, 0.6, 0.9])
def test_restitution_is_the_speed_after_an_impact_over_that_before(env, restitution):
    """The toe comes down first and meets the floor at 2 m/s; sub-step by sub-step, to see it just before and after."""
    q = np.array([0.0, 0.0, 0.2, -0.5, -0.5, 0.4])  # the foot's toe hangs by 0.8 rad - 0.2
    q[1] = 0.06 + 2 * STEP_S / 4 * 2.0 - toe(q)[1]  # touches after two sub-steps
    place(env, q, (0, -2, 0, 0, 0, 0), restitution=restitution, gravity_m_s2=0, floor_friction=0)
    pybullet.setPhysicsEngineParameter(fixedTimeStep=STEP_S / 4, numSubSteps=1, physicsClientId=env.client)
    speeds = []
    for _ in range(12):
        pybullet.stepSimulation(physicsClientId=env.client)
        q, rates = env._state()
        speeds.append((toe(q + 1e-6 * rates) - toe(q - 1e-6 * rates))[1] / 2e-6)
    assert speeds[1] == pytest.approx(-2.0)
    assert speeds[2] == pytest.approx(2.0 * restitution, abs=0.12)


def toe(q):
    """Centre of the sphere that ends the foot."""
    ankle_to_centre = centres(q, 0)[3]
    angle = q[2] - q[3] - q[4] - q[5]
    return ankle_to_centre + 0.195 * np.array([math.cos(angle), -math.sin(angle)])


@pytest.mark.parametrize("latency", [1, 2, 5])
def test_latency_delays_the_first_effect_by_exactly_so_many_steps(env, latency):
    def vectors(action):
        env.reset(seed=0, options={"physics": {"latency_steps": latency}})
        return [env.step(np.array(action, np.float32))[0] for _ in range(latency + 2)]

    idle, moved = vectors([0, 0, 0]), vectors([0.5, -0.5, 0.5])
    differs = [not np.array_equal(a, b) for a, b in zip(idle, moved, strict=True)]
    assert differs == [False] * latency + [True, True]


def test_latency_hands_commands_over_in_order(env):
    env.reset(seed=0, options={"physics": {"latency_steps": 2, "motor_strength": 0.5}})
    commands = np.linspace(-0.3, 0.3, 15, dtype=np.float32).reshape(5, 3)
    applied = np.stack([env.step(command)[4]["applied_action"] for command in commands])
    np.testing.assert_array_equal(applied, np.concatenate([np.zeros((2, 3), np.float32), 0.5 * commands[:3]]))


def test_push_gives_the_whole_robot_exactly_that_speed(env):
    def run(speed):
        place(env, POSE + [0, 5, 0, 0, 0, 0], push_m_s=speed, push_start_s=3 * STEP_S, push_every_s=4 * STEP_S)
        rows = []
        for _ in range(9):
            *_, info = env.step(COMMAND.astype(np.float32))
            rows.append((*env._state()[1], info["push"]))
        return np.array(rows)

    still, pushed = run(0.0), run(0.7)
    np.testing.assert_allclose(pushed[:, 6], 0.7 * (np.arange(9) % 4 == 3))
    # Nothing but the sliding joint's rate changes, so every part gains the same speed.
    np.testing.assert_allclose(pushed[:, 0] - still[:, 0], 0.7 * np.cumsum(pushed[:, 6] > 0), rtol=1e-9)
    np.testing.assert_allclose(pushed[:, 1:6], still[:, 1:6], atol=1e-9)


def test_sensor_noise_has_its_deviation_and_leaves_the_motion_alone(env):
    def vectors(noise):
        rows = []
        for seed in range(30):
            rows.append(env.reset(seed=seed, options={"physics": {"sensor_noise": noise}})[0])
            rows += [env.step(np.zeros(3, np.float32))[0] for _ in range(20)]
        return np.array(rows)

    difference = vectors(0.05) - vectors(0.0)
    assert difference.shape[0] == 30 * 21
    np.testing.assert_allclose(difference.std(0), 0.05, rtol=0.12)  # 630 samples: 4 standard errors are 11%
    np.testing.assert_allclose(difference.mean(0), 0.0, atol=0.008)
    assert abs(np.corrcoef(difference.T) - np.eye(15)).max() < 0.2


def picture(env, width=96, height=72, **physics):
    env.reset(seed=0, options={"physics": physics})
    return env.render(width, height).astype(float)


@pytest.mark.parametrize("channel, factor", [(0, "light_red"), (1, "light_green"), (2, "light_blue")])
def test_light_colour_dims_its_channel_only(env, channel, factor):
    plain, dimmed = picture(env), picture(env, **{factor: 0.3})
    share = dimmed.mean((0, 1)) / plain.mean((0, 1))
    assert share[channel] < 0.9
    np.testing.assert_allclose(np.delete(share, channel), 1.0, atol=0.01)


def test_light_shadow_and_direction(env):
    def shadow(azimuth):
        """How much darker the floor gets on either side of the foot."""
        lit, shaded = (picture(env, 480, 360, light_azimuth_deg=azimuth, light_shadow=s) for s in (0, 1))
        darker = (lit - shaded).mean(-1)[200:]
        return darker[:, :205].mean(), darker[:, 225:].mean()

    # The camera looks along +y, x to the right: light from the right casts the shadow to the left.
    left, right = shadow(20.0)
    assert left > 0.3 and left > 5 * right
    left, right = shadow(160.0)
    assert right > 0.3 and right > 1.2 * left
    low, high = (picture(env, light_elevation_deg=e, light_shadow=0) for e in (15.0, 85.0))
    assert low[45:].mean() < 0.9 * high[45:].mean()  # a floor lit at a grazing angle is darker


def test_the_camera_changes_no_motion():
    with_camera, without = Hopper(camera=True), Hopper()
    observation, _ = with_camera.reset(seed=5)
    vector, _ = without.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(40):
        np.testing.assert_array_equal(observation["vector"], vector)
        assert observation["image"].shape == (64, 64, 3)
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        observation, _, ended, *_ = with_camera.step(action)
        vector, *_ = without.step(action)
        if ended:
            break
    with_camera.close()
    without.close()


def test_factors_of_other_tasks_are_refused(env):
    with pytest.raises(UserError, match="hopper: box_mass_kg"):
        env.reset(seed=0, options={"physics": {"box_mass_kg": 2.0}})
