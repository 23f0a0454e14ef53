"""Crash safety and honesty of the log folder."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import UserError
from worldmodel.episode import Episode
from worldmodel.storage import LogReader, LogWriter, make_schema

SCHEMA = make_schema("toy", 20, ["x_m", "y_m", "vx_m_s"], ["u", "v"], [-1, -2], [1, 2])
CAMERA = make_schema("toy", 20, ["x_m", "y_m", "vx_m_s"], ["u", "v"], [-1, -2], [1, 2], image_shape=(5, 5, 3))


def episode(number: int, camera: bool = False) -> Episode:
    """Every value says where it comes from: episode, array, row, column."""
    steps = 2 + number % 4

    def values(array: int, *shape: int) -> np.ndarray:
        return (number * 10_000 + array * 1000 + np.arange(np.prod(shape)).reshape(shape)).astype(np.float32)

    observation = {"vector": values(1, steps + 1, 3)}
    if camera:
        observation["image"] = np.random.default_rng(number).integers(0, 256, (steps + 1, 5, 5, 3)).astype(np.uint8)
    return Episode(
        observation=observation,
        action=values(2, steps, 2),
        applied_action=values(3, steps, 2),
        reward=values(4, steps),
        push=values(5, steps),
        demonstrated=values(6, steps, 2),
        terminated=number % 2 == 0,
        truncated=number % 2 == 1,
        physics={"floor_friction": 0.1 * number},
        info={"task": "toy", "seed": number, "note": "π\n"},
    )


def write(folder: Path, numbers, schema=SCHEMA) -> None:
    with LogWriter(folder, schema) as writer:
        for number in numbers:
            writer.append(episode(number, camera="image" in schema["observation"]))


def assert_same(read: Episode, written: Episode) -> None:
    assert read.observation.keys() == written.observation.keys()
    for key, array in written.observation.items():
        np.testing.assert_array_equal(read.observation[key], array)
        assert read.observation[key].dtype == array.dtype
    for key in ("action", "applied_action", "demonstrated", "reward", "push"):
        np.testing.assert_array_equal(getattr(read, key), getattr(written, key))
        assert getattr(read, key).dtype == np.float32
    for key in ("terminated", "truncated", "physics", "info"):
        assert getattr(read, key) == getattr(written, key)


def assert_holds(folder: Path, numbers, camera: bool = False) -> None:
    reader = LogReader(folder)
    assert len(reader) == len(numbers)
    for i, number in enumerate(numbers):
        assert_same(reader.episode(i), episode(number, camera))
    assert reader.verify() == []


@pytest.mark.parametrize("schema", [SCHEMA, CAMERA], ids=["vector", "camera"])
def test_episodes_come_back_as_they_went_in_over_several_sessions(tmp_path, schema):
    write(tmp_path / "a" / "logs", range(3), schema)
    write(tmp_path / "a" / "logs", range(3, 5), schema)
    assert_holds(tmp_path / "a" / "logs", range(5), camera=schema is CAMERA)


def test_a_reading_of_an_episode_is_a_copy(tmp_path):
    write(tmp_path, range(1))
    LogReader(tmp_path).episode(0).action[:] = -1
    assert_holds(tmp_path, range(1))


@pytest.mark.parametrize("count", [1, 12])
def test_numpy_alone_reads_the_rows(tmp_path, count):
    write(tmp_path, range(count), CAMERA)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r", allow_pickle=False)
    reader = LogReader(tmp_path)
    assert len(rows) == reader.total_rows == sum(episode(i).length + 1 for i in range(count))
    assert rows.dtype == reader.rows.dtype
    np.testing.assert_array_equal(rows, reader.rows)
    images = np.load(tmp_path / "images.npy", mmap_mode="r", allow_pickle=False)
    assert len(images) == len(rows)
    np.testing.assert_array_equal(images["image"][:3], episode(0, camera=True).observation["image"])
    assert not rows["action"][episode(0).length].any()  # the last row of an episode has no action


def test_a_reader_follows_a_writer(tmp_path):
    with LogWriter(tmp_path, SCHEMA) as writer:
        for number in range(3):
            writer.append(episode(number))
            assert_holds(tmp_path, range(number + 1))


def cut(folder: Path, name: str, size: int) -> Path:
    copy = folder.parent / "cut"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    os.truncate(copy / name, size)
    return copy


def test_cut_anywhere_in_the_index_every_complete_line_reads_back_and_appending_goes_on(tmp_path):
    whole = tmp_path / "whole"
    write(whole, range(4))
    text = (whole / "episodes.jsonl").read_bytes()
    for size in range(0, len(text) + 1, 3):
        copy = cut(whole, "episodes.jsonl", size)
        complete = text[:size].count(b"\n")
        if complete:
            assert_holds(copy, range(complete))
        else:
            with pytest.raises(UserError, match="no episodes"):
                LogReader(copy)
        if size % 5 == 0:
            write(copy, range(complete, complete + 2))
            assert_holds(copy, range(complete + 2))
            assert len(np.load(copy / "rows.npy")) == LogReader(copy).total_rows


def test_rows_of_an_append_that_never_reached_the_index_are_ignored_then_written_over(tmp_path):
    whole = tmp_path / "whole"
    write(whole, range(4))
    lines = (whole / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    end = (whole / "rows.npy").stat().st_size
    row = LogReader(whole).rows.dtype.itemsize
    last = (episode(3).length + 1) * row
    for size in range(end - last, end + 1, 7):
        copy = cut(whole, "rows.npy", size)
        (copy / "episodes.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
        assert_holds(copy, range(3))
        write(copy, [3, 4])
        assert_holds(copy, range(5))


def test_rows_shorter_than_the_index_says_are_an_error_whose_advice_works(tmp_path):
    whole = tmp_path / "whole"
    write(whole, range(4))
    size = (whole / "rows.npy").stat().st_size
    header = size - LogReader(whole).total_rows * LogReader(whole).rows.dtype.itemsize
    ends = [
        header + (r["start"] + r["length"] + 1) * LogReader(whole).rows.dtype.itemsize
        for r in LogReader(whole).episodes
    ]
    for cut_at in [0, 5, header, *range(header + 1, size, 11), size - 1]:
        copy = cut(whole, "rows.npy", cut_at)
        kept = sum(end <= cut_at for end in ends)
        for opening in (LogReader, lambda folder: LogWriter(folder, SCHEMA)):
            with pytest.raises(UserError, match=rf"rows.npy is cut short.* first {kept} lines of episodes.jsonl"):
                opening(copy)
        lines = (whole / "episodes.jsonl").read_bytes().splitlines(keepends=True)
        assert (copy / "episodes.jsonl").read_bytes() == b"".join(lines)  # the writer lost nothing
        (copy / "episodes.jsonl").write_bytes(b"".join(lines[:kept]))
        write(copy, [kept])
        assert_holds(copy, range(kept + 1))


@pytest.mark.parametrize("version", [1, 2])
def test_images_are_taken_from_any_rows(tmp_path, version):
    write(tmp_path, range(6), {**CAMERA, "version": version})
    reader = LogReader(tmp_path)
    images = np.concatenate([reader.episode(i).observation["image"] for i in range(6)])
    random = np.random.default_rng(0)
    for rows in (
        np.arange(len(images)),
        random.integers(0, len(images), (3, 5)),
        random.integers(0, len(images) - 4, (7, 1)) + np.arange(4),
        np.arange(5)[::-1],
        np.full((2, 3), len(images) - 1),
        np.zeros((0, 4), np.int64),
    ):
        np.testing.assert_array_equal(reader.take_images(rows), images[rows])


@pytest.mark.parametrize("name", ["rows.npy", "images.npy"])
def test_with_a_camera_either_file_of_an_append_may_be_torn(tmp_path, name):
    whole = tmp_path / "whole"
    write(whole, range(3), CAMERA)
    lines = (whole / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    size = (whole / name).stat().st_size
    per_row = (LogReader(whole).rows.dtype.itemsize, 5 * 5 * 3)[name == "images.npy"]
    for left in (0, 7, per_row, 2 * per_row + 1, 5 * per_row):
        copy = cut(whole, name, size - left)
        if left:
            with pytest.raises(UserError, match=f"{name} is cut short"):
                LogReader(copy)
        (copy / "episodes.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:9])
        write(copy, [2, 5], CAMERA)
        assert_holds(copy, [0, 1, 2, 5], camera=True)
    copy = cut(whole, name, size)
    with open(copy / name, "r+b") as file:
        file.seek(size - 1 - per_row)
        byte = file.read(1)[0]
        file.seek(size - 1 - per_row)
        file.write(bytes([byte ^ 1]))
    assert LogReader(copy).verify() == [2]
    with pytest.raises(UserError, match="have changed since they were written"):
        LogReader(copy).check()


def test_logs_of_before_images_had_a_file_of_their_own_still_read(tmp_path):
    write(tmp_path, range(3), {**CAMERA, "version": 1})
    assert not (tmp_path / "images.npy").exists()
    assert_holds(tmp_path, range(3), camera=True)
    images = LogReader(tmp_path).images
    assert images is not None and images.shape == (LogReader(tmp_path).total_rows, 5, 5, 3)


@settings(max_examples=25, deadline=None)
@given(garbage=st.binary(max_size=200).filter(lambda data: b"\n" not in data), zeros=st.integers(0, 100))
def test_garbage_behind_the_last_line_is_a_torn_tail(tmp_path_factory, garbage, zeros):
    folder = tmp_path_factory.mktemp("log")
    write(folder, range(2))
    with open(folder / "episodes.jsonl", "ab") as index, open(folder / "rows.npy", "ab") as rows:
        index.write(garbage + bytes(zeros))
        rows.write(garbage)
    assert_holds(folder, range(2))
    write(folder, [2])
    assert_holds(folder, range(3))


def test_a_crash_at_any_write_of_the_first_opening_leaves_a_folder_that_opens(tmp_path, monkeypatch):
    class Crash(BaseException):
        pass

    opened_at = 99
    real = {name: getattr(os, name) for name in ("replace", "open", "pwrite", "ftruncate")}
    for crash_at in range(12):
        folder = tmp_path / str(crash_at)
        calls = 0

        def crashing(name, crash_at=crash_at):
            def call(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls > crash_at:
                    raise Crash
                return real[name](*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, crashing(name))
            with contextlib.suppress(Crash):
                LogWriter(folder, SCHEMA).close()
                opened_at = min(opened_at, crash_at)
        write(folder, [0])
        assert_holds(folder, [0])
    assert 4 < opened_at < 12  # every step of an opening was tried


WRITE_UNTIL_KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from test_storage import SCHEMA, episode
from worldmodel.storage import LogWriter
with LogWriter(sys.argv[1], SCHEMA) as writer:
    while True:
        writer.append(episode(len(writer)))
        print(len(writer), flush=True)
"""


def test_killed_while_writing_what_was_acknowledged_is_there(tmp_path, root):
    acknowledged, draw = 0, random.Random(0)
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, tmp_path / "log", root, Path(__file__).parent]
    for _ in range(4):
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        acknowledged = int(writer.stdout.readline())
        time.sleep(draw.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int(([str(acknowledged), *writer.stdout.read().split()])[-1])
        writer.wait()
        there = len(LogReader(tmp_path / "log"))
        assert there >= acknowledged
        assert_holds(tmp_path / "log", range(there))


def test_a_flipped_bit_is_found_in_rows_and_in_the_index(tmp_path):
    whole = tmp_path / "whole"
    write(whole, range(3))
    reader = LogReader(whole)
    size = (whole / "rows.npy").stat().st_size
    first = size - reader.total_rows * reader.rows.dtype.itemsize
    for position in range(first, size, 13):
        copy = cut(whole, "rows.npy", size)
        with open(copy / "rows.npy", "r+b") as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 4]))
        row = (position - first) // reader.rows.dtype.itemsize
        hit = [i for i, r in enumerate(reader.episodes) if r["start"] <= row <= r["start"] + r["length"]]
        assert LogReader(copy).verify() == hit
    text = (whole / "episodes.jsonl").read_text().replace('"floor_friction": 0.1', '"floor_friction": 0.9')
    (whole / "episodes.jsonl").write_text(text)
    assert LogReader(whole).verify() == [1]
    with pytest.raises(UserError, match=r"1 of 3 episodes have changed since they were written \(1\)"):
        LogReader(whole).check()


@pytest.mark.parametrize("room", [0, 10, 150, 250])  # in the middle of the rows, and of the index line
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_is_one_clear_error_and_leaves_what_there_was(tmp_path, monkeypatch, room, number):
    write(tmp_path, range(2))
    before = (tmp_path / "episodes.jsonl").read_bytes()
    real, left = os.pwrite, room

    def full(file, data, offset):
        nonlocal left
        if left <= 0:
            raise OSError(number, os.strerror(number))
        written = real(file, data[:left], offset)
        left -= written
        return written

    with LogWriter(tmp_path, SCHEMA) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            words = "no space left on the disk" if number == errno.ENOSPC else "Input/output error"
            with pytest.raises(
                UserError, match=f"{words} while writing episode 2 to .*; the episodes before it are safe"
            ):
                writer.append(episode(2))
        assert (tmp_path / "episodes.jsonl").read_bytes() == before
        assert_holds(tmp_path, range(2))
        writer.append(episode(2))  # somebody made room
    assert_holds(tmp_path, range(3))


def test_interrupted_between_rows_and_index_the_writer_stays_sound(tmp_path, monkeypatch):
    with LogWriter(tmp_path, SCHEMA) as writer:
        writer.append(episode(0))
        real, calls = os.pwrite, 0

        def interrupted(file, data, offset):
            nonlocal calls
            calls += 1
            written = real(file, data[:30], offset) if calls == 1 or len(data) < 100 else real(file, data, offset)
            if calls == 4:
                raise KeyboardInterrupt
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", interrupted)
            with pytest.raises(KeyboardInterrupt):
                for _ in range(3):
                    writer.append(episode(1))
        count = len(writer)
        writer.append(episode(7))
    assert_holds(tmp_path, [0, *[1] * (count - 1), 7])


def test_two_writers_do_not_meet(tmp_path):
    with LogWriter(tmp_path, SCHEMA), pytest.raises(UserError, match="being written by another process"):
        LogWriter(tmp_path, SCHEMA)
    write(tmp_path, [0])


def edited(schema: dict, **changes) -> dict:
    return {**json.loads(json.dumps(schema)), **changes}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (edited(SCHEMA, task="hopper"), 'another kind: task there is "toy", here "hopper"'),
        (edited(SCHEMA, control_hz=50.0), "control_hz there is 20.0, here 50.0"),
        (CAMERA, "observation image there is null, here"),
        (make_schema("toy", 20, ["x", "y_m", "vx_m_s"], ["u", "v"], [-1, -2], [1, 2]), "observation vector names"),
        (make_schema("toy", 20, ["x_m", "y_m", "vx_m_s"], ["u"], [-1], [1]), "action names"),
    ],
)
def test_logs_of_another_kind_are_not_mixed(tmp_path, schema, words):
    write(tmp_path, range(2))
    with pytest.raises(UserError, match=words):
        LogWriter(tmp_path, schema)
    assert_holds(tmp_path, range(2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control_hz": 0}, "control_hz is 0"),
        ({"task": None}, "lacks a valid task"),
        ({"version": 3}, "version 3; this program reads versions 1 and 2"),
        ({"observation": {}}, 'lacks "vector"'),
        ({"observation": {"vector": {"dtype": "float32"}}}, "needs a shape and a dtype"),
        ({"observation": {**SCHEMA["observation"], "push": {"shape": [], "dtype": "float32"}}}, 'called "push"'),
        ({"action": {"names": ["u"], "low": [], "high": [1]}}, "as many names as low and high"),
        ({"action": {"names": ["u"], "low": [0], "high": [float("inf")]}}, "not plain JSON"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        LogWriter(tmp_path / "new", edited(SCHEMA) | changes)
    assert not (tmp_path / "new").exists()


def replaced(**changes) -> Episode:
    changed = episode(1)
    for key, value in changes.items():
        setattr(changed, key, value)
    return changed


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (replaced(reward=np.array([0, np.nan, 0], np.float32)), "episode 1: reward is nan in row 1"),
        (replaced(observation={"vector": np.zeros((4, 2), np.float32)}), r"vector has shape \(4, 2\), .*hold \(4, 3\)"),
        (replaced(observation=episode(1, camera=True).observation), "has vector, image; these logs hold vector"),
        (replaced(action=np.full((3, 2), 1e300)), "action in row 0 is too large for float32"),
        (replaced(action=np.full((3, 2), 1j)), "action holds complex128"),
        (replaced(info={"seed": {1, 2}}), "plain JSON"),
        (replaced(info={"score": float("nan")}), "plain JSON"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_the_log_goes_on(tmp_path, bad, words):
    with LogWriter(tmp_path, SCHEMA) as writer:
        writer.append(episode(0))
        with pytest.raises(UserError, match=words):
            writer.append(bad)
        writer.append(episode(1))
    assert_holds(tmp_path, range(2))


def test_an_image_must_be_bytes(tmp_path):
    bad = episode(0, camera=True)
    bad.observation["image"] = bad.observation["image"].astype(np.float32)
    with LogWriter(tmp_path, CAMERA) as writer, pytest.raises(UserError, match="image is float32, .* hold uint8"):
        writer.append(bad)


def test_numpy_numbers_and_number_keys_in_info_become_json(tmp_path):
    with LogWriter(tmp_path, SCHEMA) as writer:
        writer.append(replaced(info={"seed": np.int64(3), 5: np.float32(0.5)}, physics={"slope_deg": np.float32(0.1)}))
    reader = LogReader(tmp_path)
    assert reader.episode(0).info == {"seed": 3, "5": 0.5}
    assert reader.verify() == []


def test_what_cannot_be_read_says_what_would_have_worked(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a folder that record-rollouts wrote"):
        LogReader(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a log folder"):
        LogReader(tmp_path / "file")
    with pytest.raises(UserError, match="is a file; logs need a folder"):
        LogWriter(tmp_path / "file", SCHEMA)
    LogWriter(tmp_path / "run" / "episodes", SCHEMA).close()
    with pytest.raises(UserError, match="no schema.json in it.*did you mean .*run/episodes"):
        LogReader(tmp_path / "run")
    with pytest.raises(UserError, match="holds no episodes; record some"):
        LogReader(tmp_path / "run" / "episodes")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(5))
    with pytest.raises(UserError, match="holds rows.npy but no schema.json; choose a new or an empty folder"):
        LogWriter(tmp_path, SCHEMA)
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), np.arange(5))


def test_damaged_files_are_named(tmp_path):
    whole = tmp_path / "whole"
    write(whole, range(3))
    size = (whole / "rows.npy").stat().st_size

    copy = cut(whole, "rows.npy", size)
    lines = (copy / "episodes.jsonl").read_text().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(UserError, match="episodes.jsonl line 2 is damaged; .* keep the first 1 episodes"):
        LogReader(copy)
    (copy / "episodes.jsonl").write_text(lines[0] + lines[2])  # a line is missing
    with pytest.raises(UserError, match="line 2 is damaged"):
        LogReader(copy)

    copy = cut(whole, "schema.json", 40)
    with pytest.raises(UserError, match="schema.json is damaged"):
        LogReader(copy)

    copy = cut(whole, "rows.npy", size)
    (copy / "rows.npy").unlink()
    with pytest.raises(UserError, match="rows.npy is missing"):
        LogReader(copy)

    np.save(copy / "rows.npy", np.zeros((50, 50)))
    with pytest.raises(UserError, match="does not hold the rows that schema.json describes"):
        LogReader(copy)
