import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList
from played import Played

from configs import UserError
from dreaming.dream_env import DreamEnv, DreamVectorEnv
from dreaming.event import Event
from dreaming.imagination import Starts, imagine
from dreaming.learning import dream_physics
from dreaming.scenario import Scenario
from dreaming.truth import Dream, simulate
from envs.physics import Physics
from envs.workers import Workers
from worldmodel.context import PUSH, ContextSpec
from worldmodel.episode import Episode
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader, LogWriter, make_schema

CONTEXT = ContextSpec(("floor_friction", PUSH), (0.5, 0.0), (0.25, 0.4))
DEBUG = ModelConfig(RSSMConfig(64, 32, 8, 8, 8), units=32, depth=2, layers=1)
FRICTIONS = (0.3, 0.5, 0.7)
ICE = Scenario("ice", "", {"default": {"floor_friction": (0.02, 0.1), "sensor_noise": 0.25}})
SHOVE = Scenario("shove", "", {"default": {"push_m_s": 0.4, "push_start_s": 0.2, "push_every_s": 0.3}})


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Replay:
    folder = tmp_path_factory.mktemp("logs") / "log"
    rng = np.random.default_rng(0)
    with LogWriter(folder, make_schema("toy", 10.0, ["x", "y"], ["motor"], [-1.0], [1.0], None)) as writer:
        for friction in FRICTIONS:
            vector, action = rng.normal(size=(31, 2)), rng.uniform(-1, 1, (30, 1))
            steps = np.zeros(30, np.float32)
            physics = {"floor_friction": friction}
            arrays = {"vector": vector.astype(np.float32)}, *[action.astype(np.float32)] * 2
            writer.append(Episode(*arrays, steps, steps, False, True, physics))
    return Replay(LogReader(folder), CONTEXT)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT)


@pytest.fixture
def dreams(model, replay):
    def make(num_envs: int = 5, *scenarios: Scenario, **settings) -> DreamVectorEnv:
        return DreamVectorEnv(model, replay, "toy", num_envs, scenarios, **settings)

    return make


def alone(dreams, *scenarios: Scenario, horizon: int = 8) -> DreamEnv:
    return DreamEnv(dreams(1, *scenarios, horizon=horizon, autoreset_mode=AutoresetMode.DISABLED))


def world(infos: dict, row: int) -> Physics:
    return Physics(**{name: values[row] for name, values in infos["physics"].items() if name[0] != "_"})


def continuing(monkeypatch, model: WorldModel, *values: float) -> None:
    """The model's continuation, by row."""
    monkeypatch.setattr(model, "predict_continuation", lambda belief: torch.tensor(values))


def test_one_dream_passes_gymnasiums_checker(dreams):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*infinity")  # channels have no bounds in a log
        check_env(alone(dreams, ICE), skip_render_check=True)


def test_one_dream_passes_stable_baselines_checker(dreams):
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="the extra [agents] is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        checker.check_env(alone(dreams, ICE))


def test_one_dream_is_a_vector_of_one(dreams):
    one, vector = alone(dreams, ICE), dreams(1, ICE, horizon=8)
    observation, info = one.reset(seed=3)
    observations, infos = vector.reset(seed=3)
    np.testing.assert_array_equal(observation, observations[0])
    for t in range(8):
        assert info["physics"]["floor_friction"] == infos["physics"]["floor_friction"][0]
        assert (info["logged_episode"], info["logged_step"]) == (infos["logged_episode"][0], infos["logged_step"][0])
        action = np.array([np.sin(t)], np.float32)
        observation, reward, terminated, truncated, info = one.step(action)
        observations, rewards, ends, cuts, infos = vector.step(action[None])
        assert (reward, terminated, truncated) == (rewards[0], ends[0], cuts[0])
        last = infos["final_obs"] if terminated or truncated else observations
        np.testing.assert_array_equal(observation, last[0])
        if terminated or truncated:
            return


@pytest.mark.parametrize("noisy", [False, True])
def test_dreams_are_those_of_imagine(dreams, model, monkeypatch, noisy):
    """The same starts, worlds, commands and draws give the same dreams."""
    continuing(monkeypatch, model, 1.0, 1.0, 1.0, 1.0)
    env = dreams(4, ICE, SHOVE, horizon=6, noisy=noisy)
    seen, infos = env.reset(seed=1)
    moment, random = env._moment, env._random
    assert moment is not None and random is not None
    starts = Starts(moment.world, moment.world, moment.observation, moment.recent, *[torch.arange(4)] * 2)
    worlds = [world(infos, row) for row in range(4)]
    assert {physics.sensor_noise for physics in worlds} == {0.0, 0.25}
    physics = dream_physics(model, worlds, infos["logged_step"], 6, 10.0)
    commands = torch.linspace(-1.5, 1.5, 24).reshape(4, 6, 1)
    with torch.no_grad():
        torch.set_rng_state(random)
        rollout = imagine(model, Played(commands), starts, physics, 6, noisy=noisy)
    for t in range(6):
        np.testing.assert_array_equal(seen, rollout.seen[:, t].numpy())
        seen, reward, _, truncated, infos = env.step(commands[:, t].numpy())
        np.testing.assert_allclose(reward, rollout.reward[:, t].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), rollout.seen[:, 6].numpy())


def test_a_seed_repeats_everything_and_disturbs_nobody(dreams):
    def once(seed: int) -> list[np.ndarray]:
        env, found = dreams(5, ICE, SHOVE, horizon=3), []
        found.append(env.reset(seed=seed)[0])
        for _ in range(7):
            found.append(env.step(np.full((5, 1), 0.3))[0])
        return found

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = once(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(np.array_equal(a, b) for a, b in zip(first, once(4), strict=True))
    assert not np.array_equal(first[0], once(5)[0])


def test_a_seed_begins_anew_in_an_environment_that_has_dreamt(dreams):
    env = dreams(5, ICE)
    first, _ = env.reset(seed=4)
    env.step(np.zeros((5, 1)))
    assert not np.array_equal(env.reset()[0], first)
    np.testing.assert_array_equal(env.reset(seed=4)[0], first)


def test_dreams_are_cut_off_at_the_horizon_and_begin_anew(dreams, model, monkeypatch):
    continuing(monkeypatch, model, 0.51, 0.51)
    env = dreams(2, horizon=3)
    env.reset(seed=0)
    for t in range(1, 8):
        observation, _, terminated, truncated, infos = env.step(np.zeros((2, 1)))
        assert not terminated.any() and truncated.all() == truncated.any() == (t % 3 == 0)
        assert ("final_obs" in infos) == (t % 3 == 0)
    assert observation.shape == (2, 2)


def test_a_dream_terminates_where_the_end_is_likelier_and_only_it_begins_anew(dreams, model, monkeypatch):
    env = dreams(3, ICE, horizon=9)
    env.reset(seed=0)
    continuing(monkeypatch, model, 0.9, 0.49, 0.9)
    observation, _, terminated, truncated, infos = env.step(np.zeros((3, 1)))
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    assert infos["_final_obs"].tolist() == [False, True, False] and infos["final_obs"][0] is None
    assert not np.array_equal(infos["final_obs"][1], observation[1])
    assert infos["final_info"]["continuation"][1] == np.float32(0.49) and infos["continuation"][1] == 1
    before, now = infos["final_info"]["physics"]["floor_friction"], infos["physics"]["floor_friction"]
    assert before[1] != now[1] and (before[0], before[2]) == (now[0], now[2])
    assert env._age.tolist() == [1, 0, 1]
    continuing(monkeypatch, model, 0.9, 0.9, 0.9)
    for _ in range(8):
        *_, truncated, infos = env.step(np.zeros((3, 1)))
    assert truncated.tolist() == [True, False, True]  # the second is a step younger


def test_an_end_at_the_horizon_is_an_end(dreams, model, monkeypatch):
    continuing(monkeypatch, model, 0.2)
    env = alone(dreams, horizon=1)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.zeros(1))
    assert terminated and not truncated


def test_physics_is_the_scenarios_and_otherwise_the_logs_own(dreams):
    _, infos = dreams(64, ICE, SHOVE).reset(seed=0)
    ice, physics = infos["scenario"] == "ice", infos["physics"]
    logged = np.array(FRICTIONS)[infos["logged_episode"]]
    assert 16 < ice.sum() < 48
    assert ((physics["floor_friction"][ice] >= 0.02) & (physics["floor_friction"][ice] <= 0.1)).all()
    np.testing.assert_array_equal(physics["floor_friction"][~ice], logged[~ice])
    assert set(physics["push_m_s"][~ice]) == {0.4} and set(physics["push_m_s"][ice]) == {0.0}
    _, infos = dreams(64).reset(seed=0)
    np.testing.assert_array_equal(infos["physics"]["floor_friction"], np.array(FRICTIONS)[infos["logged_episode"]])
    assert set(infos["scenario"]) == {"logged"}


def test_the_model_is_told_the_physics_of_each_dream_also_of_those_begun_anew(dreams, model, monkeypatch):
    told = []
    given = model.action_input

    def spy(action, context, known):
        told.append(context.numpy().copy())
        return given(action, context, known)

    continuing(monkeypatch, model, 0.9, 0.1, 0.9)
    env = dreams(3, ICE, SHOVE, horizon=9)
    _, infos = env.reset(seed=2)
    monkeypatch.setattr(model, "action_input", spy)
    for _ in range(6):
        physics, at = infos["physics"], infos["logged_step"] + env._age
        push = [world(infos, row).push_at(at[row], 10.0) for row in range(3)]
        told.clear()
        *_, infos = env.step(np.zeros((3, 1)))
        np.testing.assert_allclose(told[0][:, 0], (physics["floor_friction"] - 0.5) / 0.25, rtol=1e-5)
        np.testing.assert_allclose(told[0][:, 1], np.array(push) / 0.4, rtol=1e-5)


def test_each_dream_meets_a_disturbance_at_its_own_time(dreams, model, monkeypatch):
    told = []
    given = model.action_input
    monkeypatch.setattr(model, "action_input", lambda a, c, k: told.append(c[:, 0].numpy() / 4 + 0.5) or given(a, c, k))
    patch = Scenario("patch", "", {}, events={"default": [Event(0.5, {"floor_friction": 0.1})]})
    continuing(monkeypatch, model, *[0.9] * 15, 0.1)  # the last one is begun anew all the time
    env = dreams(16, patch, Scenario("logged", "", {"default": {}}), horizon=9)
    env.reset(seed=1)
    told.clear()
    begun = []
    for _ in range(9):
        begun.append(env._age[0])
        env.step(np.zeros((16, 1)))
    frictions = np.array(told)
    iced = np.isclose(frictions, 0.1, atol=1e-6)
    assert begun == list(range(9))
    assert (np.diff(iced[:, :15].astype(int), axis=0) >= 0).all()  # it comes once and stays
    arrivals = iced[:, :15].argmax(0)[iced[:, :15].any(0)]
    assert len(set(arrivals.tolist())) > 2 and not iced[:, :15].any(0).all()
    other = frictions[~iced]
    assert np.isclose(other[:, None], FRICTIONS, atol=1e-5).any(1).all()


def test_starts_are_states_of_the_logs(dreams, replay):
    observation, infos = dreams(32).reset(seed=0)
    for row in range(32):
        episode = replay.reader.episode(int(infos["logged_episode"][row]))
        np.testing.assert_array_equal(observation[row], episode.observation["vector"][infos["logged_step"][row]])


def test_infos_are_gymnasiums(dreams, model, monkeypatch):
    continuing(monkeypatch, model, 0.9, 0.1)
    env = DictInfoToList(dreams(2, ICE))
    env.reset(seed=0)
    *_, infos = env.step(np.zeros((2, 1)))
    assert "final_obs" not in infos[0] and infos[1]["final_obs"].shape == (2,)
    assert 0.02 <= infos[1]["final_info"]["physics"]["floor_friction"] <= 0.1
    assert infos[0]["scenario"] == "ice" and infos[0]["logged_episode"] in (0, 1, 2)


def test_without_autoreset_a_mask_says_what_begins_anew(dreams, model, monkeypatch):
    env = dreams(3, horizon=4, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    continuing(monkeypatch, model, 0.9, 0.1, 0.9)
    observation, _, terminated, *_ = env.step(np.zeros((3, 1)))
    with pytest.raises(UserError, match=r"dreams \[1\] are over"):
        env.step(np.zeros((3, 1)))
    with pytest.raises(UserError, match="reset_mask must be 3 bools"):
        env.reset(options={"reset_mask": np.array([True])})
    again, infos = env.reset(options={"reset_mask": terminated})
    assert (again != observation).any(1).tolist() == [False, True, False]
    assert infos["_physics"].tolist() == [False, True, False]
    env.step(np.zeros((3, 1)))


def test_clear_errors(dreams):
    env = dreams(2)
    with pytest.raises(UserError, match="not begun"):
        env.step(np.zeros((2, 1)))
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"actions have shape \(2, 1\), not \(2,\)"):
        env.step(np.zeros(2))
    with pytest.raises(UserError, match="action of dream 1 is not finite"):
        env.step(np.array([[0.0], [np.nan]]))
    with pytest.raises(UserError, match="the logs never vary payload_kg"):
        dreams(2, Scenario("load", "", {"default": {"payload_kg": 1.0}}))
    with pytest.raises(UserError, match="num_envs = 0"):
        dreams(0)
    with pytest.raises(UserError, match="one dream without autoreset, not 2"):
        DreamEnv(env)


def test_what_info_says_lets_the_simulator_repeat_a_dream(small_night):
    env = DreamEnv.from_run(small_night.path, "slippery", horizon=4)
    observation, begun = env.reset(seed=0)
    actions, seen, paid, going_on = np.full((4, 2), 0.2, np.float32), [observation], [], []
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        seen, paid, going_on = [*seen, observation], [*paid, reward], [*going_on, info["continuation"]]
        if terminated:
            break
    dream = Dream(
        begun["logged_episode"], begun["logged_step"], begun["scenario"], begun["physics"], actions[: len(paid)],
        np.stack(seen), np.array(paid), np.array(going_on), None,
    )  # fmt: skip
    reader = LogReader(small_night.path / "episodes")
    with Workers("push-box", 1, processes=0) as workers:
        ((truth,),) = simulate([dream], reader, workers, np.zeros(18), replicas=0)
    np.testing.assert_array_equal(truth.lived[0], seen[0])
    assert 1 <= truth.steps <= len(paid)  # the simulator has a time limit of its own


def test_from_a_run_folder(small_night):
    env = DreamVectorEnv.from_run(small_night.path, 8, "nominal,slippery", horizon=5)
    observation, infos = env.reset(seed=0)
    assert observation.shape == (8, 18) and set(infos["scenario"]) == {"nominal", "slippery"}
    over = np.zeros(8, bool)
    for _ in range(5):
        observation, reward, terminated, truncated, _ = env.step(np.zeros((8, 2)))
        over |= terminated | truncated
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
    assert over.all()
    _, infos = DreamVectorEnv.from_run(small_night.path, 64, held_out=True).reset(seed=0)
    assert set(infos["logged_episode"] % 10) == {9}
    assert DreamEnv.from_run(small_night.path).reset(seed=0)[0].shape == (18,)
    with pytest.raises(UserError, match="does not exist"):
        DreamVectorEnv.from_run(Path("/nowhere/at/all"), 2)


def test_labels_of_the_users_own_are_told_and_what_nobody_states_lies_within_the_logs(tmp_path, monkeypatch):
    """`track_wear` is no factor of Physics; a floor that no label states is the logs' middle."""
    context = ContextSpec(("floor_friction", "track_wear"), (1.5, 0.5), (0.5, 0.5))
    with LogWriter(tmp_path / "log", make_schema("robot", 10.0, ["x", "y"], ["motor"], [-1.0], [1.0], None)) as writer:
        for physics in ({"track_wear": 0.75}, {"floor_friction": 2.0, "track_wear": 0.75}):
            action, steps = np.zeros((30, 1), np.float32), np.zeros(30, np.float32)
            vector = {"vector": np.zeros((31, 2), np.float32)}
            writer.append(Episode(vector, action, action, steps, steps, False, True, physics))
    logs = Replay(LogReader(tmp_path / "log"), context)
    model = WorldModel(DEBUG, Spaces(vector=2, action=1), context)
    dreams = DreamVectorEnv(model, logs, "robot", 16)
    told = []
    monkeypatch.setattr("dreaming.dream_env.dream_physics", lambda *a: told.append(dream_physics(*a)) or told[-1])
    dreams.reset(seed=0)
    assert {tuple(row) for row in told[0].context.tolist()} == {(0.0, 0.5), (1.0, 0.5)}
    assert told[0].known.all()
