import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_fixture import make_run

from configs import UserError
from dreaming.report.page import write_report
from dreaming.wandb_log import Tracker


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))


def records(run_dir: Path) -> list[dict]:
    """Every record of the offline runs below the folder, as W&B's own reader gives them."""
    found = []
    for file in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found += [json.loads(line) for line in output.splitlines()]
    return found


def history(run_dir: Path) -> list[dict]:
    return [record["history"]["item"] for record in records(run_dir) if record["type"] == "history"]


def test_an_offline_night_can_be_read_back(tmp_path, capfd):
    run = make_run(tmp_path / "push-box-1")
    write_report(run)
    warnings: list[str] = []
    tracker = Tracker(run, "auto", {"task": "push-box", "learner": {"rate": 4e-5}}, warn=warnings.append)
    assert tracker.mode == "offline" and tracker.run_id
    tracker.log({"loss": {"observation": 2.5, "kl": 1.0}}, step=10)
    tracker.log({"loss": {"observation": 1.5}}, step=20)
    tracker.log_table("worlds", ["world", "fails"], [["ice", 0.25], ["sand", 0.5]], step=20)
    tracker.log_report(run, step=30)
    tracker.finish()
    assert warnings == []
    assert capfd.readouterr() == ("", "")

    items = history(run)
    scalars = {item["_step"]: item for item in items}
    assert scalars[10]["loss/observation"] == 2.5 and scalars[10]["loss/kl"] == 1.0
    assert scalars[20]["loss/observation"] == 1.5
    assert scalars[30]["failure_rate/outside_logs/after"] == pytest.approx(0.28, abs=0.01)
    assert scalars[30]["spent/simulator_steps/learning"] == 0

    files = next((run / "wandb").glob("offline-run-*")) / "files"
    media = {
        name: item[f"{name}.path"]
        for item in items
        for name in ("worlds", "survival", "audit", "report", "videos/dream_slippery")
        if f"{name}.path" in item
    }
    assert media.keys() == {"worlds", "survival", "audit", "report", "videos/dream_slippery"}
    worlds = json.loads((files / media["worlds"]).read_text())
    assert worlds == {"columns": ["world", "fails"], "data": [["ice", 0.25], ["sand", 0.5]]}
    audit = json.loads((files / media["audit"]).read_text())
    assert [row[0] for row in audit["data"]][-2:] == ["latency", "overall"]
    assert [row[3] for row in audit["data"]][-2:] == [False, True]
    survival = json.loads((files / media["survival"]).read_text())
    assert len(survival["data"]) == 12 * 3
    assert (files / media["videos/dream_slippery"]).read_bytes() == (run / "report/dream_slippery.mp4").read_bytes()
    assert "Survival, before and after" in (files / media["report"]).read_text()

    start = next(record["run"] for record in records(run) if record["type"] == "run")
    assert start["run_id"] == tracker.run_id
    assert any('"task"' in json.dumps(record) for record in records(run) if record["type"] == "run")


def test_a_run_goes_on_under_its_id_and_steps_never_go_back(tmp_path):
    first = Tracker(tmp_path / "r", "offline")
    first.log({"a": 1}, step=100)
    first.finish()
    second = Tracker(tmp_path / "r", "offline", run_id=first.run_id)
    assert second.run_id == first.run_id
    second.log({"a": 2}, step=150)
    second.log({"b": 3}, step=120)
    second.finish()
    assert {record["run"]["run_id"] for record in records(tmp_path / "r") if record["type"] == "run"} == {first.run_id}
    items = history(tmp_path / "r")
    assert {item["_step"] for item in items} == {100, 150}
    assert any(item.get("b") == 3 and item["_step"] == 150 for item in items)


def test_off_writes_nothing_and_needs_no_wandb(tmp_path):
    code = (
        "import sys; sys.modules['wandb'] = None\n"
        "from pathlib import Path; from dreaming.wandb_log import Tracker\n"
        f"t = Tracker(Path({str(tmp_path / 'r')!r}), 'off'); t.log({{'a': 1}}, 1); t.log_report(Path('nowhere'), 1)\n"
        "t.log_video('v', Path('nowhere.mp4'), 1); t.finish()"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert not (tmp_path / "r").exists()


def test_an_unknown_mode_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="auto, online, offline, off"):
        Tracker(tmp_path, "on")  # pyright: ignore[reportArgumentType]


def test_online_without_a_login_warns_once_and_stays_offline(tmp_path):
    warnings: list[str] = []
    tracker = Tracker(tmp_path / "r", "online", warn=warnings.append)
    tracker.finish()
    assert tracker.mode == "offline"
    assert len(warnings) == 1 and "wandb login" in warnings[0]


def test_a_server_that_does_not_answer_costs_one_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr("worldmodel.tracking.INIT_TIMEOUT_S", 1.0)
    warnings: list[str] = []
    tracker = Tracker(tmp_path / "r", "auto", warn=warnings.append)
    tracker.log({"a": 1}, step=1)
    tracker.finish()
    assert tracker.mode == "offline" and len(warnings) == 1
    assert [item["a"] for item in history(tmp_path / "r")] == [1]


def test_failures_of_wandb_end_nothing(tmp_path):
    warnings: list[str] = []
    tracker = Tracker(tmp_path / "r", "offline", warn=warnings.append)
    for step in range(3):
        tracker.log_figure("missing", tmp_path / "no.png", step)
    assert tracker.mode == "off"
    tracker.log({"a": 1}, step=9)
    tracker.finish()
    assert len(warnings) == 1 and "no.png" in warnings[0]


HUNG = """
import sys
from pathlib import Path
from worldmodel import tracking
from worldmodel.processes import command, started_by

tracking.HUNG_S = 2.0
told = []
tracker = tracking.Tracker(Path(sys.argv[1]), "offline", warn=told.append)
tracker.log({"a": 1}, step=1)
for process in started_by():
    if "wandb" in command(process):
        process.suspend()
tracker.finish()
assert tracker.mode == "off" and len(told) == 1, (tracker.mode, told)
"""


def test_wandbs_process_that_hangs_ends_neither_a_night_nor_its_end(tmp_path):
    """In a process of its own, as W&B's clean-up when a program ends would wait for the hung one as well."""
    (tmp_path / "night").mkdir()
    subprocess.run([sys.executable, "-c", HUNG, str(tmp_path / "night")], check=True, timeout=60)
