import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs import UserError
from worldmodel import checkpoint


def save(folder: Path, step: int) -> Path:
    state = {"weight": torch.full((1000,), float(step)), "numbers": [step, 2**100], "name": "x"}
    return checkpoint.save(folder, "m", step, state, {"size": "debug"})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path, 7)
    state, meta, step = checkpoint.load(tmp_path, "m")
    assert torch.equal(state["weight"], torch.full((1000,), 7.0))
    assert (state["numbers"], state["name"], meta, step) == ([7, 2**100], "x", {"size": "debug"}, 7)


def test_the_json_beside_it_is_readable(tmp_path):
    path = save(tmp_path, 7)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["step"] == 7 and manifest["meta"] == {"size": "debug"} and len(manifest["sha256"]) == 64


def test_the_last_three_are_kept_and_nothing_else_lies_around(tmp_path):
    for step in (1, 2, 30, 400, 5000):
        save(tmp_path, step)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"m-{step:09d}.{kind}" for step in (30, 400, 5000) for kind in ("json", "pt")]
    assert checkpoint.newest_step(tmp_path, "m") == 5000


def test_names_do_not_disturb_each_other(tmp_path):
    save(tmp_path, 1)
    checkpoint.save(tmp_path, "m-best", 9, {"a": 1}, {})
    assert checkpoint.load(tmp_path, "m")[2] == 1
    assert checkpoint.load(tmp_path, "m-best")[2] == 9


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_damaged_newest_gives_way_to_the_one_before(tmp_path, damage):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    assert checkpoint.load(tmp_path, "m")[2] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 3}'])
def test_a_damaged_json_gives_way_to_the_one_before(tmp_path, text):
    save(tmp_path, 1)
    save(tmp_path, 2).with_suffix(".json").write_text(text)
    assert checkpoint.load(tmp_path, "m")[2] == 1


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_change_of_any_byte_is_noticed(tmp_path, suffix):
    save(tmp_path, 1)
    path = save(tmp_path, 2).with_suffix(suffix)
    whole = path.read_bytes()
    assert checkpoint.damaged(tmp_path) == []
    for at in range(0, len(whole), max(1, len(whole) // 97)):
        for flipped in (1, 0x2A):  # 0x2A makes a line break of a space, which JSON does not mind
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])
            assert checkpoint.load(tmp_path, "m")[2] == 1, (at, flipped)
            (text,) = checkpoint.damaged(tmp_path)
            assert text.startswith("m-000000002.pt (")
    path.write_bytes(whole)
    assert checkpoint.load(tmp_path, "m")[2] == 2


def test_checkpoints_from_before_manifests_were_signed_still_load(tmp_path):
    path = save(tmp_path, 1).with_suffix(".json")
    manifest = json.loads(path.read_text())
    assert list(manifest) == ["name", "step", "sha256", "meta", "manifest_sha256"]
    del manifest["manifest_sha256"]
    path.write_text(json.dumps(manifest))
    assert checkpoint.load(tmp_path, "m")[2] == 1


def test_with_none_left_the_error_names_each(tmp_path):
    flip_a_bit(save(tmp_path, 1))
    cut_in_half(save(tmp_path, 2))
    save(tmp_path, 3).with_suffix(".json").unlink()
    with pytest.raises(UserError) as caught:
        checkpoint.load(tmp_path, "m")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("m-000000001.pt (cut short or altered", "m-000000002.pt", "m-000000003.pt (its .json is missing"):
        assert part in message
    assert len(list(tmp_path.glob("*.pt"))) == 3  # what is there is left for a closer look


def test_none_at_all_says_what_makes_one(tmp_path):
    with pytest.raises(UserError, match="no 'm' checkpoint in .*; train-world-model or dream makes one"):
        checkpoint.load(tmp_path, "m")


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    checkpoint.save(tmp_path, "m", 1, {"trap": Trap()}, {})
    with pytest.raises(UserError, match="m-000000001.pt"):
        checkpoint.load(tmp_path, "m")
    assert not (tmp_path / "sprung").exists()


def test_a_full_disk_leaves_the_older_checkpoints_and_no_litter(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2)
    assert checkpoint.load(tmp_path, "m")[2] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_atomic_writing_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "config.yaml"
    checkpoint.write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_process_killed_while_saving_loses_nothing(tmp_path):
    """Saves in a loop in another process, kills it (-9) at different moments: a good checkpoint is always there."""
    code = (
        "import sys, torch; from pathlib import Path; from worldmodel import checkpoint\n"
        "for step in range(1, 10**6):\n"
        "    checkpoint.save(Path(sys.argv[1]), 'm', step, {'w': torch.full((500_000,), float(step))}, {})\n"
        "    print(step, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for _ in range(4):
        process.stdout.readline()
    time.sleep(0.013)
    process.kill()
    rest = process.stdout.read().split()
    process.wait()
    state, _, step = checkpoint.load(tmp_path, "m")
    assert step >= int(rest[-1] if rest else 4)
    assert torch.equal(state["w"], torch.full((500_000,), float(step)))
    save(tmp_path, step + 1)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("newest", [None, 1, 2])
@pytest.mark.parametrize("moment", ["the manifest", "the network"])
def test_a_step_that_is_saved_anew_is_there_whenever_that_is_cut_off(tmp_path, monkeypatch, newest, moment):
    """A night saves its world model twice in a row, and its clone again and again, each under one step."""
    for number in range(1, 1 + (newest or 0)):
        checkpoint.save(tmp_path, "m", 7, {"number": number}, {"of": number})
    replace = os.replace

    def killed(source, target):
        if Path(target).suffix == (".json" if moment == "the manifest" else ".pt"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        checkpoint.save(tmp_path, "m", 7, {"number": 3}, {"of": 3})
    assert checkpoint.damaged(tmp_path) == []
    assert checkpoint.exists(tmp_path, "m") == (newest is not None)
    if newest:
        assert checkpoint.load(tmp_path, "m") == ({"number": newest}, {"of": newest}, 7)
    checkpoint.save(tmp_path, "m", 8, {"number": 4}, {"of": 4})
    assert checkpoint.load(tmp_path, "m")[0] == {"number": 4}
