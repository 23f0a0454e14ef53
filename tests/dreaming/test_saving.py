"""A full disk: saving pauses, what was saved stays, and it goes on when there is room again."""

import errno

import pytest
import torch

from dreaming.run import RunFolder
from dreaming.saving import RETRY_S, Saving, no_space


class Disk:
    """With room for so many more writes."""

    def __init__(self, room: int) -> None:
        self.room, self.written, self.at, self.told = room, [], 0.0, []

    def write(self, what: object) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device", "some file")
        self.room -= 1
        self.written.append(what)

    def saving(self) -> Saving:
        return Saving(self.told.append, lambda: self.at)


def test_what_does_not_fit_waits_and_comes_in_its_order():
    disk = Disk(1)
    saving = disk.saving()
    assert saving("model", disk.write, "model 1") and not saving.full
    assert not saving("model", disk.write, "model 2") and saving.full
    weights = torch.zeros(3)
    saving("policy", disk.write, weights)
    saving("model", disk.write, "model 3")
    weights += 1
    assert disk.written == ["model 1"] and len(disk.told) == 1 and "some file" in disk.told[0]
    waiting = saving.waiting("policy")
    assert waiting and torch.equal(waiting[0], torch.zeros(3)), "as it was when it was to be saved"
    assert saving.waiting("progress") is None
    disk.room, disk.at = 9, 2 * RETRY_S
    assert saving("progress", disk.write, "progress") and not saving.full
    model, policy, progress = disk.written[1:]
    assert torch.equal(policy, torch.zeros(3)) and (model, progress) == ("model 3", "progress")
    assert len(disk.told) == 2 and "after 20 seconds" in disk.told[1]


def test_a_full_disk_is_not_tried_all_the_time():
    disk = Disk(0)
    saving = disk.saving()
    saving("model", disk.write, 1)
    disk.room = 1
    assert not saving("model", disk.write, 2), "it was tried a moment ago"
    disk.at = RETRY_S
    assert saving("model", disk.write, 3) and disk.written == [3]


def test_what_else_goes_wrong_is_raised():
    def broken():
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        Disk(0).saving()("model", broken)
    assert not no_space(PermissionError(errno.EACCES, "Permission denied")) and not no_space(None)
    wrapped = RuntimeError("of ours")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert no_space(wrapped)


def test_a_night_that_is_over_waits_for_room_but_not_for_ever(monkeypatch):
    disk = Disk(0)
    saving = disk.saving()
    saving.settle()
    saving("model", disk.write, 1)

    def sleep(seconds):
        disk.at += seconds
        disk.room = int(disk.at == 5)

    monkeypatch.setattr("time.sleep", sleep)
    saving.settle(wait_s=10.0)
    assert disk.written == [1]
    saving("model", disk.write, 2)
    with pytest.raises(OSError, match="model"):
        saving.settle(wait_s=10.0)
    with pytest.raises(OSError):
        saving.settle(stopped=lambda: True)


def test_metrics_are_appended_whole_or_not_at_all(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"step": 1}, {"step": 2})
    # Python ignores SIGXFSZ: a write beyond the limit is cut short, and the next one an error, as on a full disk.
    resource = pytest.importorskip("resource")
    size = run.metrics.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        with pytest.raises(OSError):
            run.log({"step": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.read_metrics() == [{"step": 1}, {"step": 2}] and run.metrics.stat().st_size == size
    run.log({"step": 4})
    assert run.read_metrics()[-1] == {"step": 4}
