"""Every format, end to end: files damaged, empty, of another kind, or made to fill the memory or to lead elsewhere.

What is asked of each: an import or a UserError that names the file, the logs as they were, nothing read from outside.
"""

import io
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_logs import CART, cart, write_csv

from configs import UserError, load_yaml
from worldmodel.logs import npz, parquet
from worldmodel.logs.describe import describe
from worldmodel.logs.importing import as_log_folder
from worldmodel.storage import LogReader

pq = pytest.importorskip("pyarrow.parquet", reason="the extras of all formats are needed")
h5py = pytest.importorskip("h5py")
pytest.importorskip("rosbags")
pytest.importorskip("mcap")

import pyarrow as pa  # noqa: E402
from rosbags.rosbag2 import StoragePlugin  # noqa: E402
from test_hdf5 import write_d4rl, write_minari, write_robomimic  # noqa: E402
from test_lerobot import DATA  # noqa: E402
from test_lerobot import write as write_lerobot  # noqa: E402
from test_rosbag2 import write_bag, write_mcap  # noqa: E402

CHUNKS = Path(__file__).parents[2] / "reference" / "replay"
BAG = {
    "task": "arm",
    "control_hz": 20,
    "observation": {"columns": {"shoulder_rad": "/joint_states.position[shoulder]"}},
    "action": {"columns": {"speed_m_s": "/cmd_vel.linear.x"}},
}
POSE = {**BAG, "observation": {"columns": {"x_m": "pose.x"}}, "action": {"columns": {"y_m": "pose.at.y[0]"}}}
ARRAYS = {
    "task": "cart",
    "control_hz": 10,
    "observation": {"array": "obs", "names": ["x_m", "v_m_s"]},
    "action": {"array": "act", "names": ["force_N"]},
}


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def samples() -> dict[str, np.ndarray]:
    return {"obs": np.random.default_rng(0).normal(size=(2, 9, 2)), "act": np.zeros((2, 9, 1))}


def one(folder: Path, name: str, write: Callable[[Path], object]) -> tuple[Path, Path]:
    folder.mkdir()
    write(folder / name)
    return folder, folder / name


def within(folder: Path, name: str, write: Callable[[Path], object]) -> tuple[Path, Path]:
    write(folder)
    return folder, folder / name


def of_chunks(folder: Path) -> tuple[Path, Path]:
    shutil.copytree(CHUNKS, folder)
    return folder, max(folder.iterdir())


# Each: the logs, and the file of them that is hurt. With the mapping where the format needs one.
LOGS: dict[str, tuple[Callable[[Path], tuple[Path, Path]], dict | None]] = {
    "csv": (lambda at: one(at, "log.csv", lambda path: write_csv(path, cart())), CART),
    "parquet": (lambda at: one(at, "log.parquet", lambda path: pq.write_table(pa.table(cart()), path)), CART),
    "npz": (lambda at: one(at, "log.npz", lambda path: save(path, samples())), ARRAYS),
    "dreamer": (of_chunks, None),
    "minari": (lambda at: within(at, "data/main_data.hdf5", lambda path: write_minari(path, 2)), None),
    "minari metadata": (lambda at: within(at, "data/metadata.json", lambda path: write_minari(path, 2)), None),
    "robomimic": (lambda at: one(at, "log.hdf5", lambda path: write_robomimic(path, 2)), None),
    "d4rl": (lambda at: one(at, "log.hdf5", write_d4rl), None),
    "lerobot info": (lambda at: within(at, "meta/info.json", write_lerobot), None),
    "lerobot episodes": (lambda at: within(at, "meta/episodes/chunk-000/file-000.parquet", write_lerobot), None),
    "lerobot data": (lambda at: within(at, DATA.format(chunk_index=0, file_index=0), write_lerobot), None),
    "bag metadata": (lambda at: within(at, "metadata.yaml", write_bag), BAG),
    "bag of mcap": (lambda at: within(at, f"{at.name}.mcap", write_bag), BAG),
    "bag of sqlite": (
        lambda at: within(at, f"{at.name}.db3", lambda path: write_bag(path, StoragePlugin.SQLITE3)),
        BAG,
    ),
    "mcap": (lambda at: one(at, "log.mcap", write_mcap), POSE),
}


@pytest.fixture(scope="module", params=LOGS, ids=lambda kind: kind.replace(" ", "-"))
def whole(request, tmp_path_factory) -> tuple[Path, Path, Path | None]:
    at = tmp_path_factory.mktemp("whole")
    make, content = LOGS[request.param]
    logs, file = make(at / "logs")
    mapping = at / "mapping.yaml" if content else None
    if mapping:
        mapping.write_text(yaml.safe_dump(content, sort_keys=False))
    assert len(LogReader(as_log_folder(logs, at / "into", mapping)))  # what is hurt below is whole here
    shutil.rmtree(at / "into")
    return logs, file, mapping


def check_survives(logs: Path, file: Path, mapping: Path | None, content: bytes, described: bool = False) -> None:
    """Import or UserError that names the logs; the files as they were."""
    before, kept = file.read_bytes(), sorted(logs.rglob("*"))
    file.write_bytes(content)
    into = logs.parent / "into"
    try:
        try:
            LogReader(as_log_folder(logs, into, mapping)).check()
        except UserError as error:
            assert logs.name in str(error) or str(into) in str(error), error
        try:
            assert not any("\x1b" in line for line in (describe(logs) if described else ()))
        except UserError as error:
            assert str(error)
        assert file.read_bytes() == content and sorted(logs.rglob("*")) == kept
        assert not Path(f"{into}.importing").exists()
    finally:
        shutil.rmtree(into, ignore_errors=True)
        file.write_bytes(before)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere(whole, data):
    logs, file, mapping = whole
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        at = data.draw(st.integers(0, len(content) - 1), label="at")
        size = data.draw(st.integers(0, 8), label="taken")
        content[at : at + size] = data.draw(st.binary(max_size=8), label="put")
        content = content or bytearray(b"x")
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)), label="cut to")]
    check_survives(logs, file, mapping, bytes(content))


def test_empty_cut_short_of_another_kind_or_of_nonsense(whole, tmp_path):
    logs, file, mapping = whole
    content = file.read_bytes()
    table = write_csv(tmp_path / "a.csv", {**cart(), "force": ["many"] * 21}).read_bytes()
    strangers = [b"", content[: len(content) // 2], content[:-1], content[4:], content * 2, table, bytes(5000)]
    strangers += [save(tmp_path / "a.npz", {"obs": np.array(["text"])}).read_bytes(), b"[" * 3000, b"{}", b"\xff" * 99]
    for stranger in strangers:
        check_survives(logs, file, mapping, stranger, described=True)


def test_links_out_of_the_folder_are_not_read(whole, tmp_path):
    logs, file, mapping = whole
    secret = tmp_path / "secret"
    file.rename(secret)
    file.symlink_to(secret)
    into = tmp_path / "into"
    try:
        as_log_folder(logs, into, mapping)
        assert not any(file.name in str(entry["info"].get("source")) for entry in LogReader(into).episodes)
    except UserError as error:
        assert str(error)
    finally:
        file.unlink()
        secret.rename(file)


def test_a_mapping_that_leads_out_of_the_folder_is_not_read(tmp_path):
    logs = write_csv(tmp_path / "logs" / "log.csv", cart()).parent
    (tmp_path / "secret.yaml").write_text("password: [hunter2")
    (logs / "mapping.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(UserError, match="mapping.yaml'?, outside .*; nothing outside is read") as error:
        as_log_folder(logs, tmp_path / "into")
    assert "hunter2" not in str(error.value)


def test_the_mapping_of_a_folder_is_found_where_it_holds_a_single_file(tmp_path):
    logs = write_csv(tmp_path / "logs" / "log.csv", cart()).parent
    (logs / "mapping.yaml").write_text(yaml.safe_dump(CART))
    assert len(LogReader(as_log_folder(logs, tmp_path / "into"))) == 1


LAUGHS = "  - &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  - &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"show:\n{LAUGHS}", "repeats itself by names of names"),
        ("show: &a [*a]", "repeats itself"),
        ("show: " + "[" * 1200, "nested too deep"),
        ("show: 2001-99-99", "month must be in 1..12"),
        ("x: " + "y" * (1 << 21), "longer than 2,097,152 bytes"),
    ],
)
def test_yaml_that_swells(tmp_path, content, words):
    path = tmp_path / "mapping.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=f"mapping.yaml.*{words}"):
        load_yaml(path)


def test_metadata_of_a_bag_that_swell(tmp_path):
    folder = write_bag(tmp_path / "bag")
    (folder / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{LAUGHS}")
    with pytest.raises(UserError, match="metadata.yaml repeats itself"):
        list(describe(folder))


def test_definitions_that_are_computed_are_not_kept(tmp_path):
    file = tmp_path / "log.db3"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE topics(id, name, type, serialization_format)")
        database.execute("CREATE TABLE messages(topic_id, timestamp, data)")
        large = "encoded_message_definition AS (hex(zeroblob(3000000)))"
        database.execute(f"CREATE TABLE message_definitions(topic_type, encoding, {large})")
        rows = [(str(i), "ros2msg") for i in range(20)]
        database.executemany("INSERT INTO message_definitions(topic_type, encoding) VALUES(?, ?)", rows)
    database.close()
    with pytest.raises(UserError, match="log.db3 is damaged: its message_definitions take more than"):
        list(describe(file))


def test_arrays_that_swell_together(tmp_path, monkeypatch):
    """Each of them may; all at once fill the memory."""
    monkeypatch.setattr(npz, "MOST_BYTES", 2**20)
    stream = io.BytesIO()
    np.save(stream, np.zeros(2**16))
    with zipfile.ZipFile(tmp_path / "log.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(8):
            file.writestr(f"a{i}.npy", stream.getvalue())
    with pytest.raises(UserError, match="log.npz: its arrays would unpack from 0.0 MB to more than"):
        list(describe(tmp_path / "log.npz"))


def test_columns_that_swell_together(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_BYTES", 2**20)
    zeros = pa.ListArray.from_arrays([0, 2**16, 2**17], pa.array(np.zeros(2**17, np.float32)))
    pq.write_table(pa.table({"x": [0.0, 1.0], "one": zeros, "two": zeros}), tmp_path / "log.parquet")
    with pytest.raises(UserError, match="log.parquet: what it unpacks to takes 2 MiB"):
        list(describe(tmp_path / "log.parquet"))


def test_datasets_that_claim_much_together(tmp_path):
    with h5py.File(tmp_path / "log.h5", "w") as file:
        for i in range(3):  # nothing is stored of them
            file.create_dataset(f"x{i}", (2**27,), "f8", chunks=(1000,))
    with pytest.raises(UserError, match=r"log.h5 holds of / takes 3,072 MiB"):
        list(describe(tmp_path / "log.h5"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_long_text_does_not_widen_all_rows(tmp_path, kind):
    import tracemalloc

    rows = 5000
    table = {**cart(rows), "note": ["z"] * (rows - 1) + ["y" * 100_000]}
    path = tmp_path / f"log.{kind}"
    write_csv(path, table) if kind == "csv" else pq.write_table(pa.table(table), path)
    mapping = tmp_path / "cart.yaml"
    mapping.write_text(yaml.safe_dump(CART))
    tracemalloc.start()
    assert LogReader(as_log_folder(path, tmp_path / "into", mapping)).total_rows == rows
    assert tracemalloc.get_traced_memory()[1] < 2**26  # 2 GB where each row is as wide as the widest
    tracemalloc.stop()


def test_a_text_that_comes_in_every_row_is_in_memory_once(tmp_path):
    rows = 20_000
    texts = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["y" * 100_000])
    table = pa.table({**cart(rows), "note": texts})
    pq.write_table(table, tmp_path / "log.parquet", store_schema=False)
    raw = parquet.read_table(tmp_path / "log.parquet", "log.parquet")  # else 2 GB
    assert len({id(text) for text in raw.columns["note"]}) == 1 and raw.columns["note"][7] == "y" * 100_000


def test_a_clock_of_ages_is_not_filled(tmp_path):
    table = cart(5, dt=1e9)
    mapping = tmp_path / "cart.yaml"
    mapping.write_text(yaml.safe_dump({**CART, "gap_steps": 1e15}))
    with pytest.raises(UserError, match=r"log.csv: 40,000,000,001 steps without a gap takes"):
        as_log_folder(write_csv(tmp_path / "log.csv", table), tmp_path / "into", mapping)


def test_pipes_are_not_waited_for(tmp_path):
    save(tmp_path / "a.npz", samples())
    save(tmp_path / "b.npz", samples())
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(ARRAYS))
    assert len(LogReader(as_log_folder(tmp_path, tmp_path / "into"))) == 4


def test_names_neither_move_the_cursor_nor_break_out_of_the_comments(tmp_path):
    name = "bad\ntask: evil\x1b[31m"
    pq.write_table(pa.table({**cart(), name: np.arange(21.0)}), tmp_path / "log.parquet")
    lines = "\n".join(describe(tmp_path / "log.parquet"))
    assert "\x1b" not in lines and r"bad\ntask: evil\x1b[31m" in lines
    assert yaml.safe_load(lines)["task"] != "evil"
