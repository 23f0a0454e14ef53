"""Replay folders of DreamerV3: one that the official code wrote is read, ours is read by it and by us."""

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from damage import check_survives
from raw_logs import read_raw, refused
from toy_logs import named_after_origin, with_images

from configs import UserError
from worldmodel.logs.dreamer_chunks import FORMAT, ROWS, write_chunks
from worldmodel.logs.importing import as_log_folder
from worldmodel.storage import LogReader

RECORDED = Path(__file__).parents[2] / "reference" / "replay"
OFFICIAL = os.environ.get("DREAMERV3_PYTHON"), os.environ.get("DREAMERV3_CODE")


read, fails = partial(read_raw, FORMAT), partial(refused, FORMAT)


@pytest.fixture
def recorded(tmp_path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "replay"))


def test_what_the_official_code_wrote(recorded):
    """Numbers name environment, episode and step (tests/reference/replay.py)."""
    episodes = read(recorded)
    lengths = [(0, 0, 3), (0, 1, 9), (1, 0, 5), (1, 1, 2), (1, 2, 4)]
    assert len(episodes) == len(lengths)
    for raw, (environment, number, length) in zip(episodes, lengths, strict=True):
        names = 1000 * environment + 100 * number + np.arange(length + 1)
        np.testing.assert_array_equal(raw.columns["position"], np.stack([names, -names], 1))
        np.testing.assert_array_equal(raw.columns["action"][:, 0], names[:-1])
        np.testing.assert_allclose(raw.columns["reward"], names[1:] / 10, rtol=1e-6)
        np.testing.assert_array_equal(raw.columns["image"][:, 0, 0, 0], np.arange(length + 1))
        assert raw.terminated == (number == 0)
        assert set(raw.columns) == {"position", "image", "action", "reward"}


def test_it_needs_no_mapping(recorded, tmp_path):
    logs = LogReader(as_log_folder(recorded, tmp_path / "logs"))
    assert logs.schema["action"]["names"] == ["action_0", "action_1", "action_2"]
    assert logs.schema["observation"]["vector"]["names"] == ["position_0", "position_1"]
    assert [logs.episode(i).length for i in range(len(logs))] == [3, 9, 5, 2, 4]
    assert [logs.episode(i).terminated for i in range(len(logs))] == [True, False, True, False, False]
    np.testing.assert_allclose(logs.episode(1).reward, 10 + np.arange(1, 10) / 10, rtol=1e-6)
    assert logs.episode(0).observation["image"].shape == (4, 64, 64, 3)


def test_a_stream_whose_first_chunks_are_gone(recorded):
    min(recorded.iterdir()).unlink()
    first, *_ = read(recorded)
    np.testing.assert_array_equal(first.columns["position"][:, 0], 100 + np.arange(1, 10))
    assert any("without their beginning" in repair for repair in first.repairs)


def test_what_we_write_we_read(tmp_path):
    lengths = [ROWS - 1, 1, 2 * ROWS, 7]  # the first fills a chunk to the last row
    episodes = named_after_origin(lengths, [True, False, True, False])
    assert write_chunks(episodes, tmp_path / "replay") == sum(lengths) + len(lengths)
    names = sorted(path.name for path in (tmp_path / "replay").iterdir())
    assert [int(name.split("-")[3].removesuffix(".npz")) for name in names] == [1024, 1024, 1024, 11]
    assert [name.split("-")[2] for name in names[:-1]] == [name.split("-")[1] for name in names[1:]]
    again = read(tmp_path / "replay")
    assert len(again) == len(episodes)
    for ours, raw in zip(episodes, again, strict=True):
        np.testing.assert_array_equal(ours.observation["vector"], raw.columns["vector"])
        np.testing.assert_array_equal(ours.action, raw.columns["action"])
        np.testing.assert_array_equal(ours.reward, raw.columns["reward"])
        assert ours.terminated == raw.terminated
    with pytest.raises(UserError, match="already holds"):
        write_chunks(episodes, tmp_path / "replay")


@pytest.mark.skipif(None in OFFICIAL, reason="DREAMERV3_PYTHON and DREAMERV3_CODE name no official DreamerV3")
def test_the_official_code_reads_what_we_write(tmp_path):
    python, code = OFFICIAL
    assert python and code
    lengths, terminated = [5, ROWS, 3], [True, False, False]
    episodes = [with_images(episode) for episode in named_after_origin(lengths, terminated)]
    write_chunks(episodes, tmp_path / "replay")
    script = RECORDED.parent / "replay.py"
    done = subprocess.run(
        [python, str(script), "load", str(tmp_path / "replay")],
        env={**os.environ, "PYTHONPATH": code, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    rows = {key: np.array([item[0] for item in items]) for key, items in found["rows"].items()}
    total = sum(lengths) + len(lengths)
    assert found["items"] == total - 1  # items of two rows out of one stream
    whole = np.concatenate([episode.observation["vector"] for episode in episodes])
    np.testing.assert_allclose(rows["vector"], whole[:-1])
    starts = np.cumsum([0, *(length + 1 for length in lengths)])[:-1]
    np.testing.assert_array_equal(np.flatnonzero(rows["is_first"]), starts)
    np.testing.assert_array_equal(np.flatnonzero(rows["is_last"]), starts[1:] - 1)
    np.testing.assert_array_equal(np.flatnonzero(rows["is_terminal"]), [5])
    for start, episode in zip(starts, episodes, strict=True):
        np.testing.assert_allclose(rows["action"][start : start + episode.length], episode.action)
        reward = rows["reward"][start : start + episode.length]
        np.testing.assert_allclose(reward, [0, *episode.reward[:-1]])
    assert found["batch"]["image"] == ["uint8", [4, 2, 64, 64, 3]]
    assert found["batch"]["reward"] == ["float32", [4, 2]] and found["batch"]["is_first"] == ["bool", [4, 2]]


NAME = f"20260101T000000F000000-{'1' * 22}-{'0' * 22}-4.npz"


def chunk(folder: Path, name: str = NAME, **changes) -> Path:
    arrays = {
        "position": np.zeros((4, 2), np.float32),
        "action": np.zeros((4, 1), np.float32),
        "reward": np.zeros(4, np.float32),
        "is_first": np.arange(4) == 0,
        "is_last": np.arange(4) == 3,
        "is_terminal": np.zeros(4, bool),
        **changes,
    }
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, **{key: value for key, value in arrays.items() if value is not None})
    return folder


class Hostile:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_wrong_contents_are_named(tmp_path):
    fails(chunk(tmp_path / "a", position=np.zeros((3, 2))), "-4.npz: position has shape (3, 2)", "4 rows")
    fails(chunk(tmp_path / "b", reward=None), "lacks reward")
    fails(chunk(tmp_path / "c", action=np.arange(4)), "choices")
    fails(chunk(tmp_path / "d", action=np.array(["left"] * 4)), "lacks action as numbers")
    names = [f"20260101T000000F00000{i}-{i}{'1' * 21}-{1 - i}{'1' * 21}-4.npz" for i in range(2)]
    fails(chunk(chunk(tmp_path / "e", names[0]), names[1]), "in a circle")
    names = [f"20260101T000000F00000{i}-{i}{'1' * 21}-{1 + i}{'1' * 21}-4.npz" for i in range(2)]
    fails(chunk(chunk(tmp_path / "f", names[0]), names[1], speed=np.zeros(4)), "differ in what they hold: speed")
    fails(chunk(chunk(tmp_path / "g", names[0]), names[1], is_first=np.zeros(4, bool), is_last=None), "differ")


def test_a_pickle_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = np.empty(4, object)
    hostile[:] = Hostile()
    fails(chunk(tmp_path / "a", position=hostile), "position", "numbers")
    folder = chunk(tmp_path / "b")
    with zipfile.ZipFile(next(folder.iterdir()), "a") as archive:
        archive.writestr("speed.npy", pickle.dumps(Hostile()))
    fails(folder, "speed")
    assert not (tmp_path / "pwned").exists()


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.logs.npz.MOST", 2**20)
    folder = chunk(tmp_path / "a")
    with zipfile.ZipFile(next(folder.iterdir()), "a", zipfile.ZIP_DEFLATED) as archive, archive.open(
        "speed.npy", "w", force_zip64=True
    ) as member:
        header = {"descr": "<f8", "fortran_order": False, "shape": (4, 2**17)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(2**22))
    assert next(folder.iterdir()).stat().st_size < 2**14
    fails(folder, "speed", "would unpack")


def test_a_damaged_file_never_gives_more_than_a_message(tmp_path):
    folder = chunk(tmp_path / "replay")
    check_survives(FORMAT, folder, folder / NAME)
