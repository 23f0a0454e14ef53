"""The run folder: what is read back is what was written, and half of anything is passed over or named."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from configs import UserError
from dreaming.run import NightConfig, Progress, RunFolder


def test_tasks_bring_their_own_settings():
    assert NightConfig.for_task("push-box").episodes == 1000
    hopper = NightConfig.for_task("hopper")
    assert hopper.episodes == 400 and hopper.dream.actor_critic.pull == 0.01
    assert NightConfig.for_task("a-robot-of-my-own").task == "a-robot-of-my-own"


def test_settings_come_back(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = replace(NightConfig.for_task("hopper"), seed=3, scenario="slippery")
    run.create(config)
    assert run.config() == config


def test_a_world_models_run_becomes_a_nights(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text("task: hopper\nseed: 1\nsize: debug\ndata: ''\ntrainer: {batch: 4}\n")
    assert run.config() == replace(
        NightConfig.for_task("hopper"), seed=1, size="debug", trainer=replace(NightConfig("x").trainer, batch=4)
    )


def test_progress_of_older_nights_goes_on(tmp_path):
    (tmp_path / "progress.json").write_text('{"nights": 2, "best_score": 0.5, "best_return": 7.0}')
    assert RunFolder(tmp_path).progress() == Progress(nights=2, best_score=0.5)


def test_progress_comes_back(tmp_path):
    run = RunFolder(tmp_path)
    assert run.progress() == Progress()
    progress = Progress(nights=1, done=["record"], best_score=0.5)
    progress.count("logs", 10)
    progress.count("logs", 5)
    progress.took("learn", 2.0)
    progress.warn("hm")
    progress.warn("hm")
    run.save_progress(progress)
    assert run.progress() == progress
    assert progress.simulator_steps == {"logs": 15} and progress.warnings == ["hm"]


def test_half_a_progress_is_named(tmp_path):
    (tmp_path / "progress.json").write_text('{"nights": 1, "do')
    with pytest.raises(UserError, match="progress.json is not readable"):
        RunFolder(tmp_path).progress()


def test_half_a_line_of_metrics_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"phase": "dream", "step": 1})
    with open(run.metrics, "a") as file:
        file.write('{"phase": "dr')
    assert run.read_metrics() == [{"phase": "dream", "step": 1}]


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="no run folder .it holds thesis.tex"):
        RunFolder(tmp_path).check_free()
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex").check_free()
    RunFolder(tmp_path / "new").check_free()


def test_a_folder_without_a_run_says_what_would_make_one(tmp_path):
    with pytest.raises(UserError, match="does not exist; dream --run"):
        RunFolder(tmp_path / "none").config()
    (tmp_path / "config.yaml").write_text("colour: red\n")
    with pytest.raises(UserError, match="lacks task"):
        RunFolder(tmp_path).config()


def test_without_a_policy_there_is_no_agent(tmp_path):
    run = RunFolder(tmp_path)
    run.create(NightConfig("push-box"))
    with pytest.raises(UserError, match="holds no policy yet"):
        run.load_agent()


def test_two_nights_on_one_folder_are_one_too_many(tmp_path):
    run, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with run.claimed():
        assert not run.path.exists(), "what is not there needs no lock"
        run.create(NightConfig("push-box"))
        run.create(NightConfig("push-box"))
        with pytest.raises(UserError, match=f"in use by process {os.getpid()};"), other.claimed():
            pass
        other.check_free()
    with other.claimed():
        pass
    with pytest.raises(UserError, match="in use"), run.claimed(), other.claimed():
        pass


def test_what_killed_nights_left_half_written_is_swept(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(NightConfig("push-box"))
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    (run.path / "audit").mkdir()
    strays = [run.path / f".progress.json.{gone.pid}.tmp", run.path / "audit" / f".dreams.npz.{gone.pid}.tmp"]
    others = [run.path / f".survival.json.{os.getpid()}.tmp", run.path / "progress.json"]
    for file in (*strays, *others):
        file.write_text("{")
    with run.claimed():
        assert not any(file.exists() for file in strays) and all(file.exists() for file in others)


def test_folders_of_others_get_no_lock(tmp_path):
    with RunFolder(tmp_path).claimed():
        assert list(tmp_path.iterdir()) == []


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path, root):
    run = RunFolder(tmp_path / "run")
    run.create(NightConfig("push-box"))
    code = f"from pathlib import Path; from dreaming.run import RunFolder; run = RunFolder(Path({str(run.path)!r}))\n"
    code += "with run.claimed(): print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), run.claimed():
            pass
        holder.kill()
    with run.claimed():
        pass
