"""Killed nights: two kills in the midst of writes, and whether the checks would notice what they are there for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from killing.checks import NAMES, Found, altered_bytes, left_running, read_all  # noqa: E402
from killing.killer import START, Kill, Killer  # noqa: E402
from nights import MOMENTS, PHASES, WRITES, Options, compare, kills_of, played, prepare  # noqa: E402

from worldmodel import checkpoint  # noqa: E402

SHORT = Options(hours=0.0085)  # half a minute, as short as a night may be


def test_a_night_killed_while_it_writes_goes_on(tmp_path):
    path = tmp_path / "night"
    prepare(SHORT, path)
    killer = Killer(path, SHORT.hours)
    first = played(SHORT, killer, 0, Kill("record", 0.0, "rows.npy", "half", 22))
    assert (first.killed, first.where, first.wrong) == (True, "record, half rows.npy", [])
    logged = read_all(path).episodes
    assert len(logged) >= 10
    second = played(SHORT, killer, 0, Kill("learn", 0.0, "world-model-*.json", "after", 1))
    assert (second.killed, second.where, second.wrong) == (True, "learn, after world-model-*.json", [])
    after = read_all(path)
    assert after.done == ["record"] and after.episodes[: len(logged)] == logged
    assert list(killer.phases()) == ["record", "learn"]
    assert "world-model" not in after.steps, "its manifest is there, the network is not"


def test_every_phase_and_every_write_has_its_turn():
    kills = [kill for night in range(60) for kill in kills_of(night, 0, 99)]
    assert {kill.phase for kill in kills if not kill.write} == {START, *PHASES}
    assert {(kill.phase, kill.write) for kill in kills if kill.write} == {(p, w) for p in WRITES for w in WRITES[p]}
    assert {kill.moment for kill in kills if kill.write} == set(MOMENTS)
    assert all(1 <= kill.number <= WRITES[kill.phase][kill.write] for kill in kills if kill.write)
    assert len(kills_of(0, 0, 3)) == 3


def test_what_a_leg_may_not_lose_is_noticed():
    before = Found(["record"], 0, [{"start": 0}, {"start": 9}], {"world-model": 7})
    good = Found(["record", "learn"], 0, [{"start": 0}, {"start": 9}, {"start": 18}], {"world-model": 9})
    assert compare(before, ["learn", "clone"], good) == []
    assert compare(before, ["record"], good) == ["record done already, and done again"]
    assert "done was" in compare(before, ["learn"], replace(good, done=["learn"]))[0]
    assert compare(before, ["learn"], replace(good, done=[], nights=1)) == []
    assert "episodes" in compare(before, ["learn"], replace(good, episodes=good.episodes[:1]))[0]
    assert "step 7 to 6" in compare(before, ["learn"], replace(good, steps={"world-model": 6}))[0]


def test_bytes_that_nobody_would_miss_are_noticed(tmp_path):
    for name in NAMES:
        for step in (1, 2):
            checkpoint.save(tmp_path, name, step, {"w": [step]}, {"task": "push-box"})
    tried, wrong = altered_bytes(tmp_path, 20, np.random.default_rng(0))
    assert tried > 4 * 2 * 15 and wrong == []
    # Without its signature a manifest hides the change of a digit.
    file = tmp_path / "policy-best-000000002.json"
    manifest = json.loads(file.read_text())
    del manifest["manifest_sha256"]
    file.write_text(json.dumps(manifest))
    _, wrong = altered_bytes(tmp_path, 60, np.random.default_rng(0))
    assert wrong and all(text.startswith("policy-best-000000002.json, byte") for text in wrong)


def test_processes_that_outlive_their_night_are_noticed():
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as night:
        assert night.stdout is not None and night.stdin is not None
        child = int(night.stdout.readline())
        assert set(left_running(night.pid, 0.0)) == {night.pid, child}
        night.kill()
        night.wait()
        assert left_running(night.pid, 0.2) == [child]
        night.stdin.close()
        assert left_running(night.pid) == []


@pytest.mark.parametrize("name", ["progress.json", "survival.json"])
def test_a_folder_that_cannot_be_read_is_noticed(tmp_path, name):
    prepare(SHORT, tmp_path)
    assert read_all(tmp_path) == Found()
    (tmp_path / name).write_text('{"half')
    with pytest.raises(Exception, match=name):
        read_all(tmp_path)
