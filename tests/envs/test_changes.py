"""Physics that changes on the way: the schedule worked by hand, and Bullet's bodies, which feel it in its step."""

import math

import numpy as np
import pybullet
import pytest

from configs import UserError
from envs import registry
from envs.bullet import start_at
from envs.physics import CHANGEABLE, FACTORS, Change, Physics
from envs.tasks.walker import STEP_S
from worldmodel.episode import Episode

G = 9.81
STILL = np.zeros(2, np.float32)
BASE = Physics(floor_friction=0.3, push_m_s=0.5, push_start_s=0.2)


@pytest.fixture(scope="module")
def box():
    env = registry.make("push-box")
    yield env
    env.close()


@pytest.fixture(scope="module")
def hopper():
    env = registry.make("hopper")
    yield env
    env.close()


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_a_world_without_changes_is_its_own_at_any_step():
    assert BASE.at(7, 20.0) is BASE
    assert BASE.stretches(3, 10, 20.0) == [(slice(0, 10), BASE)]


def test_worked_by_hand():
    # 10 Hz: ice in the steps 5 to 14, a load from 12 on that is ten times as heavy in 20 and 21.
    ice = Change(0.5, {"floor_friction": 0.05}, 1.0)
    load, more = Change(1.2, {"payload_kg": 0.1}), Change(2.0, {"payload_kg": 1.0}, 0.2)
    world = BASE.changing([ice, load, more])
    found = [(world.at(t, 10.0).floor_friction, world.at(t, 10.0).payload_kg) for t in (4, 5, 11, 12, 14, 15, 20, 22)]
    assert found == [(0.3, 0), (0.05, 0), (0.05, 0), (0.05, 0.1), (0.05, 0.1), (0.3, 0.1), (0.3, 1.0), (0.3, 0.1)]
    assert world.at(5, 10.0) == BASE.replace(floor_friction=0.05)  # without changes of its own
    cut = [(s.start, s.stop, w.floor_friction, w.payload_kg) for s, w in world.stretches(10, 8, 10.0)]
    assert cut == [(0, 2, 0.05, 0.0), (2, 5, 0.05, 0.1), (5, 8, 0.3, 0.1)]


@pytest.mark.parametrize("first", [0, 3, 11])
def test_stretches_say_what_each_step_says(first):
    world = BASE.changing([Change(-0.4, {"slope_deg": 2.0}, 0.6), Change(0.7, {"slope_deg": -2.0}, 0.01)])
    said = [world for steps, world in world.stretches(first, 12, 10.0) for _ in range(12)[steps]]
    assert said == [world.at(first + t, 10.0) for t in range(12)]


def test_a_push_on_the_way_comes_once_and_beside_the_others():
    world = BASE.changing([Change(0.2, {"push_m_s": -0.2}, 5.0), Change(0.6, {"push_m_s": 0.4})])
    assert [world.push_at(t, 10.0) for t in range(8)] == [0, 0, pytest.approx(0.3), 0, 0, 0, 0.4, 0]
    assert world.at(6, 10.0) == BASE  # a push is no state of the world


@pytest.mark.parametrize("factor", sorted(set(FACTORS) - set(CHANGEABLE)))
def test_what_cannot_change_is_refused_with_what_can(factor):
    with pytest.raises(UserError, match=rf"{factor} cannot change .* can is floor_friction, .*payload_kg"):
        Change(1.0, {factor: FACTORS[factor].low})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, {"floor_friction": -1.0}), "floor_friction = -1 is out of range"),
        ((1.0, {}), "changes nothing"),
        ((1.0, {"floor_friction": 0.1}, 0.0), "for 0 s"),
        ((math.nan, {"floor_friction": 0.1}), "never comes"),
    ],
)
def test_bad_changes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Change(*arguments)


# -- Bullet ------------------------------------------------------------------------------------------------------------


def slide(env, world: Physics, steps: int, speed: float = 0.8) -> np.ndarray:
    """The speed along +x before each step and after the last, of a box that slides, the finger far away."""
    env.reset(seed=0, options={"physics": world})
    for speed_m_s in (0.0, speed):
        if speed_m_s:
            for _ in range(2):  # settle on the table before it is set in motion
                pybullet.stepSimulation(physicsClientId=env.client)
        velocity = np.array([speed_m_s, 0.0])
        env._place(np.array([-0.45, -0.45]), np.zeros(2), np.array([-0.3, 0.0]), 0.0, velocity, 0.0)
    env._vector = env._observe()
    speeds = [env._vector[6]]
    for _ in range(steps):
        env.step(STILL)
        speeds.append(env._vector[6])
    return np.array(speeds)


def test_friction_changes_in_its_step_and_back(box):
    """20 Hz: mu is 0.1 in the steps 0 and 1, 0.02 in the three from 0.1 s on, then 0.1 again."""
    world = box.nominal.replace(floor_friction=0.1).changing([Change(0.1, {"floor_friction": 0.02}, 0.15)])
    lost = -np.diff(slide(box, world, 7)) * 20.0 / G
    np.testing.assert_allclose(lost, [0.1, 0.1, 0.02, 0.02, 0.02, 0.1, 0.1], rtol=0.05)


def test_slope_and_gravity_change_in_their_step(box):
    change = Change(0.1, {"slope_deg": 5.0, "gravity_m_s2": 5.0})
    speeds = slide(box, box.nominal.replace(floor_friction=0.0).changing([change]), 5)
    pull = 5.0 * math.sin(math.radians(5.0)) / 20.0
    np.testing.assert_allclose(np.diff(speeds), [0, 0, -pull, -pull, -pull], atol=2e-3)


def test_a_push_and_weak_motors_come_in_their_step(box):
    changes = [Change(0.1, {"push_m_s": 0.3}), Change(0.15, {"motor_strength": 0.5}, 0.1)]
    box.reset(seed=1, options={"physics": box.nominal.changing(changes)})
    infos = [box.step(np.array([0.8, 0.0]))[-1] for _ in range(6)]
    assert [info["push"] for info in infos] == [0, 0, 0.3, 0, 0, 0]
    np.testing.assert_allclose([info["applied_action"][0] for info in infos], [0.8, 0.8, 0.8, 0.4, 0.4, 0.8])


def test_a_payload_falls_on_the_hopper_shifts_and_goes(hopper):
    """Two carriers, behind and before, share it by where it is."""
    changes = [Change(3 * STEP_S, {"payload_kg": 4.0}, 4 * STEP_S), Change(5 * STEP_S, {"payload_x_m": 0.25}, STEP_S)]
    hopper.reset(seed=0, options={"physics": hopper.nominal.changing(changes)})
    masses = []
    for _ in range(9):
        hopper.step(np.zeros(3, np.float32))
        dynamics = (pybullet.getDynamicsInfo(hopper._robot, c, physicsClientId=hopper.client) for c in hopper.carriers)
        masses.append([values[0] for values in dynamics])
    nothing, middle, ahead = [0, 0], [2, 2], [1, 3]
    expected = [nothing, nothing, nothing, middle, middle, ahead, middle, nothing, nothing]
    np.testing.assert_allclose(masses, expected, atol=1e-9)


def states(env, world: Physics, steps: int) -> np.ndarray:
    env.reset(seed=2, options={"physics": world})
    rng = np.random.default_rng(0)
    low, high = env.action_space.low, env.action_space.high
    return np.array([env.step(rng.uniform(low, high).astype(np.float32))[0] for _ in range(steps)])


@pytest.mark.parametrize("task", ["push-box", "hopper"])
def test_before_a_change_and_without_one_nothing_differs_in_any_bit(task, request):
    env = request.getfixturevalue({"push-box": "box", "hopper": "hopper"}[task])
    world = env.nominal.replace(payload_kg=0.2)
    never = Change(1000.0, {"payload_kg": 2.0})
    change = Change(6.01 / env.control_hz, {"gravity_m_s2": 5.0, "slope_deg": 10.0})
    plain, late, changed = (states(env, world.changing(c), 12) for c in ([], [never], [never, change]))
    assert np.array_equal(plain, late)
    assert np.array_equal(plain[:6], changed[:6])
    assert not np.array_equal(plain[6:8], changed[6:8])


def test_a_logged_episode_is_entered_before_a_change_that_comes_by_its_clock(box):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
    first, _ = box.reset(seed=4)
    vectors = [first, *(box.step(action)[0] for action in actions)]
    zeros = np.zeros(10, np.float32)
    known, info = box.physics.to_dict(), {"seed": 4}
    episode = Episode({"vector": np.stack(vectors)}, actions, actions, zeros, zeros, False, True, known, info)
    world = box.nominal.changing([Change(0.35, {"motor_strength": 0.25}, 0.05), Change(0.1, {"push_m_s": 1.0})])
    start_at(box, episode, 5, world)
    infos = [box.step(np.array([1.0, 0.0]))[-1] for _ in range(4)]
    assert [info["applied_action"][0] for info in infos] == [1.0, 1.0, 0.25, 1.0]
    assert [info["push"] for info in infos] == [0, 0, 0, 0]  # its time is over


def test_the_physics_of_a_running_episode_is_that_of_now(box):
    world = box.nominal.changing([Change(0.05, {"floor_friction": 0.1})])
    box.reset(seed=0, options={"physics": world})
    assert box.physics == box.nominal
    for _ in range(2):
        box.step(STILL)
    assert box.physics == box.nominal.replace(floor_friction=0.1)
    box.set_physics({"slope_deg": 1.0})  # the schedule goes on
    assert box.physics == box.nominal.replace(floor_friction=0.1, slope_deg=1.0)


def test_what_this_task_cannot_change_is_refused_at_reset(box, hopper):
    with pytest.raises(UserError, match=r"push-box: payload_x_m cannot change .*; what can is floor_friction") as error:
        box.reset(options={"physics": box.nominal.changing([Change(1.0, {"payload_x_m": 0.02})])})
    assert "payload_x_m," not in str(error.value).split("what can is")[1]
    with pytest.raises(UserError, match=r"hopper: box_mass_kg has no meaning"):
        hopper.reset(options={"physics": hopper.nominal.changing([Change(1.0, {"box_mass_kg": 1.0})])})
