import numpy as np
import pytest
from damage import check_survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_logs import CART, cart, imported

from configs import UserError
from worldmodel.logs import formats, parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_a_file_is_an_episode(tmp_path):
    for i in range(2):
        write(tmp_path / "raw" / f"{i}.parquet", cart(seed=i))
    reader = imported(tmp_path / "raw", tmp_path / "logs")
    assert [record["info"]["source"] for record in reader.episodes] == ["0.parquet", "1.parquet"]
    np.testing.assert_allclose(reader.episode(1).observation["vector"][:, 1], cart(seed=1)["v"], atol=1e-6)


def test_lists_times_text_and_missing_values(tmp_path):
    logged = cart()
    stamps = np.datetime64("2026-01-01", "us") + (logged["time"] * 1e6).round().astype("m8[us]")
    state = pa.array(np.stack([logged["x"], logged["v"]], 1).tolist())
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(logged["force"], 2)), 2)
    columns = {"time": stamps, "state": state, "command": fixed, "floor": pa.array(["ice"] * 21).dictionary_encode()}
    columns["on"] = pa.array([True, None, False] * 7)
    columns["odd"] = pa.array([{"a": 1}] * 21)
    path = write(tmp_path / "log.parquet", columns)
    raw = parquet.read_table(path, "log.parquet")
    assert list(raw.columns) == ["time", "state", "command", "floor", "on"]
    np.testing.assert_array_equal(raw.columns["on"][:3], [1.0, np.nan, 0.0])
    observation = {"columns": {"x_m": "state[0]", "state": "state"}}
    mapping = {**CART, "action": {"columns": {"force_N": "command[1]"}}, "info": {"floor": "floor"}}
    reader = imported(path, tmp_path / "logs", mapping, observation=observation)
    assert reader.schema["observation"]["vector"]["names"] == ["x_m", "state_0", "state_1"]
    assert reader.episodes[0]["info"]["floor"] == "ice"
    vector = reader.episode(0).observation["vector"]
    np.testing.assert_allclose(vector, np.stack([logged["x"], logged["x"], logged["v"]], 1), atol=1e-6)
    with pytest.raises(UserError, match=r"there is no state\[2\]; state has shape \(21, 2\)"):
        imported(path, tmp_path / "other", mapping, observation={"columns": {"x_m": "state[2]"}})


def test_lists_of_different_lengths_are_named(tmp_path):
    path = write(tmp_path / "log.parquet", {"state": pa.array([[1.0], [1.0, 2.0], [1.0]])})
    with pytest.raises(UserError, match=r"log\.parquet: state holds lists of different lengths"):
        parquet.read_table(path, "log.parquet")


def test_a_few_bytes_that_claim_to_be_a_billion_rows(tmp_path):
    path = tmp_path / "bomb.parquet"
    zeros = pa.table({"x": pa.array(np.zeros(1_000_000))})
    with pq.ParquetWriter(path, zeros.schema, compression="zstd") as writer:
        for _ in range(150):
            writer.write_table(zeros, row_group_size=1_000_000)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(UserError, match=r"bomb\.parquet claims 150,000,000 rows of 1 columns in .* MB"):
        parquet.read_table(path, "bomb.parquet")


def test_a_damaged_file_never_gives_more_than_a_message(tmp_path):
    """Without a look at its pages beforehand, pyarrow ended the process."""
    path = write(tmp_path / "log.parquet", cart())
    check_survives(parquet.FORMAT, path, path)


def test_pyarrow_that_is_missing_is_named_with_its_install_line(tmp_path, monkeypatch):
    path = write(tmp_path / "log.parquet", cart())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'need pyarrow: pip install "digital-dreaming\[parquet\]"'):
        imported(path, tmp_path / "logs")
    assert formats.detect(path) is parquet.FORMAT  # is told without it


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_plain_error_or_still_a_table(tmp_path, data):
    path = write(tmp_path / "log.parquet", cart())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    before = path.read_bytes()
    try:
        raw = parquet.read_table(path, "log.parquet")
    except UserError as error:
        assert "log.parquet" in str(error)
    else:
        assert len({len(column) for column in raw.columns.values()}) == 1
    assert path.read_bytes() == before
