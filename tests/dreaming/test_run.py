"""The run folder: what is read back is what was written, and half of anything is passed over or named."""

from dataclasses import replace

import pytest

from configs import UserError
from dreaming.run import NightConfig, Progress, RunFolder


def test_tasks_bring_their_own_settings():
    assert NightConfig.for_task("push-box").episodes == 1000
    hopper = NightConfig.for_task("hopper")
    assert hopper.episodes == 400 and hopper.dream.actor_critic.pull == 0.3
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
