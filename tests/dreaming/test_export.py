"""A policy as an ONNX file: the same commands as the agent's, in the machine's units, and nothing is written else."""

import dataclasses
import json

import numpy as np
import pytest

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
    assert [one.name for one in session.get_inputs()] == ["observation"]


def test_it_commands_what_the_agent_does_in_the_machine_s_units(policy, session):
    agent, _ = policy
    seen = observations(agent, 200)
    agent.reset(200)
    ours = agent.act({"vector": seen}, np.ones(200, bool))
    (found,) = session.run(["command"], {"observation": seen})
    np.testing.assert_allclose(found, np.array(LOW) + (ours + 1) / 2 * (np.array(HIGH) - LOW), atol=1e-4)


def test_one_robot_or_many(policy, session):
    agent, _ = policy
    seen = observations(agent, 5)
    (many,) = session.run(["command"], {"observation": seen})
    for row in range(5):
        (alone,) = session.run(["command"], {"observation": seen[row : row + 1]})
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
