"""Whole nights, small ones: what they leave, the time they take, and how they end and go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from small_nights import SECONDS, Ears, play, small_config

from configs import UserError
from dreaming.cli import Dream
from dreaming.clock import Budget
from dreaming.commands.dream import prepare
from dreaming.morning import amend
from dreaming.night import Night
from dreaming.report.data import Report
from dreaming.run import BEST, CLONE, LATEST, RunFolder
from envs import registry
from worldmodel import checkpoint
from worldmodel.storage import LogReader

PHASES = ["record", "learn", "clone", "dream", "audit", "survival", "report"]


def test_a_night_leaves_a_report(small_night):
    run = RunFolder(small_night.path)
    report = Report.load(run.path)
    assert small_night.phases == PHASES
    assert (run.path / "report" / "index.html").stat().st_size > 10_000
    assert report.audited and report.stopped == "the time was up"
    assert report.open_loop is not None and len(report.open_loop.channels) == 18
    assert report.audit is not None
    assert {one.scenario for one in report.audit.scenarios} == {"logged", "slippery", "latency"}
    assert len(np.load(run.path / "audit" / "dreams.npz")["action"]) == report.audit.overall.dreams
    assert set(report.spent.seconds) == set(PHASES)
    assert report.spent.imagined_steps > 0 and report.spent.robot_hours_dreamt > 0
    assert report.training.world_model and report.training.dream and report.training.selection
    assert {"world_model", "dream", "selection", "trusted"} <= set(small_night.metrics)
    for name in (CLONE, LATEST, BEST):
        assert checkpoint.exists(run.checkpoints, name)


def test_what_goes_wrong_after_the_report_is_in_it_all_the_same(small_night, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(small_night.path, path)
    run, page = RunFolder(path), path / "report" / "index.html"
    night = Night(run.config(), run, Budget(1.0, []), Ears())
    written, before = page.stat().st_mtime_ns, Report.load(path)
    amend(night)
    assert page.stat().st_mtime_ns == written
    night.warn("W&B: it hung")
    amend(night)
    before.warnings.append("W&B: it hung")
    assert Report.load(path) == before and "it hung" in page.read_text()


def test_a_night_that_was_killed_after_its_report_can_be_ended(small_night, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(small_night.path, path)
    run = RunFolder(path)
    progress = run.progress()
    progress.nights, progress.done = 0, PHASES  # earlier versions said so of the report too
    run.save_progress(progress)
    ears, _ = play(path, 12.0)
    assert ears.phases == ["report"] and (run.progress().nights, run.progress().done) == (1, [])


@pytest.fixture
def without_pybullet(monkeypatch):
    def missing(task: str):
        raise AssertionError(f"the simulator of {task} was asked for")

    monkeypatch.setitem(sys.modules, "pybullet", None)
    monkeypatch.setattr(registry, "task_class", missing)


def test_a_run_goes_on_without_pybullet_and_its_best_policy_is_no_longer_vouched_for(
    small_night, tmp_path, without_pybullet
):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(small_night.path, run.path)
    state = run.progress()
    state.best_score, state.refused = 0.5, {"slippery": "audits said so"}
    run.save_progress(state)
    ears, _ = play(run.path, 8.0)
    after = run.progress()
    assert (after.best_score, after.best_worlds) == (None, "")
    assert any("took the place of the best one, untried" in text for text in ears.notes)
    report = Report.load(run.path)
    assert not report.audited and "slippery" in {one.scenario for one in report.refused}
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    dreamt = [row for row in rows if row["phase"] == "dream"][-1]
    assert dreamt["step"] > state.updates and "cost_of_latency" in dreamt and "cost_of_slippery" not in dreamt


def test_what_was_audited_before_pybullet_went_is_told(small_night, tmp_path, without_pybullet):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(small_night.path, run.path)
    state = run.progress()
    state.nights, state.done = state.nights - 1, PHASES[:-1]
    run.save_progress(state)
    before = Report.load(run.path)
    play(run.path, 4.0)
    report = Report.load(run.path)
    assert report.audited and [one.after for one in report.survival] == [one.after for one in before.survival]


def test_without_pybullet_a_wake_is_refused_and_a_configured_one_left_out(small_night, tmp_path, without_pybullet):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(small_night.path, run.path)
    with pytest.raises(UserError, match="no simulator of push-box here, as PyBullet is not installed"):
        prepare(Dream(run=run.path, wake=500), run)
    run.create(replace(run.config(), wake=500))
    assert prepare(Dream(run=run.path), run).wake == 500
    assert not Night(run.config(), run, Budget(1.0, []), Ears()).simulated


def test_a_run_without_logs_says_that_pybullet_is_missing(small_night, tmp_path, without_pybullet):
    run = RunFolder(tmp_path / "run")
    run.create(small_config())
    with pytest.raises(AssertionError, match="simulator of push-box"):
        prepare(Dream(run=run.path), run)


def test_a_run_that_was_copied_is_shown_where_its_logs_lie(small_night, tmp_path):
    run, logs = RunFolder(tmp_path / "run"), small_night.path / "episodes"
    shutil.copytree(small_night.path, run.path)
    run.create(replace(run.config(), data=str(tmp_path / "gone")))
    with pytest.raises(UserError, match="holds no logs any more.*give --data anew"):
        prepare(Dream(run=run.path), run)
    assert prepare(Dream(run=run.path, data=logs), run).data == str(logs.resolve())
    shutil.copytree(logs, tmp_path / "others")
    with pytest.raises(UserError, match="has learnt from"):
        prepare(Dream(run=run.path, data=tmp_path / "others"), run)


def test_without_pybullet_a_night_learns_from_logs(small_night, tmp_path, without_pybullet):
    data = small_night.path / "episodes"
    config = prepare(Dream(data=data, run=tmp_path / "asked"), RunFolder(tmp_path / "asked"))
    assert (config.task, config.data) == ("push-box", str(data.resolve()))
    with pytest.raises(AssertionError, match="simulator of push-box"):  # which is to record
        prepare(Dream(task="push-box"), RunFolder(tmp_path / "recording"))
    ears, _ = play(tmp_path / "run", 8.0, data=str(data.resolve()))
    assert ears.phases == ["learn", "clone", "dream", "audit", "report"]
    report = Report.load(tmp_path / "run")
    assert not report.audited and report.spent.imagined_steps > 0
    assert checkpoint.exists(RunFolder(tmp_path / "run").checkpoints, BEST)


def test_survival_counts_every_policy_alike(small_night):
    report = Report.load(small_night.path)
    labels = [(cell.scenario, cell.label) for cell in report.survival]
    assert ("nominal", "nominal") in labels and ("slippery", "floor_friction 0.05") in labels
    for cell in report.survival:
        assert cell.demonstrator is not None
        assert cell.before.n == cell.after.n == cell.demonstrator.n >= 1
        # The demonstrations are of friction 0.15 and above, without latency.
        assert cell.in_logs == (cell.scenario == "nominal"), cell.label


def test_simulator_steps_are_counted_by_purpose(small_night):
    report = Report.load(small_night.path)
    spent = report.spent.simulator_steps
    assert spent["learning"] == 0
    assert spent["logs"] == report.logs.steps
    assert spent["survival"] == pytest.approx(80 * 3 * sum(c.after.n for c in report.survival), rel=0.5)
    assert spent["selection"] > 0 and spent["audit"] > 0


def test_the_time_is_kept(small_night):
    assert SECONDS - 12 < small_night.seconds < SECONDS + 12


@pytest.fixture
def started(root, tmp_path):
    """`dream` in a process of its own, on a run folder prepared for a small night."""
    processes = []

    def start(hours: float) -> tuple[subprocess.Popen, RunFolder]:
        run = RunFolder(tmp_path / "run")
        run.create(small_config(film_steps=4))
        code = "from dreaming.cli import main; main()"
        arguments = ["--run", str(run.path), "--hours", str(hours), "--wandb", "off"]
        process = subprocess.Popen(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, run

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.02)


def test_killed_while_recording_and_gone_on_with(started):
    process, run = started(0.05)
    index = run.episodes / "episodes.jsonl"
    until(lambda: index.exists() and index.read_bytes().count(b"\n") >= 3, process)
    process.kill()
    process.wait()
    kept = LogReader(run.episodes).episodes
    ears, _ = play(run.path, 12.0)
    assert ears.phases == PHASES
    after = LogReader(run.episodes)
    assert len(after) >= 20 and after.episodes[: len(kept)] == kept
    seeds = [episode["info"]["seed"] for episode in after.episodes]
    assert len(set(seeds)) == len(seeds)
    # Whatever the killed night had not written down yet.
    assert run.progress().simulator_steps["logs"] == sum(episode["length"] for episode in after.episodes)
    assert (run.path / "report" / "index.html").exists()


def test_sigterm_saves_and_still_reports(started):
    process, run = started(0.05)
    until(lambda: any(row["phase"] == "world_model" for row in run.read_metrics()), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert "Stopped by SIGTERM" in out and f"dream --run {run.path}" in out
    report = Report.load(run.path)
    assert report.stopped.startswith("stopped by SIGTERM") and not report.survival
    assert (run.path / "report" / "index.html").exists()
    assert checkpoint.exists(run.checkpoints, "world-model")
    progress = json.loads((run.path / "progress.json").read_text())
    assert progress["nights"] == 0 and "record" in progress["done"] and "learn" not in progress["done"]


def test_another_night_on_top(small_night, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(small_night.path, path)
    run = RunFolder(path)
    before, learnt = run.progress(), checkpoint.newest_step(run.checkpoints, "world-model")
    _, seconds = play(path, 12.0)
    after = run.progress()
    assert (before.nights, after.nights, after.done) == (1, 2, [])
    assert checkpoint.newest_step(run.checkpoints, "world-model") > learnt
    assert after.imagined_steps > before.imagined_steps and len(after.selection) > len(before.selection)
    # Demonstrations are kept, and only added to where the first night was too short for all that it wanted.
    assert before.simulator_steps["logs"] <= after.simulator_steps["logs"] == Report.load(path).logs.steps
    assert seconds < 12 + 12
    moments = [row["seconds"] for row in Report.load(path).training.world_model]
    assert moments == sorted(moments)
