"""The commands as their user meets them: lines, files, exit codes."""

import errno
import json
import shutil
import sys

import numpy as np
import pytest
from small_nights import small_config
from told import Told, told

from dreaming import cli
from dreaming.commands.record import parse_ranges
from dreaming.run import BEST, CLONE, LATEST, RunFolder
from envs import registry
from worldmodel import storage
from worldmodel.storage import LogReader

COMMANDS = {
    "dream": cli._dream,
    "record-rollouts": cli._record,
    "evaluate-policy": cli._evaluate,
    "audit-dreams": cli._audit,
    "export-policy": cli._export,
}


@pytest.fixture
def command(capsys):
    def call(name: str, *arguments: object) -> Told:
        return told(capsys, COMMANDS[name], arguments)

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_help(command, name):
    told = command(name, "--help")
    assert told.code == 0 and "Example: " in told.out and f"usage: {name}" in told.out


def test_logs_that_are_yet_to_be_imported_need_a_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arm.csv").write_text("time,q,tau\n0,1,2\n1,2,3\n")
    assert command("dream", "--data", "arm.csv").refused("--run is missing", "arm.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["arm.csv"]


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("dream", ("--hours", "0"), ("--hours is 0",)),
        ("dream", ("--hours", "-1"), ("--hours is -1",)),
        ("dream", ("--hours", "nan"), ("--hours is nan",)),
        ("dream", ("--hours", "0.001"), ("give 0.01 or more",)),
        ("dream", ("--hours", "soon"), ("hours",)),
        ("dream", ("--task", "hoper"), ("hoper", 'did you mean "hopper"')),
        ("dream", ("--size", "latpop"), ('did you mean "laptop"',)),
        ("dream", ("--scenario", "slipery"), ('did you mean "slippery"',)),
        ("dream", ("--seed", "-2"), ("--seed is -2",)),
        ("dream", ("--seed", "18446744073709551616"), ("--seed is 18446744073709551616; give 0 to 2147483647",)),
        ("dream", ("--data", "nowhere"), ("nowhere does not exist",)),
        ("dream", ("--device", "gpu"), ("there is no device 'gpu'", "give auto, cpu, cuda")),
        ("dream", ("--nap", "1"), ("nap",)),
        ("record-rollouts", ("--out", "logs", "--episodes", "0"), ("--episodes is 0",)),
        ("record-rollouts", ("--out", "logs", "--task", "hoper"), ('did you mean "hopper"',)),
        ("record-rollouts", ("--out", "logs", "--policy", "exprt"), ('did you mean "expert"', "run folder")),
        ("record-rollouts", ("--out", "logs", "--seed", "-1"), ("--seed is -1",)),
        ("record-rollouts", ("--out", "logs", "--noise", "0.4", "0.1"), ("--noise is 0.4 0.1",)),
        ("record-rollouts", ("--out", "logs", "--play", "1.5"), ("play = 1.5",)),
        ("record-rollouts", ("--out", "logs", "--randomise", "flor_friction=1"), ('did you mean "floor_friction"',)),
        ("record-rollouts", ("--out", "logs", "--randomise", "payload_kg"), ("is no range",)),
        ("record-rollouts", ("--out", "logs", "--randomise", "payload_kg=a:b"), ('payload_kg has "a:b"',)),
        ("evaluate-policy", (), ("--run is missing",)),
        ("evaluate-policy", ("--policy", "expert"), ("needs --task",)),
        ("evaluate-policy", ("--policy", "bset"), ('did you mean "best"',)),
        ("evaluate-policy", ("--run", "nowhere"), ("nowhere does not exist",)),
        ("evaluate-policy", ("--episodes", "0"), ("--episodes is 0",)),
        ("audit-dreams", ("--run", "nowhere"), ("nowhere does not exist",)),
        ("audit-dreams", ("--run", "nowhere", "--dreams", "0"), ("--dreams is 0",)),
        ("audit-dreams", ("--run", "nowhere", "--seed", str(2**64)), ("--seed is",)),
        ("audit-dreams", ("--run", "nowhere", "--horizon", "-3"), ("--horizon is -3",)),
        ("export-policy", ("--run", "nowhere"), ("nowhere does not exist",)),
        ("export-policy", ("--run", "nowhere", "--policy", "bset"), ('did you mean "best"',)),
        ("export-policy", ("--run", ".", "--out", "far/away.onnx"), ("the folder far does not exist",)),
        ("export-policy", ("--run", ".", "--out", "."), ("--out . is a folder",)),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, monkeypatch, name, arguments, parts):
    monkeypatch.chdir(tmp_path)
    assert command(name, *arguments).refused(*parts)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_a_run_of_another_task(command, small_night):
    run = small_night.path
    assert command("dream", "--run", run, "--task", "hopper").refused("is a run of push-box, not of hopper")
    assert command("dream", "--run", run, "--size", "laptop").refused("has size debug")
    assert command("dream", "--run", run, "--seed", "7").refused("has seed 0")
    assert command("evaluate-policy", "--run", run, "--task", "hopper").refused("is a run of push-box")
    experts = ("--policy", "expert", "--task", "hopper")
    assert command("evaluate-policy", "--run", run, *experts).refused("is a run of push-box")
    out = run.parent / "logs"
    assert command("record-rollouts", "--task", "hopper", "--policy", run, "--out", out).refused("is a run of push-box")


def test_logs_of_another_task(command, tmp_path):
    logs = tmp_path / "logs"
    assert command("record-rollouts", "--out", logs, "--episodes", 2).code == 0
    run = tmp_path / "run"
    assert command("dream", "--data", logs, "--task", "hopper", "--run", run).refused("logs of push-box, not of hopper")
    RunFolder(run).create(small_config("hopper"))
    assert command("dream", "--data", logs, "--run", run).refused("is a run of hopper")


def test_a_folder_of_something_else(command, tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert command("dream", "--run", tmp_path).refused("is no run folder", "thesis.tex")
    assert command("evaluate-policy", "--run", tmp_path).refused("is no run folder")


def test_no_simulator(command, monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError("No module named 'pybullet'", name="pybullet")

    monkeypatch.setattr(registry.importlib, "import_module", missing)
    monkeypatch.setitem(sys.modules, "pybullet", None)
    assert command("dream", "--run", tmp_path / "run").refused("PyBullet is not installed", "Python 3.11")
    assert command("record-rollouts", "--out", tmp_path / "logs").refused("PyBullet is not installed")


def test_a_checkpoint_cut_in_half(command, small_night, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_night.path, run)
    for name in (BEST, CLONE, LATEST):
        for path in (run / "checkpoints").glob(f"{name}-*.pt"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert command("evaluate-policy", "--run", run).refused("policy-best", "cut short")


def test_recording_appends_and_survives_a_full_disk(command, tmp_path, monkeypatch):
    logs = tmp_path / "logs"
    told = command("record-rollouts", "--out", logs, "--episodes", 2, "--randomise", "floor_friction=0.3:0.4")
    assert told.code == 0 and "2 episodes, 160 steps" in told.out and "train-world-model" in told.out
    before = LogReader(logs).episodes
    assert all(0.3 <= episode["physics"]["floor_friction"] <= 0.4 for episode in before)
    real, calls = storage.log_format.write_at, []

    def full(file, data, offset):
        calls.append(file)
        if len(calls) > 4:  # the header at the opening, then rows, index and header of one episode
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data, offset)

    monkeypatch.setattr(storage.log_format, "write_at", full)
    assert command("record-rollouts", "--out", logs, "--episodes", 3).refused("no space left")
    after = LogReader(logs).episodes
    assert after[:2] == before and len(after) == 3
    assert len({episode["info"]["seed"] for episode in after}) == 3


def test_ranges():
    assert parse_ranges("default", "push-box") == registry.log_ranges("push-box")
    assert parse_ranges("none", "push-box") == {}
    assert parse_ranges("floor_friction=0.2:0.3, payload_kg=0.1", "push-box") == {
        "floor_friction": (0.2, 0.3),
        "payload_kg": 0.1,
    }


def test_evaluate_prints_and_keeps_intervals(command, small_night):
    told = command("evaluate-policy", "--run", small_night.path, "--scenario", "slippery", "--episodes", 2)
    assert told.code == 0, told.err
    assert "slippery" in told.out and "floor_friction 0.05" in told.out and "%" in told.out
    saved = json.loads((small_night.path / "evaluation.json").read_text())
    for cell in saved["cells"]:
        low, high = cell["failure_interval"]
        assert low <= np.mean(cell["failed"]) <= high and len(cell["seeds"]) == 2


def test_export_says_how_to_call_what_it_wrote(command, small_night, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    told = command("export-policy", "--run", small_night.path, "--out", tmp_path / "policy.onnx")
    assert told.code == 0, told.err
    assert "shape (1, 18)" in told.out and "20 times a second" in told.out
    called = "\n".join(line.strip() for line in told.out.splitlines() if " = " in line)
    names = {"numpy": np, "onnxruntime": onnxruntime, "observation": np.zeros((1, 18), "f")}
    exec(called.replace("policy.onnx", str(tmp_path / "policy.onnx")), names)  # as the user would paste it
    assert np.shape(names["command"]) == (1, 2) and np.isfinite(names["command"]).all()


def test_the_demonstrator_is_evaluated_without_a_run(command):
    told = command(
        "evaluate-policy", "--policy", "expert", "--task", "push-box", "--scenario", "nominal", "--episodes", 1
    )
    assert told.code == 0 and "0%" in told.out


def test_audit_prints_and_keeps_its_report(command, small_night, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_night.path, run)
    arguments = ("--scenario", "slippery", "--dreams", 2, "--horizon", 4)
    told = command("audit-dreams", "--run", run, *arguments)
    assert told.code == 0, told.err
    assert "slippery" in told.out and "trusted" in told.out
    assert (run / "audit" / "report.json").read_bytes() == (small_night.path / "audit" / "report.json").read_bytes()
    saved = json.loads((run / "audit-dreams" / "report.json").read_text())
    assert saved["simulator"] and [one["scenario"] for one in saved["scenarios"]] == ["logged", "slippery"]
    assert len(np.load(run / "audit-dreams" / "dreams.npz")["action"]) == 4


def test_recording_with_a_runs_policy(command, small_night, tmp_path):
    told = command("record-rollouts", "--policy", small_night.path, "--out", tmp_path / "logs", "--episodes", 1)
    assert told.code == 0, told.err
    assert len(LogReader(tmp_path / "logs")) == 1
