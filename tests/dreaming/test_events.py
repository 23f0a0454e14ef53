"""Scenarios with disturbances in time: read, drawn, dreamt and audited by one schedule."""

import json

import numpy as np
import pytest
import torch
from played import Played

from configs import UserError
from dreaming.actor_critic import ActorCritic, ActorCriticConfig
from dreaming.agent import Actor, ActorConfig
from dreaming.auditing import save_dreams
from dreaming.event import Event
from dreaming.imagination import MAX_LATENCY, Starts, imagine
from dreaming.learning import dream_physics
from dreaming.scenario import Scenario, load_scenarios, within
from dreaming.truth import Dream, Listed, simulate
from envs import registry
from envs.physics import Change, Physics
from envs.workers import Workers
from worldmodel.context import PUSH, ContextSpec
from worldmodel.episode import Episode
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.rssm import RSSMConfig

ICE = Scenario(
    "ice",
    "",
    {"push-box": {"slope_deg": (1.0, 2.0)}},
    events={
        "push-box": [
            Event(at_s=(0.5, 1.5), factors={"floor_friction": (0.02, 0.1)}, for_s=1.0),
            Event(at_s=2.0, factors={"push_m_s": 0.4}),
        ]
    },
)
CONTEXT = ContextSpec(("floor_friction", PUSH), (0.5, 0.0), (0.25, 0.4))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT).eval().requires_grad_(False)


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder, text):
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_events_are_read_for_all_tasks_or_by_task(tmp_path):
    text = "events: [{at_s: 1.5, for_s: [0.5, 1e0], floor_friction: [2e-2, 0.1], slope_deg: 2}]"
    (everywhere,) = load_scenarios(write(tmp_path, text), "hopper")
    event = Event(1.5, {"floor_friction": (0.02, 0.1), "slope_deg": 2.0}, (0.5, 1.0))
    assert everywhere.events_for("hopper") == everywhere.events_for("rover") == [event]
    assert everywhere.factors("hopper") == ["floor_friction", "slope_deg"]
    assert everywhere.physics_for("hopper") == {}
    path = write(tmp_path, "physics: {hopper: {slope_deg: 1}}\nevents: {hopper: [{at_s: [1, 2], push_m_s: 0.3}]}")
    (one,) = load_scenarios(path, "hopper")
    assert one.events_for("hopper") == [Event((1.0, 2.0), {"push_m_s": 0.3})]
    assert one.factors("hopper") == ["slope_deg", "push_m_s"] and not one.speaks_for("ant")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("3", "events must be a list of changes"),
        ("{hopper: 3}", r"events of hopper must be a list of changes, as \[\{at_s: 1.5"),
        ("[{floor_friction: 0.1}]", "an event says when and what"),
        ("[{at_s: -1, floor_friction: 0.1}]", "at_s must not be negative"),
        ("[{at_s: [2, 1], floor_friction: 0.1}]", "its lower bound comes first"),
        ("[{at_s: soon, floor_friction: 0.1}]", "at_s must be a number"),
        ("[{at_s: 1, floor_fricton: 0.1}]", r'did you mean "floor_friction"\?'),
        ("[{at_s: 1, floor_friction: [0.2, 0.1]}]", "floor_friction runs from 0.2 to 0.1"),
        ("[{at_s: 1, floor_friction: 99}]", "out of range"),
        ("[{at_s: 1}]", "a change changes nothing"),
        ("[{at_s: 1, latency_steps: 2}]", "latency_steps cannot change while an episode runs; what can is floor_frict"),
    ],
)
def test_bad_events_name_the_file_and_what_is_wrong(tmp_path, events, message):
    with pytest.raises(UserError, match=message) as error:
        load_scenarios(write(tmp_path, f"events: {events}"), "hopper")
    assert "mine" in str(error.value) and "\n" not in str(error.value)


def test_a_payload_may_shift_where_the_simulator_can_shift_it(tmp_path):
    path = write(tmp_path, "events: [{at_s: 1, payload_kg: 2, payload_x_m: 0.1}]")
    load_scenarios(path, "hopper")
    load_scenarios(path, "warthog")  # no simulator, nothing to rebuild
    with pytest.raises(UserError, match=r"scenario mine: push-box: payload_x_m cannot change"):
        load_scenarios(path, "push-box")


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_an_episode_from_its_start_meets_events_at_their_times():
    nominal, rng = registry.nominal("push-box"), np.random.default_rng(0)
    for _ in range(30):
        physics = ICE.sample("push-box", rng, nominal)
        ice, push = physics.changes
        assert 0.5 <= ice.at_s <= 1.5 and ice.for_s == 1.0 and 0.02 <= ice.factors["floor_friction"] <= 0.1
        assert push == Change(2.0, {"push_m_s": 0.4})
        assert 1.0 <= physics.slope_deg <= 2.0


def test_a_dream_from_the_midst_begins_at_a_random_moment_of_the_scenario():
    nominal, rng = registry.nominal("push-box"), np.random.default_rng(0)
    until = [ICE.sample("push-box", rng, nominal, start_s=30.0).changes[1].at_s - 30.0 for _ in range(200)]
    assert min(until) == pytest.approx(-0.5, abs=0.05)  # the ice ends at 2.5 s at the latest, half a second later
    assert max(until) == pytest.approx(2.0, abs=0.05)


def test_draws_of_scenarios_without_events_take_no_more_chances_than_before():
    (slippery,) = load_scenarios("slippery", "push-box")
    nominal = registry.nominal("push-box")
    first, second = np.random.default_rng(0), np.random.default_rng(0)
    assert slippery.sample("push-box", first, nominal, 12.0) == slippery.sample("push-box", second, nominal)
    assert first.bit_generator.state == second.bit_generator.state


def test_levels_run_through_the_bounds_of_events():
    levels = ICE.levels("push-box")
    assert [label for label, _ in levels] == [
        "slope_deg 1, floor_friction 0.02 at 0.5 s for 1 s, push_m_s 0.4 at 2 s",
        "slope_deg 1.5, floor_friction 0.06 at 1 s for 1 s, push_m_s 0.4 at 2 s",
        "slope_deg 2, floor_friction 0.1 at 1.5 s for 1 s, push_m_s 0.4 at 2 s",
    ]
    assert [world.changes[0].at_s for _, world in levels] == [0.5, 1.0, 1.5]


def test_within_asks_for_what_comes_on_the_way():
    nominal = registry.nominal("push-box")
    logs = {"floor_friction": [0.15, 0.8], "push_m_s": [0.0, 0.2]}
    for name, value, held in (("floor_friction", 0.2, True), ("floor_friction", 0.1, False), ("push_m_s", 0.4, False)):
        assert within(nominal.changing([Change(1.0, {name: value})]), logs, nominal) is held


@pytest.mark.parametrize("task", ["push-box", "hopper", "ant", "rover"])
def test_the_packaged_ice_patch_is_one_that_each_task_can_play(task):
    (ice,) = load_scenarios("ice-patch", task)
    env = registry.make(task)
    usual = registry.log_ranges(task)["floor_friction"]
    assert isinstance(usual, tuple)
    for _, world in ice.levels(task):
        (change,) = world.changes
        assert change.factors["floor_friction"] < usual[0]  # more slippery than the logs
        assert change.for_s is not None and (change.at_s + change.for_s) * env.control_hz < env.max_steps
        env.reset(seed=0, options={"physics": world})
        env.step(np.zeros(env.action_space.shape, np.float32))
    env.close()


# -- dreaming ----------------------------------------------------------------------------------------------------------


def starts_of(model: WorldModel, steps: list[int]) -> Starts:
    n, index = len(steps), torch.tensor(steps)
    belief = model.initial(n)
    return Starts(belief, belief, torch.zeros(n, 2), torch.zeros(n, MAX_LATENCY, 1), index, index)


def test_the_dream_s_context_changes_in_the_simulator_s_step(model):
    # 10 Hz: ice and half strength in steps 5 and 6, a push in step 7; dreams from the steps 3 and 6, and one of before.
    changes = [Change(0.5, {"floor_friction": 0.25, "motor_strength": 0.5}, 0.2), Change(0.7, {"push_m_s": 0.2})]
    world = Physics(floor_friction=0.5).changing(changes)
    worlds = [world, world, Physics(floor_friction=0.75)]
    physics = dream_physics(model, worlds, np.array([3, 6, 3]), 5, 10.0)
    friction = [[0, 0, -1, -1, 0], [-1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    torch.testing.assert_close(physics.context[..., 0], torch.tensor(friction, dtype=torch.float32))
    torch.testing.assert_close(physics.strength, torch.tensor([[1, 1, 0.5, 0.5, 1], [0.5, 1, 1, 1, 1], [1.0] * 5]))
    torch.testing.assert_close(physics.push, torch.tensor([[0, 0, 0, 0, 0.5], [0, 0.5, 0, 0, 0], [0.0] * 5]))


def test_the_model_is_told_and_the_motors_get_what_holds_in_each_step(model, monkeypatch):
    told, reached, given = [], [], model.action_input

    def spy(action, context, known):
        told.append(context[0].tolist())
        reached.append(action[0].item())
        return given(action, context, known)

    monkeypatch.setattr(model, "action_input", spy)
    changes = [Change(0.1, {"floor_friction": 0.25, "motor_strength": 0.5}, 0.2), Change(0.2, {"push_m_s": 0.4})]
    physics = dream_physics(model, [Physics(floor_friction=0.5).changing(changes)], np.array([0]), 4, 10.0)
    rollout = imagine(model, Played(torch.full((1, 4, 1), 0.8)), starts_of(model, [0]), physics, 4)
    assert told == [[0, 0], [-1, 0], [-1, 1], [0, 0]]
    np.testing.assert_allclose(reached, [0.8, 0.4, 0.4, 0.8], rtol=1e-6)
    learner = ActorCritic(ActorCriticConfig(ActorConfig(units=16, layers=1), 16, 1), model, "blind")
    seen = learner.critic_input(rollout)[0, :, model.feat_size]
    assert seen.tolist() == [0, -1, -1, 0, 0]  # the step to come; after the last, as it was


def test_a_change_that_never_comes_leaves_the_dream_as_it_was_in_every_bit(model):
    def dreamt(world: Physics) -> list[torch.Tensor]:
        physics = dream_physics(model, [world, world], np.array([0, 4]), 6, 10.0)
        torch.manual_seed(1)
        actor = Actor(ActorConfig(units=16, layers=1), model, "blind")
        rollout = imagine(model, actor, starts_of(model, [0, 4]), physics, 6, explore=True, noisy=True)
        learner = ActorCritic(ActorCriticConfig(ActorConfig(units=16, layers=1), 16, 1), model, "blind")
        return [rollout.observation, rollout.reward, rollout.action, learner.critic_input(rollout)]

    plain = Physics(floor_friction=0.4, push_m_s=0.2, push_start_s=0.3, motor_strength=0.9)
    for a, b in zip(dreamt(plain), dreamt(plain.changing([Change(99.0, {"slope_deg": 3.0})])), strict=True):
        assert torch.equal(a, b)


# -- audit -------------------------------------------------------------------------------------------------------------


def test_an_audit_replays_the_same_schedule_from_the_dream_s_start(tmp_path):
    """The truth is made here, by an environment that is set by hand in the steps that the schedule names."""
    env = registry.make("push-box")
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (30, 2)).astype(np.float32)
    known = env.nominal.replace(floor_friction=0.4)
    observation, _ = env.reset(seed=3, options={"physics": known})
    vectors = [observation, *(env.step(a)[0] for a in action[:10])]
    zeros = np.zeros(10, np.float32)
    past = action[:10]
    log = Episode({"vector": np.stack(vectors)}, past, past, zeros, zeros, False, True, known.to_dict(), {"seed": 3})
    rows = [vectors[-1]]
    for t, a in enumerate(action[10:], start=10):
        slick = 14 <= t < 22
        env.set_physics({"slope_deg": 6.0 if slick else 0.0, "motor_strength": 0.5 if slick else 1.0})
        rows.append(env.step(a)[0])
    env.close()
    change = Change(14 / 20, {"slope_deg": 6.0, "motor_strength": 0.5}, 8 / 20)
    blank = np.zeros((21, 18), np.float32)
    dream = Dream(0, 10, "ice", known.to_dict(), action[10:], blank, np.zeros(20), np.ones(20), changes=(change,))
    with Workers("push-box", 1, processes=0) as workers:
        ((truth,),) = simulate([dream], Listed([log]), workers)
    np.testing.assert_allclose(truth.observation, np.stack(rows), atol=1e-6)
    save_dreams(tmp_path / "dreams.npz", [dream])
    with np.load(tmp_path / "dreams.npz") as saved:
        assert json.loads(str(saved["changes"][0])) == [
            {"at_s": 0.7, "factors": {"slope_deg": 6.0, "motor_strength": 0.5}, "for_s": 0.4}
        ]
