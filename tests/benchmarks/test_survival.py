"""The headline's benchmark, seconds long."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import survival

from configs import UserError
from dreaming.evaluate import CellResult
from dreaming.run import CLONE, RunFolder
from envs.physics import Physics
from worldmodel import checkpoint
from worldmodel.lock import LOCK, locked


def options(out: Path, arms: str) -> survival.Survival:
    return survival.Survival(
        task="push-box", seeds=1, out=out, arms=arms, episodes=20, learn_s=1.5, clone_s=0.6, dream_s=2.0, trials=1,
        scenario="slippery", table="slippery",
    )  # fmt: skip


def test_an_arm_is_a_night_less_a_part_and_what_is_finished_is_kept(tmp_path, capsys):
    found = survival.one_seed(options(tmp_path, "clone,unselected"), 3)
    assert list(found) == ["clone", "unselected"]
    assert [cell["label"] for cell in found["clone"]] == [f"floor_friction {value}" for value in (0.05, 0.08, 0.12)]
    folder = tmp_path / "push-box" / "seed-3"
    progress = RunFolder(folder / "unselected").progress()
    assert progress.imagined_steps > 0 and "selection" not in progress.simulator_steps
    assert RunFolder(folder / "unselected").config().select is False
    # The clone went on from the shared one, and that was left alone.
    saved = [checkpoint.load(folder / run / "checkpoints", CLONE)[0]["learner"] for run in ("clone", "shared")]
    assert any(not np.array_equal(saved[0][name], saved[1][name]) for name in saved[0])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    assert survival.one_seed(options(tmp_path, "clone,unselected"), 3) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert "unselected" in capsys.readouterr().out
    with pytest.raises(UserError, match="was made with .*'trials': 1.* give another --out"):
        survival.one_seed(replace(options(tmp_path, "clone"), trials=2), 3)


def test_two_processes_on_one_seed_are_one_too_many(tmp_path):
    folder = tmp_path / "push-box" / "seed-3"
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(UserError, match="in use by process"):
        survival.one_seed(options(tmp_path, "clone"), 3)
    assert [file.name for file in folder.iterdir()] == [LOCK]  # nothing was begun


def cell(scenario: str, failures: int) -> dict:
    failed = [True] * failures + [False] * (10 - failures)
    seeds, rest = list(range(10)), ([1.0] * 10, [0.0] * 10, [5] * 10)
    world = CellResult(scenario, "x", Physics().to_dict(), seeds, failed, failed, *rest)
    return json.loads(json.dumps(world.to_dict()))


def test_the_table_sums_up_worlds_within_and_beyond_the_logs_and_where_the_demonstrator_fails():
    found = [
        {"demonstrator": [cell("nominal", 0), cell("slippery", 9), cell("push", 2)],
         "whole": [cell("nominal", 1), cell("slippery", 3), cell("push", 0)],
         "ppo-1x": [cell("nominal", 10), cell("slippery", 10), cell("push", 10)]}
    ] * 3  # fmt: skip
    lines = survival.markdown(found).splitlines()
    assert lines[0] == "| world | demonstrator | whole | ppo-1x |"
    rows = {line.split(" | ")[0].strip("| *"): line for line in lines[2:]}
    assert "0.90 [0.90, 0.90]" in rows["slippery x"] and "0.30 [0.30, 0.30] (1)" in rows["slippery x"]
    assert "0.10 [0.10, 0.10]" in rows["within the logs"]
    assert rows["where demonstrator mostly fails"].split("|")[2:] == rows["slippery x"].split("|")[2:]


def test_unknown_arms_are_refused():
    with pytest.raises(ValueError, match="unknown arms hole; known: demonstrator, clone, nominal"):
        survival.Survival(arms="whole,hole")


def test_changes_reach_nested_settings_and_nothing_else():
    from dreaming.run import NightConfig

    config = NightConfig("push-box")
    changed = survival.changed(config, {"dream.trust.cut": True, "gate": False})
    assert changed.dream.trust.cut and not changed.gate and changed.select
    assert survival.changed(changed, {"dream.trust.cut": False, "gate": True}) == config
