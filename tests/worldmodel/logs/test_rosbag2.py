"""rosbag2 folders and MCAP files, written by the `rosbags` and `mcap` packages, and hostile ones."""

import contextlib
import io
import json
import sqlite3
import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from damage import check_survives
from hypothesis import given
from hypothesis import strategies as st
from raw_logs import read_raw, refused

from configs import UserError
from worldmodel.logs.importing import as_log_folder
from worldmodel.logs.ros_messages import UndecodableError, decoder
from worldmodel.logs.rosbag2 import FORMAT
from worldmodel.storage import LogReader

pytest.importorskip("rosbags", reason="rosbags is not installed (the extra ros)")
pytest.importorskip("mcap", reason="mcap is not installed (the extra ros)")

from mcap.writer import CompressionType  # noqa: E402
from mcap.writer import Writer as McapWriter  # noqa: E402
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

STORE = get_typestore(Stores.ROS2_HUMBLE)
T = STORE.types
START_S, HZ = 1_700_000_000, 50
JOINTS = ["shoulder", "elbow"]
MIXED = """
bool flag
int16[3] small
string word
float64 big
uint8[] picture
float32[<=4] few
geometry_msgs/Point[2] corners
string[] names
int64 last
"""


def stamp(step: int, hz: float = HZ, start_s: int = START_S) -> Any:
    total_ns = start_s * 10**9 + round(step * 1e9 / hz)
    return T["builtin_interfaces/msg/Time"](sec=total_ns // 10**9, nanosec=total_ns % 10**9)


def joint_state(step: int, names: Sequence[str] = JOINTS, start_s: int = START_S) -> Any:
    """Joint k at `step` is at 10 step + k."""
    header = T["std_msgs/msg/Header"](stamp=stamp(step, start_s=start_s), frame_id="base")
    order = [JOINTS.index(name) if name in JOINTS else 7 for name in names]
    position = 10.0 * step + np.array(order, np.float64)
    return T["sensor_msgs/msg/JointState"](header, list(names), position, -position, np.zeros(0))


def twist(step: int) -> Any:
    vector = T["geometry_msgs/msg/Vector3"]
    return T["geometry_msgs/msg/Twist"](vector(float(step), 0.0, 0.0), vector(0.0, 0.0, 2.0 * step))


def write_bag(folder: Path, plugin: Any = StoragePlugin.MCAP, packed: bool = False, steps: int = 40, **options) -> Path:
    """Joint states at 50 Hz, logged 3 ms after their stamps; commands at 10 Hz, without stamps; text."""
    writer = Writer(folder, version=9, storage_plugin=plugin)
    if packed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        joints, commands, text = (
            writer.add_connection(name, kind, typestore=STORE)
            for name, kind in {
                "/joint_states": "sensor_msgs/msg/JointState",
                "/cmd_vel": "geometry_msgs/msg/Twist",
                "/rosout": "std_msgs/msg/String",
            }.items()
        )
        for step in range(steps):
            logged_ns = START_S * 10**9 + step * 10**9 // HZ
            message = joint_state(step, **options)
            writer.write(joints, logged_ns + 3_000_000, STORE.serialize_cdr(message, message.__msgtype__))
            if step % 5 == 0:
                writer.write(commands, logged_ns, STORE.serialize_cdr(twist(step), "geometry_msgs/msg/Twist"))
                said = STORE.serialize_cdr(T["std_msgs/msg/String"]("hello"), "std_msgs/msg/String")
                writer.write(text, logged_ns, said)
    return folder


def write_mcap(path: Path, compression: Any = CompressionType.ZSTD, messages: int = 30, **options) -> Path:
    with open(path, "wb") as file:
        writer = McapWriter(file, compression=compression, chunk_size=400, **options)
        writer.start()
        schema = writer.register_schema("pose", "jsonschema", b"{}")
        channel = writer.register_channel("pose", "json", schema)
        other = writer.register_channel("camera", "protobuf", schema)
        for i in range(messages):
            content = {"x": i, "at": {"y": [i / 2, -i]}, "name": "pose", "ok": True, "wide": [0] * 65}
            writer.add_message(channel, i * 10**8, json.dumps(content).encode(), i * 10**8)
        writer.add_message(other, 0, b"\x08\x01", 0)
        writer.finish()
    return path


read, fails = partial(read_raw, FORMAT), partial(refused, FORMAT)


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("packed", [False, True])
def test_a_bag_of_several_rates(tmp_path, plugin, packed):
    (raw,) = read(write_bag(tmp_path / "drive", plugin, packed))
    steps = np.arange(40)
    np.testing.assert_array_equal(raw.columns["/joint_states.position[elbow]"], 10 * steps + 1)
    np.testing.assert_array_equal(raw.columns["/joint_states.velocity[shoulder]"], -10 * steps)
    np.testing.assert_allclose(raw.clocks["/joint_states.position[elbow]"], steps / HZ, atol=1e-9)  # by the stamps
    np.testing.assert_array_equal(raw.columns["/cmd_vel.angular.z"], 2 * steps[::5])
    np.testing.assert_allclose(raw.clocks["/cmd_vel.angular.z"], steps[::5] / HZ, atol=1e-9)  # when logged
    assert raw.time_s is None and not any("rosout" in name for name in raw.columns)
    assert raw.where == str(tmp_path / "drive")


def test_a_bag_becomes_logs_by_a_mapping(tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        yaml.safe_dump(
            {
                "task": "cart",
                "control_hz": 10,
                "observation": {"columns": {"elbow_rad": "/joint_states.position[elbow]"}},
                "action": {"columns": {"speed_m_s": "/cmd_vel.linear.x"}},
            }
        )
    )
    logs = LogReader(as_log_folder(write_bag(tmp_path / "drive"), tmp_path / "logs", mapping))
    np.testing.assert_allclose(logs.episode(0).observation["vector"][:, 0], 1 + 50 * np.arange(8), rtol=1e-6)
    np.testing.assert_allclose(logs.episode(0).action[:, 0], 5 * np.arange(7), rtol=1e-6)


def test_only_topics_that_the_mapping_names_are_read(tmp_path):
    from worldmodel.logs.mapping import Channels, LogMapping

    seen, sent = Channels(columns={"x": "/cmd_vel.linear.x"}), Channels(columns={"z": "/cmd_vel.angular.z"})
    mapping = LogMapping("cart", seen, sent)
    (raw,) = FORMAT.read(write_bag(tmp_path / "drive"), mapping).episodes()
    assert {name.partition(".")[0] for name in raw.columns} == {"/cmd_vel"}


def test_joints_are_known_by_name_whatever_their_order(tmp_path):
    (raw,) = read(write_bag(tmp_path / "drive", names=["elbow", "shoulder"]))
    np.testing.assert_array_equal(raw.columns["/joint_states.position[elbow]"], 10 * np.arange(40) + 1)
    (raw,) = read(write_bag(tmp_path / "alike", names=["elbow", "elbow"]))  # no names for two columns
    np.testing.assert_array_equal(raw.columns["/joint_states.position[1]"], 10 * np.arange(40) + 1)


def test_stamps_of_another_clock_are_not_used(tmp_path):
    (raw,) = read(write_bag(tmp_path / "drive", start_s=0))  # a simulation's
    first, *_ = raw.clocks["/joint_states.position[elbow]"]
    assert first == pytest.approx(0.003)  # when logged
    assert raw.repairs["messages of /joint_states timed by when they were logged, as their stamps are not"] == 40


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
@pytest.mark.parametrize("options", [{}, {"use_chunking": False}, {"use_statistics": False}])
def test_mcap_of_json(tmp_path, compression, options):
    (raw,) = read(write_mcap(tmp_path / "log.mcap", compression, **options))
    assert set(raw.columns) == {"pose.x", "pose.at.y[0]", "pose.at.y[1]", "pose.ok"}
    np.testing.assert_array_equal(raw.columns["pose.at.y[0]"], np.arange(30) / 2)
    np.testing.assert_allclose(raw.clocks["pose.x"], np.arange(30) / 10)
    assert any("topics left out: camera" in repair and "protobuf" in repair for repair in raw.repairs)
    assert raw.source == "log.mcap"


def test_a_folder_holds_a_recording_a_file_or_folder(tmp_path):
    write_bag(tmp_path / "runs" / "b")
    write_mcap(tmp_path / "runs" / "a.mcap")
    assert [raw.source for raw in read(tmp_path / "runs")] == ["a.mcap", "b"]


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("drive", {"drive"}),  # a recording's folder
        ("drive/*", {"drive"}),  # or a file of it
        ("drive.mcap", {"drive", "more/drive.mcap"}),
        ("*.mcap", {"drive", "drive_slow", "more/drive.mcap"}),
    ],
)
def test_which_recordings_by_pattern(tmp_path, pattern, found):
    from worldmodel.logs.mapping import Channels, LogMapping

    (tmp_path / "more").mkdir()
    for name in ("drive", "drive_slow"):
        write_bag(tmp_path / name)
    write_mcap(tmp_path / "more" / "drive.mcap")
    both = Channels(columns={"x": "/cmd_vel.linear.x", "y": "pose.x"})
    mapping = LogMapping("cart", both, both, files=pattern)
    assert {raw.source for raw in FORMAT.read(tmp_path, mapping).episodes()} == found
    assert len(list(FORMAT.read(tmp_path / "drive", replace(mapping, files="none")).episodes())) == 1  # named itself
    with pytest.raises(UserError, match="holds no recordings among none"):
        FORMAT.read(tmp_path, replace(mapping, files="none"))


@pytest.mark.parametrize("little_endian", [True, False])
def test_every_kind_of_field_as_rosbags_writes_it(little_endian):
    """Its serialiser is an independent account of CDR's alignment."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(MIXED, "test_msgs/msg/Mixed"))
    point, random = store.types["geometry_msgs/msg/Point"], np.random.default_rng(0)
    for length in range(9):  # of a text, which moves what follows by bytes
        small, few = random.integers(-99, 99, 3).astype(np.int16), random.normal(size=length % 5).astype(np.float32)
        big, last = random.normal(), int(random.integers(2**60))
        corners: list[Any] = [point(*random.normal(size=3)) for _ in range(2)]
        mixed = store.types["test_msgs/msg/Mixed"](
            True, small, "w" * length, big, np.zeros(99 + length, np.uint8), few, corners, ["a"] * length, last
        )
        data = bytes(store.serialize_cdr(mixed, "test_msgs/msg/Mixed", little_endian=little_endian))
        found = decoder("cdr", "ros2msg", MIXED.encode(), "test_msgs/msg/Mixed")(data)
        assert found == {
            "flag": 1.0,
            **{f"small[{i}]": small[i] for i in range(3)},
            "big": big,
            **{f"few[{i}]": few[i] for i in range(len(few))},
            **{f"corners[{i}].{axis}": getattr(corners[i], axis) for i in range(2) for axis in "xyz"},
            "last": last,
        }


@pytest.mark.parametrize(
    "definition, data, words",
    [
        ("float64[4000000000] x", bytes(64), "end before their fields do"),
        ("float64[] x", struct.pack("<4xI", 4_000_000_000), "end before their fields do"),
        ("string x", struct.pack("<4xI", 4_000_000_000), "end before their fields do"),
        ("test_msgs/Other x", bytes(64), "lacks test_msgs/msg/Other"),
        ("test_msgs/Mixed x", bytes(64), "nests it without end"),
        ("test_msgs/A[1000000] x\n" + "=" * 80 + "\nMSG: test_msgs/A\nint8 Z=1\n", bytes(64), "far shorter"),
        ("wstring x", bytes(64), "definition"),
        ("float64 x\x00", bytes(64), "definition of test_msgs/msg/Mixed is damaged"),
        ("import os", bytes(64), "lacks test_msgs/msg/import"),
        ("x" * 2**19, bytes(64), "MiB"),
    ],
)
def test_hostile_definitions(definition, data, words):
    with pytest.raises((UndecodableError, UserError), match=words):
        decoder("cdr", "ros2msg", definition.encode(), "test_msgs/msg/Mixed")(b"\0\1\0\0" + data[4:])


def test_definitions_are_not_run(monkeypatch):
    """`rosbags` would generate code from them."""
    import builtins

    monkeypatch.setattr(builtins, "exec", lambda *_: pytest.fail("code was run"))
    monkeypatch.setattr(builtins, "eval", lambda *_: pytest.fail("code was run"))
    decode = decoder("cdr", "ros2msg", b"float64 x", "test_msgs/msg/Mixed")
    assert decode(b"\0\1\0\0" + struct.pack("<d", 1.5)) == {"x": 1.5}


def test_json_without_end_is_left_out(tmp_path):
    decode = decoder("json", "", b"", "")
    assert decode(b'{"a": [1, {"b": 2.5}], "c": "d"}') == {"a[0]": 1.0, "a[1].b": 2.5}
    for hostile in (b"[" * 100_000, b"{", b"\xff", b'{"a": 1' + b"0" * 400 + b"}"):
        with pytest.raises(UndecodableError):
            decode(hostile)


def change_metadata(folder: Path, **changes: object) -> Path:
    path = folder / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"] |= changes
    path.write_text(yaml.safe_dump(content))
    return folder


def test_metadata_that_leads_out_of_the_folder(tmp_path):
    secret = write_bag(tmp_path / "secret") / "secret.mcap"
    for path in ("../secret/secret.mcap", str(secret)):
        folder = write_bag(tmp_path / f"bag{len(path)}")
        fails(change_metadata(folder, relative_file_paths=[path]), "metadata.yaml", "outside")
    folder = write_bag(tmp_path / "linked")
    (folder / "linked.mcap").unlink()
    (folder / "linked.mcap").symlink_to(secret)
    fails(folder, "outside")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"relative_file_paths": []}, "relative_file_paths"),
        ({"relative_file_paths": [7]}, "relative_file_paths"),
        ({"relative_file_paths": ["gone.mcap"]}, "gone.mcap is missing"),
        ({"relative_file_paths": ["metadata.yaml"]}, "neither MCAP nor SQLite"),
        ({"compression_mode": "FILE", "compression_format": "zstd"}, "unpack them"),
    ],
)
def test_wrong_metadata(tmp_path, changes, words):
    fails(change_metadata(write_bag(tmp_path / "bag"), **changes), words)


def test_metadata_that_is_no_metadata(tmp_path):
    folder = write_bag(tmp_path / "bag")
    for text in ("rosbag2_bagfile_information: [", "rosbag2_bagfile_information: 7", "!!python/name:os.getcwd ''"):
        (folder / "metadata.yaml").write_text(f"{text}\n# rosbag2_bagfile_information")
        fails(folder, "metadata.yaml")


def test_a_computed_cell_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.db3"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER,"
            " data BLOB GENERATED ALWAYS AS (zeroblob(900000000)) VIRTUAL);"
            "INSERT INTO topics VALUES(1, '/a', 'std_msgs/msg/Float64', 'cdr');"
            "INSERT INTO messages(topic_id, timestamp) VALUES(1, 0);"
        )
    connection.close()
    fails(path, "bomb.db3 is damaged", "too big")


def test_messages_that_are_not_in_the_database_yet_are_not_forgotten(tmp_path):
    folder = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    (folder / "bag.db3-wal").write_bytes(b"1")
    fails(folder, "bag.db3-wal", "wal_checkpoint")


def bomb(path: Path, claimed: int) -> Path:
    """A chunk that says it unpacks to `claimed` bytes, and unpacks to many more."""
    import zstandard

    packed = zstandard.ZstdCompressor().compress(bytes(2**28))
    body = struct.pack("<QQQII4sQ", 0, 0, claimed, 0, 4, b"zstd", len(packed)) + packed
    path.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, len(body)) + body)
    return path


def test_a_chunk_that_swells_is_not_unpacked(tmp_path):
    import tracemalloc

    small, large = bomb(tmp_path / "small.mcap", 1000), bomb(tmp_path / "large.mcap", 2**40)
    tracemalloc.start()
    fails(small, "small.mcap is damaged at byte 8", "does not hold what it should")
    fails(large, "the chunk at byte 8", "MiB")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_a_packed_message_that_swells_is_not_unpacked(tmp_path):
    import zstandard

    folder = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, packed=True)
    with sqlite3.connect(folder / "bag.db3") as connection:
        packed = zstandard.ZstdCompressor().compress(bytes(2**27))
        connection.execute("UPDATE messages SET data = ? WHERE id = 3", (packed,))
    connection.close()
    fails(folder, "a message of", "MiB")


def test_a_recording_that_was_cut_off_is_used_as_far_as_it_goes(tmp_path):
    whole = write_mcap(tmp_path / "log.mcap", messages=300).read_bytes()
    (tmp_path / "log.mcap").write_bytes(whole[: len(whole) // 2])
    (raw,) = read(tmp_path / "log.mcap")
    assert 50 < len(raw.columns["pose.x"]) < 300
    np.testing.assert_array_equal(raw.columns["pose.x"], np.arange(len(raw.columns["pose.x"])))
    assert raw.repairs["recordings cut off: what came before is used"] == 1


@pytest.mark.parametrize("name", ["log.mcap", "bag.mcap", "bag.db3", "metadata.yaml"])
def test_a_damaged_file_never_gives_more_than_a_message(tmp_path, name):
    if name == "log.mcap":
        path = write_mcap(tmp_path / name)
        check_survives(FORMAT, path, path)
    else:
        plugin = StoragePlugin.SQLITE3 if name == "bag.db3" else StoragePlugin.MCAP
        folder = write_bag(tmp_path / "bag", plugin, steps=10)
        check_survives(FORMAT, folder, folder / name)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message(data):
    decode = decoder("cdr", "ros2msg", MIXED.encode(), "test_msgs/msg/Mixed")
    with contextlib.suppress(UndecodableError):
        assert all(isinstance(number, int | float) for number in decode(b"\0\1\0\0" + data).values())


def test_nothing_to_read_says_why(tmp_path):
    with open(tmp_path / "a.mcap", "wb") as file:
        writer = McapWriter(file)
        writer.start()
        writer.finish()
    fails(tmp_path / "a.mcap", "gives no numbers", "no messages")
    buffer = io.BytesIO()
    writer = McapWriter(buffer)
    writer.start()
    writer.add_message(writer.register_channel("camera", "protobuf", 0), 0, b"", 0)
    writer.finish()
    (tmp_path / "a.mcap").write_bytes(buffer.getvalue())
    fails(tmp_path / "a.mcap", "topics left out: camera", "protobuf")
