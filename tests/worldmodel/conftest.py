import ctypes
import shutil
import subprocess
import sys

import pytest
import torch

from worldmodel import kernel

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)
    # A test before may have run a command, and `prepare_cpu` with it, which decides who multiplies.
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def library(root, tmp_path_factory) -> ctypes.CDLL:
    """The C kernels as they are now, built aside."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    built, rest = tmp_path_factory.mktemp("kernel"), tmp_path_factory.mktemp("objects")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", built, "--build-temp", rest]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    found = kernel.load(built / "worldmodel")
    assert found, done.stdout + done.stderr
    return found


@pytest.fixture
def with_kernel(library, monkeypatch) -> None:
    monkeypatch.setattr(kernel, "LIBRARY", library)


@pytest.fixture(params=["with kernel", "without"])
def with_and_without_kernel(request, monkeypatch) -> None:
    library = request.getfixturevalue("library") if request.param == "with kernel" else None
    monkeypatch.setattr(kernel, "LIBRARY", library)
