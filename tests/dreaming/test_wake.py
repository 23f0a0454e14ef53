"""The wake: what it collects, where, and that a kill costs or repeats nothing."""

import errno
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_nights import Ears

from dreaming.clock import Budget, Share
from dreaming.evening import learn
from dreaming.imitation import good_episodes
from dreaming.night import Night
from dreaming.run import BEST, ZERO_STEP, RunFolder
from dreaming.survival import log_ranges
from dreaming.wake import WORST, collected, wake, wrong
from worldmodel import checkpoint
from worldmodel.episode import WAKE
from worldmodel.storage import LogReader, LogWriter

STEPS = 200


@pytest.fixture
def run(small_night, tmp_path) -> RunFolder:
    """A night that is over, of a run that is told to wake from now on."""
    shutil.copytree(small_night.path, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.create(replace(run.config(), wake=STEPS))
    return run


def night_of(run: RunFolder, seconds: float = 600.0) -> Night:
    return Night(run.config(), run, Budget(seconds, [Share("dream", 0.0), Share("report", 0.0)]), Ears())


def test_it_is_in_a_night_only_where_it_is_asked_for(run):
    assert [share.name for share in night_of(run).budget.shares] == ["dream", "wake", "dream again", "report"]
    run.create(replace(run.config(), wake=0))
    assert [share.name for share in night_of(run).budget.shares] == ["dream", "report"]


def test_it_goes_where_audits_say_that_the_model_is_wrong(run):
    night = night_of(run)
    night.state.refused = {"latency": "errs"}
    assert [scenario.name for scenario in wrong(night)] == ["latency"]
    night.state.refused = {}
    night.state.disagreement = {"slippery": 0.9, "latency": 0.4}
    assert [scenario.name for scenario in wrong(night)][:WORST] == ["slippery", "latency"]


def test_on_a_full_disk_there_is_none(run, monkeypatch):
    night = night_of(run)
    night.state.refused = {"slippery": "errs"}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "policy-zero-step.pt")

    monkeypatch.setattr(checkpoint, "save", full)
    night.phase("wake", wake)
    assert "the disk is full" in night.state.warnings[-1]
    assert collected(night.reader()) == 0 and not night.state.woken


def test_a_policy_that_waits_for_room_is_the_one_that_acts(run):
    night = night_of(run)
    state, meta, step = checkpoint.load(run.checkpoints, BEST)
    for value in state["learner"].values():
        if hasattr(value, "zero_"):
            value.zero_()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "policy-best.pt")

    night.saving(BEST, full, run.checkpoints, BEST, step, state, meta)
    assert not any(weights.any() for weights in night.agent(BEST).actor.parameters())
    assert any(weights.any() for weights in run.load_agent(BEST).actor.parameters())


def test_killed_in_its_midst_it_collects_what_is_left_and_learns_on(run, monkeypatch):
    night = night_of(run)
    night.state.refused = {"slippery": "errs"}
    run.save_progress(night.state)
    logs, updates = LogReader(run.episodes), night.trainer.steps
    append = LogWriter.append

    def killed(writer, episode):
        append(writer, episode)
        raise KeyboardInterrupt

    monkeypatch.setattr(LogWriter, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        night.phase("wake", wake)
    monkeypatch.setattr(LogWriter, "append", append)
    assert "wake" not in run.progress().done
    first = collected(LogReader(run.episodes))
    assert 0 < first <= 80

    night, shares = night_of(run), iter([0.5, 1.0])  # an update, and the time is up
    clock = SimpleNamespace(name="wake", seconds=60.0, spent=lambda: next(shares), left=float)
    monkeypatch.setattr("dreaming.wake.learn", lambda night, _: learn(night, clock))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(night, "tick", lambda *_: None)
    night.phase("wake", wake)
    state, after = run.progress(), LogReader(run.episodes)
    assert state.woken == state.nights + 1 and "wake" in state.done
    assert after.episodes[: len(logs)] == logs.episodes
    new = after.episodes[len(logs) :]
    assert {episode["info"][WAKE] for episode in new} == {state.nights}
    assert all(episode["physics"]["floor_friction"] < 0.15 for episode in new)  # slippery, as no log was
    assert len({episode["info"]["seed"] for episode in after.episodes}) == len(after)
    assert STEPS <= collected(after) < STEPS + 80
    assert state.simulator_steps["learning"] == collected(after) == collected(after, state.nights)
    assert night.trainer.steps == updates + 1 == checkpoint.newest_step(run.checkpoints, "world-model")
    best, _, step = checkpoint.load(run.checkpoints, BEST)
    kept, _, kept_step = checkpoint.load(run.checkpoints, ZERO_STEP)
    assert kept_step == step and kept["learner"].keys() == best["learner"].keys()
    # Worlds that it saw stay what-ifs, and what it did there is no demonstration.
    assert log_ranges(after, "push-box") == log_ranges(logs, "push-box")
    assert max(good_episodes(night.trainer.replay, 1.0)) < len(logs)
