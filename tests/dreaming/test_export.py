"""A policy as an ONNX file: the same commands as the agent's, in the machine's units, and nothing is written else."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from configs import UserError
from dreaming import export as exporting
from dreaming.agent import Actor, Agent
from dreaming.export import export
from dreaming.run import BEST, RunFolder

onnxruntime = pytest.importorskip("onnxruntime")

LOW, HIGH = [-3.0, 0.5], [5.0, 1.5]


@pytest.fixture(scope="module")
def policy(small_night):
    run = RunFolder(small_night.path)
    state, meta = run.policy(BEST)
    return run.agent(state, meta), {**meta, "action": {**meta["action"], "low": LOW, "high": HIGH}}


@pytest.fixture(scope="module")
def file(policy, tmp_path_factory):
    agent, meta = policy
    path = tmp_path_factory.mktemp("robot") / "policy.onnx"
    made = export(agent, meta, path, {"run": "runs/mine"})
    assert made.path == path and made.bytes == path.stat().st_size and made.difference < 1e-5
    return path


@pytest.fixture(scope="module")
def session(file):
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def observations(agent, count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (agent.model.mean.numpy() + 2 * rng.standard_normal((count, len(agent.model.mean)))).astype(np.float32)


def test_it_says_what_each_number_is(policy, session):
    _, meta = policy
    told = session.get_modelmeta().custom_metadata_map
    assert told["task"] == "push-box" and told["run"] == "runs/mine" and float(told["control_hz"]) == 20.0
    assert json.loads(told["observation_names"]) == meta["observation_names"]
    assert (json.loads(told["action_low"]), json.loads(told["action_high"])) == (LOW, HIGH)
    assert "uniform in [0, 1)" in told["choice"] and "standard normal" in told["noise"]
    assert [one.name for one in session.get_inputs()] == ["observation", "choice", "noise"]


def test_without_chance_it_commands_the_mean_of_a_component_in_the_machine_s_units(policy, session):
    agent, _ = policy
    seen = observations(agent, 40)
    with torch.no_grad():
        mixture = agent.actor(agent.model.scale(torch.as_tensor(seen)), torch.zeros(40, len(agent.model.context)))
    ends = np.cumsum(mixture.log_weight.exp().numpy(), -1)
    for number in range(agent.actor.config.components):
        middle = (ends[:, number] + (ends[:, number - 1] if number else 0)) / 2
        given = {"observation": seen, "choice": middle[:, None].astype(np.float32), "noise": np.zeros((40, 2), "f")}
        (found,) = session.run(["command"], given)
        wide = ends[:, number] - (ends[:, number - 1] if number else 0) > 1e-4  # as wide as its weight
        half = (np.array(HIGH) - LOW) / 2
        np.testing.assert_allclose(found[wide], (np.array(LOW) + half + half * mixture.mean[:, number].numpy())[wide],
                                   atol=1e-4)  # fmt: skip


def test_its_commands_are_distributed_as_the_agent_s(policy, session):
    agent, _ = policy
    seen = np.repeat(observations(agent, 1), 4000, 0)
    agent.reset(4000)
    ours = np.clip(agent.act({"vector": seen}, np.ones(4000, bool)), -1, 1)
    rng = np.random.default_rng(5)
    draws = {"choice": rng.random((4000, 1), "f"), "noise": rng.standard_normal((4000, 2), "f")}
    (found,) = session.run(["command"], {"observation": seen, **draws})
    theirs = 2 * (found - LOW) / (np.array(HIGH) - LOW) - 1
    assert theirs.min() >= -1 - 1e-6 and theirs.max() <= 1 + 1e-6
    for axis in range(2):
        at = np.linspace(-1, 1, 41)
        share = [np.searchsorted(np.sort(of[:, axis]), at) / 4000 for of in (ours, theirs)]
        assert np.abs(share[0] - share[1]).max() < 1.95 * np.sqrt(2 / 4000)  # Kolmogorov-Smirnov, one in a thousand


def test_one_robot_or_many(policy, session):
    agent, _ = policy
    seen, one = observations(agent, 5), np.float32(0.5)
    given = {"observation": seen, "choice": np.full((5, 1), one), "noise": np.zeros((5, 2), "f")}
    (many,) = session.run(["command"], given)
    for row in range(5):
        (alone,) = session.run(["command"], {name: value[row : row + 1] for name, value in given.items()})
        np.testing.assert_allclose(alone[0], many[row], atol=1e-5)


def test_a_file_that_commands_something_else_is_not_written(policy, tmp_path, monkeypatch):
    agent, meta = policy
    honest = exporting._written

    def other(onboard, about):
        onboard.mean += 0.1 * onboard.std
        return honest(onboard, about)

    monkeypatch.setattr(exporting, "_written", other)
    with pytest.raises(UserError, match="differ from the policy's by .*nothing was written"):
        export(agent, meta, tmp_path / "policy.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_policy_that_needs_the_world_model_is_refused(policy, tmp_path):
    agent, meta = policy
    seeing = Agent(agent.model, Actor(dataclasses.replace(agent.actor.config), agent.model, "estimate"))
    with pytest.raises(UserError, match="only policies of --view blind"):
        export(seeing, meta, tmp_path / "policy.onnx", {})
    assert not list(tmp_path.iterdir())


def test_the_file_tells_nothing_of_the_machine_that_wrote_it(file, root):
    assert str(root).encode() not in file.read_bytes() and b"export.py" not in file.read_bytes()


def test_narrow_bounds_far_from_zero_are_no_fault_of_the_libraries(policy, tmp_path):
    agent, meta = policy
    action = {**meta["action"], "low": [1e6, 100.0], "high": [1e6 + 1, 100.05]}
    assert export(agent, {**meta, "action": action}, tmp_path / "policy.onnx", {}).difference < 1e-4


@pytest.mark.parametrize(("action", "said"), [
    (None, "does not say what its commands are"),
    ({"names": ["a", "b"], "low": [8.0, 0.0], "high": [-8.0, 1.0]}, "has to be below"),
    ({"names": ["a", "b"], "low": [0.0, 0.0], "high": [0.0, 1.0]}, "has to be below"),
])  # fmt: skip
def test_commands_without_sound_bounds_are_refused(policy, tmp_path, action, said):
    agent, meta = policy
    with pytest.raises(UserError, match=said):
        export(agent, {**meta, "action": action}, tmp_path / "policy.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named(policy, tmp_path, monkeypatch):
    agent, meta = policy
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript is not installed; `pip install 'digital-dreaming\[export\]'`"):
        export(agent, meta, tmp_path / "policy.onnx", {})
