"""LeRobotDataset v3 folders, laid out as huggingface/lerobot writes them, and hostile ones."""

import json
import os
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from damage import check_survives
from raw_logs import read_raw, refused

from configs import UserError
from worldmodel.logs.importing import as_log_folder, import_logs
from worldmodel.logs.lerobot import FORMAT
from worldmodel.logs.parquet_footer import column_chunks
from worldmodel.storage import LogReader

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra lerobot)")
pq = pytest.importorskip("pyarrow.parquet")

LENGTHS = (5, 3, 4)
HZ = 10
MOTORS = ["shoulder.pos", "elbow.pos", "grip.pos"]
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def scalar(dtype: str) -> dict:
    return {"dtype": dtype, "shape": [1], "names": None}


FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": MOTORS}},
    "observation.images.top": {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]},
    "observation.light": scalar("float32"),
    "action": {"dtype": "float32", "shape": [3], "names": MOTORS},
    "next.reward": scalar("float32"),
    "next.done": scalar("bool"),
    "next.success": scalar("bool"),
    "timestamp": scalar("float32"),
    "frame_index": scalar("int64"),
    "episode_index": scalar("int64"),
    "index": scalar("int64"),
    "task_index": scalar("int64"),
}


def rows(episode: int, fixed: bool):
    """Every number names its episode, frame and column."""
    length = LENGTHS[episode]
    frames = np.arange(length)
    state = (100 * episode + 10 * frames[:, None] + np.arange(3)).astype(np.float32)
    kind = pa.list_(pa.float32(), 3) if fixed else pa.list_(pa.float32())
    last = frames == length - 1
    first = sum(LENGTHS[:episode])
    return pa.table(
        {
            "observation.state": pa.array(state.tolist(), kind),
            "observation.light": pa.array(frames / 2, pa.float32()),
            "action": pa.array((-state).tolist(), kind),
            "next.reward": pa.array(frames, pa.float32()),
            "next.done": last,
            "next.success": last & (episode == 1),
            "timestamp": pa.array(frames / HZ, pa.float32()),
            "frame_index": frames,
            "episode_index": np.full(length, episode),
            "index": frames + first,
            "task_index": np.zeros(length, np.int64),
        }
    )


def write(folder: Path, files: dict[int, tuple[int, ...]] | None = None, fixed: bool = False, **info: object) -> Path:
    """Args:
    files: which episodes lie in which file.
    """
    files = files or {0: (0, 1), 1: (2,)}
    for number, episodes in files.items():
        path = folder / DATA.format(chunk_index=0, file_index=number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([rows(episode, fixed) for episode in episodes]), path, row_group_size=3)
    where = {episode: number for number, episodes in files.items() for episode in episodes}
    meta = {
        "episode_index": list(where),
        "data/chunk_index": [0] * len(where),
        "data/file_index": list(where.values()),
        "tasks": [["Lift the cube."]] * len(where),
        "length": [LENGTHS[episode] for episode in where],
        "stats/action/min": [[0.0]] * len(where),
    }
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(meta), folder / "meta/episodes/chunk-000/file-000.parquet")
    contents = {
        "codebase_version": "v3.0",
        "robot_type": "so101",
        "fps": HZ,
        "splits": {"train": "0:3"},
        "data_path": DATA,
        "features": FEATURES,
        **info,
    }
    (folder / "meta/info.json").write_text(json.dumps(contents))
    return folder


read = partial(read_raw, FORMAT)


def fails(path: Path, *words: str) -> None:
    refused(FORMAT, path, str(path), *words)


@pytest.mark.parametrize("fixed", [False, True])
def test_episodes_of_several_in_a_file(tmp_path, fixed):
    episodes = read(write(tmp_path, fixed=fixed))
    assert [len(episode.columns["action"]) for episode in episodes] == list(LENGTHS)
    for i, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.columns["observation.state"], -episode.columns["action"])
        np.testing.assert_array_equal(episode.columns["observation.state"][2], 100 * i + 20 + np.arange(3))
        assert episode.time_s is None  # frames are even, to a rounding
        assert episode.labels == {"lerobot_task": "Lift the cube."}
        assert any("observation.images.top" in repair for repair in episode.repairs)
    assert [episode.terminated for episode in episodes] == [False, True, False]
    assert episodes[1].where.endswith("data/chunk-000/file-000.parquet: episode 1")
    assert episodes[2].source == "data/chunk-000/file-001.parquet"
    assert not {"index", "frame_index", "task_index", "episode_index"} & set(episodes[0].columns)


def test_the_draft_has_the_datasets_own_names_and_rate(tmp_path):
    mapping = FORMAT.draft(write(tmp_path, splits={"train": "0:2", "Testing": "2:3"}))
    assert mapping is not None
    assert (mapping.task, mapping.control_hz, mapping.reward) == ("so101: Lift the cube.", HZ, "next.reward")
    assert mapping.observation.columns == {
        "shoulder_pos": "observation.state[0]",
        "elbow_pos": "observation.state[1]",
        "grip_pos": "observation.state[2]",
        "light": "observation.light",
    }
    assert mapping.action.columns["elbow_pos"] == "action[1]"
    assert mapping.split == "split"
    assert [episode.labels["split"] for episode in read(tmp_path)] == ["train", "train", "test"]


def test_names_that_do_not_fit_are_not_used(tmp_path):
    features = FEATURES | {"action": {"dtype": "float32", "shape": [3], "names": ["x", "y"]}}
    mapping = FORMAT.draft(write(tmp_path, features=features))
    assert mapping is not None and list(mapping.action.columns) == ["action_0", "action_1", "action_2"]


def test_frames_off_the_stated_rate_keep_their_stamps(tmp_path):
    (first, *_) = read(write(tmp_path, fps=20))
    np.testing.assert_allclose(first.time_s, np.arange(5) / HZ, atol=1e-6)


def test_another_rate_resamples_what_is_even_at_its_own(tmp_path):
    folder = write(tmp_path / "set")
    mapping = FORMAT.draft(folder)
    assert mapping is not None
    logs = LogReader(import_logs(FORMAT, folder, tmp_path / "logs", replace(mapping, control_hz=5)))
    assert [logs.episode(i).length for i in range(2)] == [2, 1]  # of 5 and 3 frames: 0.4 and 0.2 s
    np.testing.assert_allclose(logs.episode(0).observation["vector"][:, 0], [0, 20, 40])
    np.testing.assert_allclose(logs.episode(0).reward, [0 + 1, 2 + 3])
    kept = replace(mapping, control_hz=None, dt_s=1 / HZ)
    assert all(episode.time_s is None for episode in FORMAT.read(folder, kept).episodes())


def test_an_older_dataset_is_told_how_to_become_v3(tmp_path):
    fails(write(tmp_path, codebase_version="v2.1"), "v2.1", "convert_dataset_v21_to_v30")


def test_what_contradicts_itself_is_named(tmp_path):
    folder = write(tmp_path / "long")
    pq.write_table(rows(1, False), folder / DATA.format(chunk_index=0, file_index=1))
    fails(folder, "file-001.parquet: episode 1", "meta/episodes does not say so")
    folder = write(tmp_path / "short")
    pq.write_table(rows(2, False)[:3], folder / DATA.format(chunk_index=0, file_index=1))
    fails(folder, "episode 2 has 3 frames", "says 4")
    folder = write(tmp_path / "part")
    pq.write_table(rows(0, False), folder / DATA.format(chunk_index=0, file_index=0))
    fails(folder, "lacks episode 1")
    folder = write(tmp_path / "missing")
    (folder / DATA.format(chunk_index=0, file_index=1)).unlink()
    fails(folder, "file-001.parquet is missing")


@pytest.mark.parametrize(
    "info, words",
    [
        ({"data_path": "../../secret/{chunk_index}.parquet"}, ("outside",)),
        ({"data_path": "/etc/passwd"}, ("outside",)),
        ({"data_path": "{chunk_index.__class__}"}, ("expected chunk_index and file_index",)),
        ({"data_path": "{chunk_index:0999999999d}"}, ("expected chunk_index and file_index",)),
        ({"data_path": "data/\0"}, ("no usable path",)),
        ({"data_path": "a" * 5000}, ("a" * 20,)),
        ({"data_path": 7}, ("data_path",)),
        ({"fps": 0}, ("fps",)),
        ({"fps": "ten"}, ("fps",)),
        ({"features": []}, ("features",)),
        ({"features": {"action": scalar("float32")}}, ("episode_index",)),
        ({"features": FEATURES | {"action": {"dtype": "float32", "shape": [2**40]}}}, ("MiB",)),
        ({"features": FEATURES | {"action": {"dtype": "float32", "shape": [2]}}}, ("action", "numbers in", "of 2")),
        ({"features": FEATURES | {"velocity": scalar("float32")}}, ("lacks the column velocity",)),
    ],
)
def test_hostile_metadata(tmp_path, info, words):
    fails(write(tmp_path / "set", **info), *words)


def test_the_footer_agrees_with_pyarrow(tmp_path):
    """On a file of many columns and kinds, with statistics, in several groups of rows."""
    path = tmp_path / "table.parquet"
    tables = [rows(episode, fixed=False) for episode in range(3)]
    pq.write_table(pa.concat_tables(tables), path, row_group_size=5, write_page_index=True, compression="zstd")
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    expected = [(group.column(i), group.num_rows) for group in groups for i in range(group.num_columns)]
    found = column_chunks(path)
    assert [(one.path, one.values, one.rows) for one in found] == [
        (column.path_in_schema, column.num_values, count) for column, count in expected
    ]
    assert len(found) == 3 * len(tables[0].column_names)


def test_a_column_in_another_file_is_not_read(tmp_path):
    collected: list = []
    pq.write_to_dataset(rows(0, False), tmp_path / "set", metadata_collector=collected)
    pq.write_metadata(rows(0, False).schema, tmp_path / "points", metadata_collector=collected)
    with pytest.raises(UserError, match="points: a column lies in another file"):
        column_chunks(tmp_path / "points")


def test_links_that_lead_out_are_not_followed(tmp_path):
    folder, secret = write(tmp_path / "set"), tmp_path / "secret.parquet"
    data = folder / DATA.format(chunk_index=0, file_index=0)
    os.replace(data, secret)
    data.symlink_to(secret)
    fails(folder, "outside", "cp -rL")


def test_text_where_numbers_should_be(tmp_path):
    folder = write(tmp_path)
    table = rows(2, False)
    place = table.schema.get_field_index("next.reward")
    table = table.set_column(place, "next.reward", pa.array(["much"] * 4))
    pq.write_table(table, folder / DATA.format(chunk_index=0, file_index=1))
    fails(folder, "file-001.parquet", "next.reward holds string")


def varint(number: int) -> bytes:
    """As Thrift's compact protocol writes it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def test_a_column_that_swells_is_refused_before_it_is_made(tmp_path):
    """A row of a hundred million equal numbers takes a few bytes in the file."""
    folder = write(tmp_path)
    table = rows(2, False)
    swollen = pa.ListArray.from_arrays([0, 1, 2, 3, 2**20], pa.array(np.zeros(2**20, np.float32)))
    table = table.set_column(table.schema.get_field_index("action"), "action", swollen)
    path = folder / DATA.format(chunk_index=0, file_index=1)
    pq.write_table(table, path)
    assert path.stat().st_size < 20_000
    fails(folder, "file-001.parquet: action has 1,048,576 numbers in 4 rows of 3")
    # The footer may lie about it: the pages are asked too.
    count, claimed = (bytes([0x16]) + varint(2 * values) for values in (2**20, 12))
    content = path.read_bytes().replace(count, claimed)
    taken = (len(count) - len(claimed)) * path.read_bytes().count(count)
    (length,) = struct.unpack("<I", content[-8:-4])
    path.write_bytes(content[:-8] + struct.pack("<I", length - taken) + b"PAR1")
    assert pq.read_table(path).num_rows == 4  # pyarrow would make them
    fails(folder, "file-001.parquet: action.list.element has more numbers than its rows can")


@pytest.mark.parametrize(
    "name", ["meta/info.json", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"]
)
def test_a_damaged_file_never_gives_more_than_a_message(tmp_path, name):
    folder = write(tmp_path / "set")
    check_survives(FORMAT, folder, folder / name)


def test_frames_of_no_episode_are_named(tmp_path):
    folder = write(tmp_path)
    table = rows(2, False)
    place = table.schema.get_field_index("episode_index")
    table = table.set_column(place, "episode_index", pa.array([2, 2, None, 2]))
    pq.write_table(table, folder / DATA.format(chunk_index=0, file_index=1))
    fails(folder, "file-001.parquet", "episode_index has 1 rows without a number")


def test_it_needs_no_mapping(tmp_path):
    logs = LogReader(as_log_folder(write(tmp_path / "set"), tmp_path / "logs"))
    assert [logs.episode(i).length for i in range(3)] == [4, 2, 3]
    assert [logs.episode(i).terminated for i in range(3)] == [False, True, False]
    assert (logs.schema["task"], logs.schema["control_hz"]) == ("so101: Lift the cube.", HZ)
    np.testing.assert_array_equal(logs.episode(2).observation["vector"][3], [230, 231, 232, 1.5])
    np.testing.assert_array_equal(logs.episode(2).action[1], [-210, -211, -212])
    np.testing.assert_array_equal(logs.episode(0).reward, np.arange(4))
    assert logs.episode(0).info["lerobot_task"] == "Lift the cube."
