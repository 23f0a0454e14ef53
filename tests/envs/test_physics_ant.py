"""ant: every factor of Physics moves the robot as mechanics demands.

The reference is Lagrange's equation written here in numpy from the robot's measures, independent of Bullet's solver.
It shares one oddity, see envs/tasks/ant.py: the ankles' axes have no unit length.
"""

import math

import numpy as np
import pybullet
import pytest

from configs import UserError
from envs.tasks.ant import Ant

STEP_S = 0.0165
SIDES = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])  # of the legs, in x and y
AXES = np.array([[-1, 1, 0], [1, 1, 0], [-1, 1, 0], [1, 1, 0]]) / math.sqrt(2)  # of the ankles
SPEEDS = np.array([1.0] * 6 + [1.0, math.sqrt(2)] * 4)  # of the bodies, for a rate of 1
STANCE = np.radians([0, 65, 0, -65, 0, -65, 0, 65])  # ankles in the middle of their range


def solid(mass, *sides):
    """Mass, and half the size (3,) of six point masses on the axes that are as hard to turn as a box of these sides."""
    return mass, np.array(sides) / 2


# Bullet's masses are density times volume; its moments are those of the bounding box, 4 cm wider on every side.
BALL = 65.449847, np.full(3, math.sqrt(3 / 5) * 0.25)
LIMB = solid(7.831550, 0.44, 0.44, 0.24)
FOOT = solid(13.518440, 0.64, 0.64, 0.24)
ROBOT_KG = 65.449847 + 4 * (2 * 7.831550 + 13.518440)


@pytest.fixture(scope="module")
def env():
    env = Ant()
    yield env
    env.close()


def place(env, z=5.0, rpy=(0, 0, 0), velocity=(0, 0, 0), angles=STANCE, x=0.0, **physics):
    """Starts an episode in a state of our choice, in the air unless told otherwise.

    Bullet drags what moves, (0.04 + 0.04 v) m v on every link; it is off here, for laws that are exact.
    """
    env.reset(seed=0, options={"physics": env.nominal.replace(**physics)})
    pybullet.changeDynamics(env._robot, -1, linearDamping=0, angularDamping=0, physicsClientId=env.client)
    zero = np.zeros(3)
    env._set_state(np.array([x, 0, z]), np.array(rpy, float), np.array(velocity, float), zero, angles, np.zeros(8))


def velocities(env):
    """Torso's velocity and spin in the world, and the joints' rates (14,)."""
    velocity, spin = pybullet.getBaseVelocity(env._robot, physicsClientId=env.client)
    return np.array([*velocity, *spin, *env._joint_state()[1]])


def velocities_after(env, steps, action=(0,) * 8):
    for _ in range(steps):
        env.step(np.array(action, np.float32))
    return velocities(env)


def turn(axis, angle):
    """Rotation matrix (3, 3), by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def points(q, posed, payload_kg=0.0, payload_x_m=0.0):
    """Masses (55,) and places (55, 3) of six point masses a body and the payload.

    Args:
        q: (14,) the torso's place, its rotation vector beyond `posed`, and the joints' angles.
    """
    size = np.linalg.norm(q[3:6])
    base = (turn(q[3:6] / size, size) if size else np.eye(3)) @ posed
    bodies = [(BALL, base, q[:3])]
    for side, axis, hip_angle, ankle_angle in zip(SIDES, AXES, q[6::2], q[7::2], strict=True):
        out = np.array([*side, 0])
        swung = base @ turn((0, 0, 1), hip_angle)
        hip = q[:3] + base @ (0.2 * out)
        ankle = hip + swung @ (0.2 * out)
        bent = swung @ turn(axis, ankle_angle)
        bodies += [
            (LIMB, base, q[:3] + base @ (0.1 * out)),
            (LIMB, swung, hip + swung @ (0.1 * out)),
            (FOOT, bent, ankle + bent @ (0.2 * out)),
        ]
    masses, places = [payload_kg], [q[:3] + base @ (payload_x_m, 0, 0.1)]
    for (mass, half), rotation, centre in bodies:
        for axis in range(3):
            for sign in (-1, 1):
                masses.append(mass / 6)
                places.append(centre + sign * half[axis] * rotation[:, axis])
    return np.array(masses), np.array(places)


def accelerations(q, command, posed, **payload):
    """(14,) from rest, weightless: (sum m J'J) qdd = torques."""
    masses, _ = points(q, posed=posed, **payload)
    steps = 1e-6 * np.eye(14)
    moved = [points(q + s, posed=posed, **payload)[1] - points(q - s, posed=posed, **payload)[1] for s in steps]
    jacobian = SPEEDS * np.stack(moved, -1) / 2e-6  # (55, 3, 14)
    mass = np.einsum("b,bxi,bxj->ij", masses, jacobian, jacobian)
    return np.linalg.solve(mass, np.concatenate([np.zeros(6), 250.0 * np.array(command)]))


RPY = (0.2, -0.3, 0.4)
ANGLES = STANCE + [0.3, 0.2, -0.4, 0.1, 0.2, -0.3, -0.1, -0.2]
COMMAND = np.array([0.02, -0.03, 0.01, 0.03, -0.02, 0.01, 0.03, -0.01])


def expected_velocities(command=COMMAND, **payload):
    posed = np.reshape(pybullet.getMatrixFromQuaternion(pybullet.getQuaternionFromEuler(RPY)), (3, 3))
    return STEP_S * accelerations(np.array([0, 0, 5.0, 0, 0, 0, *ANGLES]), command, posed, **payload)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("payload_kg, payload_x_m", [(0, 0), (55, 0), (30, 0.3), (30, -0.2)])
def test_payload_adds_its_mass_where_it_sits(env, payload_kg, payload_x_m):
    place(env, rpy=RPY, angles=ANGLES, gravity_m_s2=0, payload_kg=payload_kg, payload_x_m=payload_x_m)
    payload = {"payload_kg": payload_kg, "payload_x_m": payload_x_m}
    close(velocities_after(env, 1, COMMAND), expected_velocities(**payload))


def test_payload_can_be_switched_while_running(env):
    place(env, rpy=RPY, angles=ANGLES, gravity_m_s2=0)
    env.set_physics({"payload_kg": 30.0, "payload_x_m": 0.3})
    close(velocities_after(env, 1, COMMAND), expected_velocities(payload_kg=30.0, payload_x_m=0.3))


@pytest.mark.parametrize("strength", [0.5, 1.3])
def test_motor_strength_scales_the_first_acceleration(env, strength):
    place(env, rpy=RPY, angles=ANGLES, gravity_m_s2=0, motor_strength=strength)
    close(velocities_after(env, 1, COMMAND), strength * expected_velocities())


@pytest.mark.parametrize("gravity", [0.0, 3.7, 20.0])
def test_gravity_makes_it_fall_freely(env, gravity):
    place(env, gravity_m_s2=gravity)
    steps, sub = 30, STEP_S / 4
    assert velocities_after(env, steps)[2] == pytest.approx(-gravity * steps * STEP_S, rel=1e-6, abs=1e-9)
    # Bullet integrates semi-implicitly: n sub-steps fall g h^2 n (n + 1) / 2.
    fallen = gravity * sub**2 * (4 * steps) * (4 * steps + 1) / 2
    (_, _, z), _ = pybullet.getBasePositionAndOrientation(env._robot, physicsClientId=env.client)
    assert 5 - z == pytest.approx(fallen, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("slope", [-10.0, 20.0])
def test_slope_accelerates_downhill_in_free_flight(env, slope):
    place(env, slope_deg=slope)
    speed = 9.8 * 20 * STEP_S
    downhill = -speed * math.sin(math.radians(slope)), 0, -speed * math.cos(math.radians(slope))
    np.testing.assert_allclose(velocities_after(env, 20)[:3], downhill, rtol=1e-6, atol=1e-9)


def momentum(env):
    """Of the whole robot in kg m/s (3,), from Bullet's pose and velocities alone."""
    place_m, orientation = pybullet.getBasePositionAndOrientation(env._robot, physicsClientId=env.client)
    posed = np.reshape(pybullet.getMatrixFromQuaternion(orientation), (3, 3))
    q, rates = np.array([*place_m, 0, 0, 0, *env._joint_state()[0]]), SPEEDS * velocities(env)
    masses, ahead = points(q + 1e-6 * rates, posed=posed)
    return masses @ (ahead - points(q - 1e-6 * rates, posed=posed)[1]) / 2e-6


@pytest.mark.parametrize("friction, slope", [(0.05, 0), (0.2, 0), (0.8, 0), (0.2, 10), (0.2, -10)])
def test_a_sliding_robot_brakes_at_friction_times_load(env, friction, slope):
    """Change of momentum along x = -mu * (load's impulse) - M g sin(slope) t; mu is floor times robot (1.5).

    It slides on its ball, upside down: on its feet it would sink, and they slip outwards too. As that is an end for the
    environment, the simulator steps alone.
    """
    place(env, 0.25, (math.pi, 0, 0), (6, 0, 0), floor_friction=friction, slope_deg=slope)
    pybullet.stepSimulation(physicsClientId=env.client)  # lands
    before, steps = momentum(env), 6
    for _ in range(steps):
        pybullet.stepSimulation(physicsClientId=env.client)
    change, time_s, weight = momentum(env) - before, steps * STEP_S, ROBOT_KG * 9.8
    load = change[2] + weight * math.cos(math.radians(slope)) * time_s
    expected = -friction * 1.5 * load - weight * math.sin(math.radians(slope)) * time_s
    assert load > 0.5 * weight * time_s
    assert change[0] == pytest.approx(expected, abs=0.02 * friction * load)


@pytest.mark.parametrize("restitution", [0.0, 0.3, 0.6, 0.9])
def test_restitution_is_the_speed_after_an_impact_over_that_before(env, restitution):
    """Upside down the ball comes first and meets the floor at 8 m/s; sub-step by sub-step, to see it before and after.

    Bullet sees a contact coming within 2 cm and brakes for it; at this speed it does not see it before it is there.
    """
    place(env, 0.25 + STEP_S / 4 * 8.0, (math.pi, 0, 0), (0, 0, -8), restitution=restitution, gravity_m_s2=0)
    pybullet.setPhysicsEngineParameter(fixedTimeStep=STEP_S / 4, numSubSteps=1, physicsClientId=env.client)
    speeds = []
    for _ in range(3):
        pybullet.stepSimulation(physicsClientId=env.client)
        speeds.append(velocities(env)[2])
    assert speeds[0] == pytest.approx(-8.0)
    assert speeds[1] == pytest.approx(8.0 * restitution, abs=0.05)


@pytest.mark.parametrize("latency", [1, 5])
def test_latency_delays_the_first_effect_by_exactly_so_many_steps(env, latency):
    def vectors(action):
        env.reset(seed=0, options={"physics": {"latency_steps": latency}})
        return [env.step(np.full(8, action, np.float32))[0] for _ in range(latency + 2)]

    differs = [not np.array_equal(a, b) for a, b in zip(vectors(0.0), vectors(0.5), strict=True)]
    assert differs == [False] * latency + [True, True]


def test_latency_hands_commands_over_in_order(env):
    env.reset(seed=0, options={"physics": {"latency_steps": 2, "motor_strength": 0.5}})
    commands = np.linspace(-0.3, 0.3, 40, dtype=np.float32).reshape(5, 8)
    applied = np.stack([env.step(command)[4]["applied_action"] for command in commands])
    np.testing.assert_array_equal(applied, np.concatenate([np.zeros((2, 8), np.float32), 0.5 * commands[:3]]))


def test_push_gives_the_whole_robot_exactly_that_speed(env):
    def run(speed):
        place(env, rpy=RPY, angles=ANGLES, push_m_s=speed, push_start_s=3 * STEP_S, push_every_s=4 * STEP_S)
        rows = []
        for _ in range(9):
            *_, info = env.step(COMMAND.astype(np.float32))
            rows.append((*velocities(env), info["push"]))
        return np.array(rows)

    still, pushed = run(0.0), run(0.7)
    np.testing.assert_allclose(pushed[:, 14], 0.7 * (np.arange(9) % 4 == 3))
    # Nothing but the torso's speed along x changes, so every part gains the same.
    np.testing.assert_allclose(pushed[:, 0] - still[:, 0], 0.7 * np.cumsum(pushed[:, 14] > 0), rtol=1e-9)
    np.testing.assert_allclose(pushed[:, 1:14], still[:, 1:14], atol=1e-9)


def test_sensor_noise_has_its_deviation_and_leaves_the_motion_alone(env):
    def vectors(noise):
        rows = []
        for seed in range(40):
            rows.append(env.reset(seed=seed, options={"physics": {"sensor_noise": noise}})[0])
            rows += [env.step(np.zeros(8, np.float32))[0] for _ in range(15)]
        return np.array(rows)

    difference = vectors(0.05) - vectors(0.0)
    assert difference.shape == (640, 28)
    np.testing.assert_allclose(difference.std(0), 0.05, rtol=0.12)  # 640 samples: 4 standard errors are 11%
    np.testing.assert_allclose(difference.mean(0), 0.0, atol=0.008)
    assert abs(np.corrcoef(difference.T) - np.eye(28)).max() < 0.2


@pytest.mark.parametrize("channel, factor", [(0, "light_red"), (1, "light_green"), (2, "light_blue")])
def test_light_colour_dims_its_channel_only(env, channel, factor):
    def picture(**physics):
        env.reset(seed=0, options={"physics": physics})
        return env.render(48, 36).astype(float)

    share = picture(**{factor: 0.3}).mean((0, 1)) / picture().mean((0, 1))
    assert share[channel] < 0.9
    np.testing.assert_allclose(np.delete(share, channel), 1.0, atol=0.01)


def test_factors_of_other_tasks_are_refused(env):
    with pytest.raises(UserError, match="ant: box_mass_kg"):
        env.reset(seed=0, options={"physics": {"box_mass_kg": 2.0}})
