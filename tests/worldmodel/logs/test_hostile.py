"""Files that mean harm, or were badly hurt: nothing runs, memory stays bounded, the message names file and place."""

import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raw_logs import cart, imported, write_csv

from configs import UserError
from worldmodel.logs import npz
from worldmodel.logs.describe import describe
from worldmodel.logs.importing import as_log_folder
from worldmodel.logs.mapping import LogMapping

MAPPING = {
    "task": "cart",
    "control_hz": 10,
    "observation": {"array": "obs", "names": ["x_m", "vx_m_s"]},
    "action": {"array": "act", "names": ["force_n"]},
}


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    content = {"obs": np.zeros((2, 5, 2)), "act": np.zeros((2, 5, 1)), **arrays}
    np.savez_compressed(path, **content)  # pyright: ignore[reportArgumentType]
    path.with_suffix(".yaml").write_text(yaml.safe_dump(MAPPING))
    return path


def add(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return path


def refused(path: Path, words: str) -> None:
    into = path.parent / "logs"
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        as_log_folder(path, into)
    assert not into.exists() and path.read_bytes() == before and not Path("ran").exists()


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pickles_inside_an_archive_never_run(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    path = tmp_path / "log.npz"
    np.savez(path, act=np.zeros((2, 5, 1)))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(MAPPING))
    refused(add(path, "obs.npy", stream.getvalue()), "log.npz: array obs cannot be read; save it as numbers or text")
    np.savez(path, act=np.zeros((2, 5, 1)))
    refused(add(path, "obs.npy", pickle.dumps(Evil())), "log.npz: .*obs")
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, "log.npz is damaged or not an .npz archive")
    assert any("fails" in line or "damaged" in line for line in _description(path))


def _description(path: Path) -> list[str]:
    try:
        return list(describe(path))
    except UserError as error:
        return [str(error)]


def test_mappings_run_no_code(tmp_path):
    path = archive(tmp_path / "log.npz")
    path.with_suffix(".yaml").write_text("task: !!python/object/apply:os.system ['touch ran']\n")
    refused(path, "log.yaml.* is not valid YAML")


def header_of(shape: str, size: int = 0) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}" + " " * size
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header_of("(2, 5, 2)"), "array obs cannot be read|array obs is damaged"),
        (header_of("(200000, 500000, 2)"), "array obs cannot be read|array obs is damaged"),
        (header_of("(2, 5, 2)", 10_000_000), "array obs cannot be read"),
        (header_of("(-2, 5, 2)"), "array obs cannot be read|array obs is damaged|holds no samples|has shape"),
        (b"\x93NUMPY\x09\x00", "array obs cannot be read|array obs is damaged"),
        (b"no array", "obs is not an array|array obs"),
        (b"", "obs is not an array|array obs"),
    ],
)
def test_headers_that_lie(tmp_path, content, words):
    path = tmp_path / "log.npz"
    np.savez(path, act=np.zeros((2, 5, 1)))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(MAPPING))
    refused(add(path, "obs.npy", content), f"log.npz: .*({words})")


def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path):
    """A gigabyte of zeros in a megabyte, met by a process that may not use so much."""
    path = archive(tmp_path / "log.npz")
    os.truncate(tmp_path / "log.npz", 0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("obs.npy", "w", force_zip64=True) as member:
            head = header_of("(2, 34375000, 2)")
            member.write(head)
            for _ in range(1100):
                member.write(bytes(1_000_000))
        stream = io.BytesIO()
        np.save(stream, np.zeros((2, 5, 1)))
        file.writestr("act.npy", stream.getvalue())
    code = (
        "import sys; from configs import UserError; from worldmodel.logs.importing import as_log_folder\n"
        "try: as_log_folder(sys.argv[1], sys.argv[2])\n"
        "except UserError as error: print(error)"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

    root = Path(npz.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "logs"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
    )
    assert "array obs would unpack from 1.1 MB to 1.1 GB; save it in parts" in done.stdout, done.stderr


def test_names_that_lead_out_of_the_folder_are_only_names(tmp_path):
    path = archive(tmp_path / "raw" / "log.npz") if (tmp_path / "raw").mkdir() is None else None
    assert path is not None
    add(path, "../../escaped.npy", header_of("(1,)") + bytes(8))
    as_log_folder(path, tmp_path / "logs")
    assert not list(tmp_path.rglob("escaped*"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_archive_is_a_plain_error_or_still_an_archive(tmp_path, data):
    path = archive(tmp_path / "log.npz", obs=np.random.default_rng(0).normal(size=(2, 5, 2)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    mapping = LogMapping("cart", npz_channels("obs", 2), npz_channels("act", 1), 10)
    for given_mapping in (mapping, None):
        try:
            for raw in npz.read(path, given_mapping).episodes():
                assert raw.columns
        except UserError as error:
            assert "log.npz" in str(error)


def npz_channels(name: str, count: int):
    from worldmodel.logs.mapping import Channels

    return Channels(array=name, names=[f"{name}{i}" for i in range(count)])


words = st.sampled_from(["x", "time", "force", "obs", "deg"])
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["column", "unit", "x", "a"]), inner),
    max_leaves=4,
)
KEYS = ["task", "observation", "action", "control_hz", "time", "gap_steps", "episode", "split", "path", "info"]
KEYS += ["physics", "reward", "terminated", "image", "show", "dt_s", "episodes", "files"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_any_mapping_imports_or_is_a_plain_error(tmp_path, changes):
    import shutil

    data = write_csv(tmp_path / "raw" / "log.csv", cart())
    before = data.read_bytes()
    try:
        imported(data.parent, tmp_path / "logs", **changes)
    except UserError as error:
        assert str(error)
    finally:
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
    assert data.read_bytes() == before and sorted(p.name for p in data.parent.iterdir()) == ["log.csv"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=30), st.lists(st.floats(), min_size=1, max_size=30))
@example([0.0, -6e35, -0.5, 0.0], [0.0, 3e272, 0.0, 0.0])  # a span times a command is more than a number can be
@example([1.7976931348623157e308, -1e292], [0.0, 0.0])  # and so is this span
@example([1.7976931348623157e308, -1e308, -5e307], [0.0, 0.0, 0.0])
@example([-1e308, 0.0, 0.1, 0.2, 1e308], [0.0, 1.0, 2.0, 3.0, 4.0])
def test_any_numbers_import_finite_or_are_a_plain_error(tmp_path, time, x):
    import shutil

    count = min(len(time), len(x))
    table = {"time": time[:count], "x": x[:count], "v": x[:count], "force": x[:count]}
    try:
        reader = imported(write_csv(tmp_path / "log.csv", table), tmp_path / "logs")
        reader.check()
    except UserError as error:
        assert "log" in str(error)
    finally:
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)
