"""The machine from a URDF against its equations of motion, written here independently of Bullet."""

from pathlib import Path

import numpy as np
import pytest

from configs import UserError
from envs.machine import JointFriction, Machine

L1, M1, R1, I1 = 0.2, 0.5, 0.15, 0.02  # lengths in m, kg, and inertia about the joint in kg m2
M2, R2, I2 = 0.6, 0.25, 0.05
G = 9.81


def link(name: str, mass: float, z: float, inertia: float) -> str:
    return (
        f'<link name="{name}"><inertial><origin xyz="0 0 {z}"/><mass value="{mass}"/><inertia ixx="{inertia}" '
        f'iyy="{inertia}" izz="{inertia}" ixy="0" ixz="0" iyz="0"/></inertial>'
        '<visual><geometry><mesh filename="meshes/nowhere.obj"/></geometry></visual></link>'
    )


def joint(name: str, parent: str, child: str, z: float, kind: str = "revolute", dynamics: str = "") -> str:
    return (
        f'<joint name="{name}" type="{kind}"><origin xyz="0 0 {z}"/><parent link="{parent}"/><child link="{child}"/>'
        f'<axis xyz="1 0 0"/><limit lower="-3.14" upper="3.14" effort="10" velocity="20"/>{dynamics}</joint>'
    )


@pytest.fixture
def pendulum(tmp_path) -> Path:
    """Two links, hanging down at zero; inertias are about the joints. The world is not described, as in DFKI's."""
    parts = [
        '<joint name="weld" type="fixed"><parent link="world"/><child link="base"/></joint>',
        '<link name="base"/>',
        link("upper", M1, -R1, I1),
        link("lower", M2, -R2, I2),
        joint("shoulder", "base", "upper", 0.0),
        joint("elbow", "upper", "lower", -L1),
    ]
    path = tmp_path / "pendulum.urdf"
    path.write_text(f'<robot name="pendulum">{"".join(parts)}</robot>')
    return path


@pytest.fixture
def wheel(tmp_path) -> Path:
    """One joint, its mass in the axis: 0.05 kg m2, no gravity to speak of."""
    path = tmp_path / "wheel.urdf"
    turns = joint("axle", "base", "rim", 0.0, "continuous", '<dynamics damping="0.02" friction="0.1"/>')
    path.write_text(f'<robot name="wheel"><link name="base"/>{link("rim", 1.0, 0.0, 0.05)}{turns}</robot>')
    return path


def acceleration(state: np.ndarray, torque: np.ndarray) -> np.ndarray:
    """Of the double pendulum, from Lagrange's equations."""
    q1, q2, dq1, dq2 = state
    c, s = np.cos(q2), np.sin(q2)
    inertia = np.array([[I1 + I2 + M2 * L1**2 + 2 * M2 * L1 * R2 * c, I2 + M2 * L1 * R2 * c], [0.0, I2]])
    inertia[1, 0] = inertia[0, 1]
    swirl = M2 * L1 * R2 * s * np.array([-dq2 * (2 * dq1 + dq2), dq1**2])
    lower = M2 * G * R2 * np.sin(q1 + q2)
    weight = np.array([(M1 * R1 + M2 * L1) * G * np.sin(q1) + lower, lower])
    return np.linalg.solve(inertia, torque - swirl - weight)


def solved(state: np.ndarray, torques: np.ndarray, step_s: float, parts: int = 10) -> np.ndarray:
    """By Runge and Kutta's fourth order."""

    def slope(x: np.ndarray, torque: np.ndarray) -> np.ndarray:
        return np.concatenate([x[2:], acceleration(x, torque)])

    rows, h = [state], step_s / parts
    for torque in torques:
        for _ in range(parts):
            a = slope(state, torque)
            b = slope(state + h / 2 * a, torque)
            c = slope(state + h / 2 * b, torque)
            d = slope(state + h * c, torque)
            state = state + h / 6 * (a + 2 * b + 2 * c + d)
        rows.append(state)
    return np.stack(rows)


def energy(rows: np.ndarray) -> np.ndarray:
    """J, zero at the height of the shoulder."""
    q1, q2, dq1, dq2 = rows.T
    both = dq1 + dq2
    moving = 0.5 * (I1 + M2 * L1**2) * dq1**2 + 0.5 * I2 * both**2 + M2 * L1 * R2 * np.cos(q2) * dq1 * both
    return moving - G * ((M1 * R1 + M2 * L1) * np.cos(q1) + M2 * R2 * np.cos(q1 + q2))


def test_it_moves_by_the_equations_of_motion(pendulum):
    start = np.array([0.5, -1.0, 1.0, 2.0])
    torques = np.random.default_rng(0).normal(size=(50, 2))
    truth = solved(start, torques, 0.01)
    errors = []
    for substeps in (20, 40):
        machine = Machine(pendulum, 0.01, inertia_about="joint", substeps=substeps)
        assert machine.joints == ["shoulder", "elbow"]
        rows = machine.rollout(start[:2], start[2:], torques)
        assert rows.shape == (51, 4) and np.array_equal(rows[0], start)
        errors.append(np.abs(rows - truth).max())
    assert errors[0] < 0.03 * np.abs(truth).max()
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.2)  # of first order, towards the truth


def test_energy_is_kept_without_torques(pendulum):
    machine = Machine(pendulum, 0.01, inertia_about="joint", substeps=100)
    rows = machine.rollout(np.array([2.0, 0.5]), np.zeros(2), np.zeros((100, 2)))
    swing = 0.5 * (energy(np.array([[np.pi, 0.0, 0.0, 0.0]])) - energy(np.zeros((1, 4))))
    assert np.abs(energy(rows) - energy(rows)[0]).max() < 0.01 * swing
    assert np.abs(rows[:, 2:]).max() > 5


def test_gravity_pulls_towards_zero_which_hangs_down(pendulum):
    machine = Machine(pendulum, 0.01, inertia_about="joint")
    hanging = machine.rollout(np.zeros(2), np.zeros(2), np.zeros((20, 2)))
    assert np.abs(hanging).max() < 1e-9
    # The torques that hold it out at 90 degrees are those of its weight.
    holding = np.array([G * (M1 * R1 + M2 * (L1 + R2)), G * M2 * R2])
    held = machine.rollout(np.array([np.pi / 2, 0.0]), np.zeros(2), np.tile(holding, (10, 1)))
    assert np.abs(held[:, 2:]).max() < 1e-3
    assert machine.rollout(np.array([0.1, 0.0]), np.zeros(2), np.zeros((1, 2)))[-1, 2] < 0


def test_it_turns_on_past_the_urdfs_stops(pendulum):
    rows = Machine(pendulum, 0.01).rollout(np.zeros(2), np.array([30.0, 0.0]), np.zeros((100, 2)))
    assert rows[:, 0].max() > 4


def test_an_inertia_about_the_mass_centre_is_taken_as_it_stands(pendulum):
    still = np.zeros(2)
    about_centre, about_joint = (
        Machine(pendulum, 1e-4, inertia_about=about, substeps=1).rollout(still, still, np.array([[1.0, 0.0]]))[-1, 2:]
        for about in ("mass centre", "joint")
    )
    assert np.allclose(about_joint / 1e-4, acceleration(np.zeros(4), np.array([1.0, 0.0])), rtol=1e-4)
    assert about_centre[0] < about_joint[0]


@pytest.mark.parametrize("substeps", [1, 20])
def test_coulomb_friction_slows_evenly_and_then_holds(wheel, substeps):
    machine = Machine(wheel, 0.01, [JointFriction(coulomb=0.1)], substeps=substeps)
    speed = machine.rollout(np.zeros(1), np.array([1.0]), np.zeros((100, 1)))[:, 1]
    assert np.allclose(speed[:50], 1 - 0.1 / 0.05 * 0.01 * np.arange(50), atol=1e-3)
    assert np.abs(speed[52:]).max() < 1e-6
    assert np.abs(machine.rollout(np.zeros(1), np.zeros(1), np.full((20, 1), 0.09))).max() < 1e-6
    assert machine.rollout(np.zeros(1), np.zeros(1), np.full((20, 1), 0.15))[-1, 1] == pytest.approx(0.2, rel=0.01)


def test_viscous_friction_lets_speed_decay(wheel):
    machine = Machine(wheel, 0.01, [JointFriction(damping=0.02)])
    speed = machine.rollout(np.zeros(1), np.array([1.0]), np.zeros((100, 1)))[:, 1]
    assert np.allclose(speed, np.exp(-0.02 / 0.05 * 0.01 * np.arange(101)), rtol=1e-3)


def test_without_friction_given_the_urdfs_counts(wheel):
    given = Machine(wheel, 0.01, [JointFriction(0.02, 0.1)]).rollout(np.zeros(1), np.ones(1), np.zeros((20, 1)))
    assert np.array_equal(Machine(wheel, 0.01).rollout(np.zeros(1), np.ones(1), np.zeros((20, 1))), given)


def test_a_rollout_repeats_itself(pendulum):
    machine, torques = Machine(pendulum, 0.01, [JointFriction(0.01, 0.1)] * 2), np.ones((30, 2))
    first = machine.rollout(np.array([0.3, 0.0]), np.zeros(2), torques)
    assert np.array_equal(machine.rollout(np.array([0.3, 0.0]), np.zeros(2), torques), first)


def test_what_cannot_be_simulated_is_refused(pendulum, wheel, tmp_path):
    with pytest.raises(UserError, match="moves in shoulder, elbow, but friction is given for 1"):
        Machine(pendulum, 0.01, [JointFriction()])
    with pytest.raises(UserError, match="axle has a rotor inertia of 1e-05"):
        Machine(wheel, 0.01, [JointFriction(rotor_inertia=1e-5, gear=6)])
    with pytest.raises(UserError, match="cannot be read as a URDF"):
        Machine(tmp_path / "none.urdf", 0.01)
    text = pendulum.read_text()
    pendulum.write_text(text.replace("revolute", "prismatic", 1))
    with pytest.raises(UserError, match="joint shoulder is prismatic"):
        Machine(pendulum, 0.01)
    pendulum.write_text(text.replace(f'mass value="{M2}"', 'mass value="6"'))
    with pytest.raises(UserError, match=r"link lower has 0.05 kg m2 about its joint, but its mass alone has 0.375"):
        Machine(pendulum, 0.01, inertia_about="joint")
    pendulum.write_text('<robot name="none"><link name="base"/></robot>')
    with pytest.raises(UserError, match="no joint that turns"):
        Machine(pendulum, 0.01)


def test_friction_may_be_a_number_of_numpys(wheel):
    machines = [Machine(wheel, 0.01, [JointFriction(damping=x)]) for x in (0.2, np.float64(0.2), np.float32(0.2))]
    speeds = [one.rollout(np.zeros(1), np.ones(1), np.zeros((20, 1)))[-1, 1] for one in machines]
    assert speeds[0] < 0.5 and speeds[1:] == pytest.approx([speeds[0]] * 2, rel=1e-5)
