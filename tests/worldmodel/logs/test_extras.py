"""What a reader needs beyond the core is named with the line that installs it, and asked for only when it reads."""

import json
import subprocess
import sys

import pytest

from configs import UserError
from worldmodel.logs import hdf5, lerobot, rosbag2


def hdf5_file(folder):
    (folder / "walker.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")


def lerobot_folder(folder):
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    features = {"episode_index": {"dtype": "int64", "shape": [1]}}
    info = {"codebase_version": "v3.0", "fps": 10, "features": features, "data_path": "data"}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").write_bytes(b"PAR1")


def mcap_file(folder):
    (folder / "drive.mcap").write_bytes(b"\x89MCAP0\r\n" + b"\x03" + bytes(8))


@pytest.mark.parametrize(
    "one, write, package, extra",
    [
        (hdf5.FORMAT, hdf5_file, "h5py", "hdf5"),
        (lerobot.FORMAT, lerobot_folder, "pyarrow", "lerobot"),
        (rosbag2.FORMAT, mcap_file, "mcap", "ros"),
    ],
)
def test_a_missing_package_is_named_with_its_install_line(tmp_path, monkeypatch, one, write, package, extra):
    write(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert one.detects(tmp_path) and extra in one.what
    with pytest.raises(UserError, match=rf'need {package}: pip install "digital-dreaming\[{extra}\]"'):
        list(one.read(tmp_path, None).episodes())


def test_knowing_the_formats_needs_none_of_them():
    code = (
        "import sys; from worldmodel.logs.formats import formats; formats();"
        "print([name for name in ('torch', 'h5py', 'pyarrow', 'mcap', 'rosbags') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
