import numpy as np
import pytest

from configs import UserError, packaged_names
from dreaming.scenario import Scenario, drawn_from, load_scenarios, within
from envs import registry
from envs.physics import Physics
from envs.worlds import Worlds

WHAT_IFS = ["slippery", "payload", "push", "slope", "latency", "weak-motors"]
TASKS = ["push-box", "hopper", "ant"]


def write(folder, text, name="mine.yaml"):
    (folder / name).write_text(text)
    return folder / name


def varied(physics: Physics, base: Physics) -> dict[str, float]:
    return {name: value for name, value in physics.to_dict().items() if value != getattr(base, name)}


def test_packaged_scenarios_are_those_of_the_command_line():
    assert packaged_names("scenarios") == sorted([*WHAT_IFS, "nominal", "edge-cases", "ice-patch"])


@pytest.mark.parametrize("task", TASKS)
def test_edge_cases_are_all_the_what_ifs(task):
    scenarios = load_scenarios("edge-cases", task)
    assert [scenario.name for scenario in scenarios] == WHAT_IFS
    assert all(scenario.description and scenario.factors(task) for scenario in scenarios)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["nominal", *WHAT_IFS])
def test_what_is_drawn_lies_in_the_bounds_and_nothing_else_changes(task, name):
    (scenario,) = load_scenarios(name, task)
    nominal, rng = registry.nominal(task), np.random.default_rng(0)
    for _ in range(50):
        physics = scenario.sample(task, rng, nominal)
        assert set(varied(physics, nominal)) <= set(scenario.factors(task))
        for factor, bounds in scenario.physics_for(task).items():
            assert isinstance(bounds, tuple)
            assert bounds[0] <= getattr(physics, factor) <= bounds[1]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["nominal", *WHAT_IFS])
def test_every_world_of_a_scenario_is_one_the_task_can_build(task, name):
    (scenario,) = load_scenarios(name, task)
    env = registry.make(task)
    rng = np.random.default_rng(1)
    worlds = [physics for _, physics in scenario.levels(task)] + [scenario.sample(task, rng, env.nominal)]
    for physics in worlds:
        env.reset(seed=0)
        env.set_physics(physics)  # dreams switch in the middle of an episode
        env.step(np.zeros(env.action_space.shape, np.float32))
    env.close()


def test_levels_of_the_survival_benchmark():
    def grid(name, task, factor):
        (scenario,) = load_scenarios(name, task)
        return [getattr(physics, factor) for _, physics in scenario.levels(task)]

    assert grid("slippery", "push-box", "floor_friction") == [0.05, 0.08, 0.12]
    assert grid("nominal", "push-box", "floor_friction") == [0.3, 0.2, 0.5, 0.8]
    assert grid("slippery", "hopper", "floor_friction") == [0.3, 0.5]
    assert grid("payload", "hopper", "payload_kg") == pytest.approx([0.1 * 15.8, 0.3 * 15.8])
    assert grid("slope", "hopper", "slope_deg") == [-5.0, 5.0]
    assert grid("latency", "hopper", "latency_steps") == [1.0]
    assert grid("latency", "push-box", "latency_steps") == [1.0, 2.0]
    assert grid("weak-motors", "hopper", "motor_strength") == [0.7, 0.85]
    assert grid("weak-motors", "push-box", "motor_strength") == [0.7]
    assert grid("push", "hopper", "push_m_s") == [0.25]
    assert grid("slippery", "ant", "floor_friction") == [0.3, 0.4]
    assert grid("payload", "ant", "payload_kg") == pytest.approx([0.6 * 182, 0.7 * 182], rel=1e-2)
    assert grid("slope", "ant", "slope_deg") == [10.0, 15.0]
    assert grid("latency", "ant", "latency_steps") == [1.0, 2.0]
    assert grid("weak-motors", "ant", "motor_strength") == [0.6, 0.7]
    assert grid("push", "ant", "push_m_s") == [2.0, -2.0]
    for task in TASKS:
        labels = [label for s in load_scenarios("nominal,edge-cases", task) for label, _ in s.levels(task)]
        assert len(set(labels)) == len(labels)


def test_a_draw_keeps_the_rest_of_the_log_s_own_physics():
    (scenario,) = load_scenarios("slippery", "push-box")
    logged = registry.nominal("push-box").replace(box_notch=0.4, floor_friction=0.7)
    physics = scenario.sample("push-box", np.random.default_rng(0), logged)
    assert physics.box_notch == 0.4
    assert physics.floor_friction <= 0.15


def test_draws_repeat_with_their_seed():
    (scenario,) = load_scenarios("push", "hopper")
    nominal = registry.nominal("hopper")
    first, second = (scenario.sample("hopper", np.random.default_rng(5), nominal) for _ in range(2))
    assert first == second


def test_several_names_and_no_repetition():
    names = [s.name for s in load_scenarios("slope, edge-cases", "hopper")]
    assert names == ["slope", "slippery", "payload", "push", "latency", "weak-motors"]


def test_unknown_scenario_is_one_line_with_what_would_have_worked():
    with pytest.raises(
        UserError, match=r'scenario "slipery" is unknown; did you mean "slippery"\?.*weak-motors'
    ) as error:
        load_scenarios("slipery", "push-box")
    assert "\n" not in str(error.value)


def test_a_file_of_one_s_own(tmp_path):
    path = write(
        tmp_path,
        """
        description: Ice at night.
        physics:
          push-box: {floor_friction: [2e-2, 0.06], sensor_noise: 0.01}
        levels:
          push-box: [{floor_friction: 5e-2, label: black ice}]
        """,
        "night-ice.yaml",
    )
    (scenario,) = load_scenarios(path, "push-box")
    assert scenario.name == "night-ice"
    assert scenario.description == "Ice at night."
    assert scenario.physics_for("push-box") == {"floor_friction": (0.02, 0.06), "sensor_noise": 0.01}
    ((label, physics),) = scenario.levels("push-box")
    assert label == "black ice"
    assert (physics.floor_friction, physics.sensor_noise) == (0.05, 0.01)
    with pytest.raises(UserError, match=r"night-ice.yaml says nothing for hopper; it has push-box"):
        load_scenarios(path, "hopper")


def test_factors_without_a_task_are_for_every_task_and_levels_are_optional(tmp_path):
    path = write(tmp_path, "physics: {latency_steps: [1, 2], motor_strength: [0.6, 1.0]}")
    for task in (*TASKS, "warthog"):
        (scenario,) = load_scenarios(path, task)
        labels = [label for label, _ in scenario.levels(task, Physics())]
        assert labels[0] == "latency_steps 1, motor_strength 0.6"
        assert labels[-1] == "latency_steps 2, motor_strength 1"


def test_a_label_says_what_differs_between_worlds_in_three_digits(tmp_path):
    path = write(tmp_path, "physics: {push_m_s: [-0.6, 0.6], floor_friction: [0.2529822, 0.4], push_every_s: 1.0}")
    (scenario,) = load_scenarios(path, "rover")
    levels = dict(scenario.levels("rover"))
    assert list(levels) == [
        "push_m_s -0.6, floor_friction 0.253", "push_m_s 0, floor_friction 0.326", "push_m_s 0.6, floor_friction 0.4"
    ]  # fmt: skip
    assert levels["push_m_s -0.6, floor_friction 0.253"].floor_friction == 0.2529822
    (scenario,) = load_scenarios(write(tmp_path, "physics: {gravity_m_s2: [9.806, 9.814]}"), "rover")
    assert [label for label, _ in scenario.levels("rover")] == [f"gravity_m_s2 {g}" for g in ("9.806", "9.81", "9.814")]
    (scenario,) = load_scenarios(write(tmp_path, "physics: {floor_friction: 0.1, payload_kg: 2.0}"), "rover")
    assert list(dict(scenario.levels("rover"))) == ["floor_friction 0.1, payload_kg 2"]


def test_a_group_of_one_s_own_finds_files_beside_it(tmp_path):
    write(tmp_path, "physics: {slope_deg: 3}", "steep.yaml")
    group = write(tmp_path, "scenarios: [steep.yaml, latency]", "both.yaml")
    assert [s.name for s in load_scenarios(group, "hopper")] == ["steep", "latency"]


def test_a_machine_without_a_simulator_gets_the_scenarios_that_speak_for_it():
    names = [scenario.name for scenario in load_scenarios("edge-cases", "warthog")]
    assert names == ["slippery", "slope", "latency", "weak-motors"]
    with pytest.raises(UserError, match="payload says nothing for warthog; it has ant, hopper, push-box"):
        load_scenarios("payload", "warthog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("physics: {floor_fricton: 0.1}", r'factor "floor_fricton" is unknown; did you mean "floor_friction"\?'),
        ("physics: {push-box: {floor_fricton: 0.1}}", r'did you mean "floor_friction"\?'),
        ("levels: [{grip: 1}]\nphysics: {floor_friction: 1}", r'factor "grip" is unknown'),
        ("phisics: {floor_friction: 0.1}", r'"phisics" is unknown; did you mean "physics"\?'),
        ("description: nothing", "physics is missing"),
        ("physics: {floor_friction: [0.1, 0.2, 0.3]}", "floor_friction needs a lower and an upper bound, not 3 values"),
        ("physics: {floor_friction: icy}", "floor_friction must be a number or .low, high., not 'icy'"),
        ("physics: {floor_friction: true}", "must be a number"),
        ("physics: {floor_friction: [0.5, 0.1]}", "floor_friction runs from 0.5 to 0.1"),
        ("physics: {floor_friction: -1}", "floor_friction = -1 is out of range"),
        ("physics: {latency_steps: 1}\nlevels: [{latency_steps: 0.5}]", "must be a whole number"),
        ("physics: {push-box: {slope_deg: 1}, floor_friction: 0.1}", "floor_friction stands beside the task push-box"),
        ("physics: [floor_friction]", "physics must be a mapping"),
        ("physics: {slope_deg: 1}\nlevels: 3", "levels must be a list of worlds"),
        ("physics: {slope_deg: 1}\nlevels: [3]", "a level is a mapping"),
        ("physics: {slope_deg: 1}\nlevels: {hopper: {slope_deg: 1}}", "levels of hopper must be a list"),
        ("scenarios: slippery", "must be a list of scenario names"),
        ("scenarios: [slipery]", r'did you mean "slippery"\?'),
        ("scenarios: [edge-cases]", "edge-cases is a group itself"),
        ("scenarios: [slope]\nphysics: {slope_deg: 1}", "not both"),
    ],
)
def test_a_bad_file_names_itself_and_what_is_wrong(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_scenarios(write(tmp_path, text), "hopper")
    assert "mine" in str(error.value) or "slipery" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        load_scenarios(tmp_path / "nowhere.yaml", "hopper")


def test_within_the_logs():
    nominal = registry.nominal("push-box")
    logs = {"floor_friction": [0.15, 0.8]}
    assert within(nominal, logs, nominal)
    assert within(nominal.replace(floor_friction=0.15), logs, nominal)
    assert not within(nominal.replace(floor_friction=0.12), logs, nominal)
    assert not within(nominal.replace(slope_deg=1.0), logs, nominal)
    assert within(nominal.replace(light_red=0.1, push_start_s=3.0), logs, nominal)
    assert not within(nominal.replace(push_m_s=0.4), logs, nominal)


def test_a_scenario_that_changes_nothing():
    (nominal,) = load_scenarios("nominal", "hopper")
    base = registry.nominal("hopper")
    assert isinstance(nominal, Scenario)
    assert nominal.factors("hopper") == []
    assert nominal.levels("hopper") == [("nominal", base)]
    assert nominal.sample("hopper", np.random.default_rng(0), base) == base


def test_many_worlds_are_drawn_each_from_its_own_scenario():
    slippery, payload = load_scenarios("slippery,payload", "hopper")
    logged = Worlds.of([Physics(floor_friction=0.5, gravity_m_s2=9.0 + i / 10) for i in range(6)])
    which = np.array([0, 1, -1, 0, 1, -1])
    worlds, names = drawn_from([slippery, payload], which, "hopper", np.random.default_rng(0), logged, np.zeros(6))
    assert names.tolist() == ["slippery", "payload", "logged"] * 2
    assert worlds.column("gravity_m_s2").tolist() == logged.column("gravity_m_s2").tolist()  # what none of them names
    low, high = slippery.physics_for("hopper")["floor_friction"]
    assert all(low <= worlds[i].floor_friction <= high for i in (0, 3))
    assert worlds[0].floor_friction != worlds[3].floor_friction
    assert list(worlds[np.array([2, 5])]) == list(logged[np.array([2, 5])])
    assert list(logged.column("floor_friction")) == [0.5] * 6
