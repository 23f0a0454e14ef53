"""For every test: no network, no screen, one thread a process (`make test` runs two)."""

import os
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_logs() -> Path:
    """Folder of real robots' logs, which lies beside the checkout and is not part of it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real robots' logs (../shared/data) are not on this machine")
    return folder


@pytest.fixture(params=["emulated", "GPU"])
def elsewhere(request, monkeypatch):
    """A device beside the CPU that is given the CPU's random numbers, for comparison with `elsewhere.alike`."""
    import torch
    from elsewhere import DrawsOfTheCPU, second_device

    from worldmodel import kernel, recorded

    if request.param == "GPU" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    monkeypatch.setattr(kernel, "LIBRARY", None)  # which is the CPU's alone, and rounds otherwise
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    if request.param == "GPU":
        monkeypatch.setattr(recorded, "UNRECORDED", 10**9)  # draws that come from the CPU cannot be recorded
        with DrawsOfTheCPU():
            yield torch.device("cuda", 0)
    else:
        with second_device() as device:
            yield device
    torch.set_float32_matmul_precision(before)
