"""What happens to a night, in parts of one: it goes on, and its warnings, which the report shows, say so."""

import errno

import pytest
from small_nights import Ears, small_config

from configs import UserError
from dreaming import evening, morning, night
from dreaming.clock import Budget, Share
from dreaming.evening import record_logs
from dreaming.run import RunFolder
from envs.slots import SimulatorError
from envs.workers import ProcessLostError
from worldmodel.storage import LogReader, LogWriter


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    monkeypatch.setattr(night, "LEAST_APART_S", 1e9)
    run = RunFolder(tmp_path / "run")
    run.create(small_config(episodes=22))
    shares = [Share("record", 0.2), Share("learn", 0.4), Share("dream", 0.2), Share("survival", 0.2)]
    return night.Night(run.config(), run, Budget(3600.0, shares), Ears())


def ends(after: int, errors: list[Exception]):
    """Recordings that end with these errors, one after another, each after so many episodes."""
    honest = evening.record

    def record(*arguments, **named):
        if not after:
            raise errors.pop(0)
        for number, episode in enumerate(honest(*arguments, **named)):
            if number == after and errors:
                raise errors.pop(0)
            yield episode

    return record


def test_recording_goes_on_after_a_simulator_that_failed(sleeper, monkeypatch):
    errors = [ProcessLostError("simulator process 1 of 1 died (signal 11)"), SimulatorError("it failed:\nTraceback")]
    monkeypatch.setattr(evening, "record", ends(3, errors))
    sleeper.phase("record", record_logs)
    assert sleeper.state.done == ["record"] and errors == []
    assert sleeper.state.warnings == sleeper.listener.notes == [
        "recording went on with episode 3: simulator process 1 of 1 died (signal 11)",
        "recording went on with episode 6: it failed",
    ]  # fmt: skip
    logs = LogReader(sleeper.run.episodes)
    assert len({episode["info"]["seed"] for episode in logs.episodes}) == len(logs) == 22


def test_a_simulator_that_always_fails_ends_the_night(sleeper, monkeypatch):
    monkeypatch.setattr(evening, "record", ends(0, [ProcessLostError(f"died of {i}") for i in range(9)]))
    with pytest.raises(ProcessLostError):
        sleeper.phase("record", record_logs)
    assert len(sleeper.state.warnings) == 3 and sleeper.state.done == []


@pytest.mark.parametrize("room", [5, 21])
def test_a_disk_that_is_full_while_recording(sleeper, monkeypatch, room):
    honest = LogWriter.append

    def append(writer, episode):
        if len(writer) == room:
            raise UserError("no space left") from OSError(errno.ENOSPC, "No space left on device")
        honest(writer, episode)

    monkeypatch.setattr(LogWriter, "append", append)
    if room < evening.FEWEST_LOGS:
        with pytest.raises(UserError, match="no space left"):
            sleeper.phase("record", record_logs)
        return
    sleeper.phase("record", record_logs)
    assert sleeper.state.done == ["record"] and len(LogReader(sleeper.run.episodes)) == room
    assert sleeper.state.warnings == ["the disk is full: 21 of 22 episodes were recorded"]


def test_an_audit_that_cannot_be_timed_is_a_small_one(sleeper):
    class Auditor:
        def affordable(self, *_):
            raise ProcessLostError("a process hung: no answer in time")

    assert morning._affordable(sleeper, Auditor(), 3, 10.0, None) == 2
    assert "hung" in sleeper.state.warnings[0]


def test_what_the_disk_has_no_room_for_is_learnt_from_all_the_same(sleeper, monkeypatch):
    """The dream phase begins with the clone that waits to be saved."""
    waits = {"dreamer": {"updates": 0}}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "policy-cloned-000000001.pt")

    sleeper.saving("policy-cloned", full, "folder", "policy-cloned", 1, waits, {})
    assert sleeper.saved("policy-cloned") == waits
    assert len(sleeper.state.warnings) == 1 and "saving pauses" in sleeper.state.warnings[0]
