import subprocess
import sys

import pytest

# In a process of its own: the settings are the process's.
PROGRAM = """
import resource, torch
from worldmodel.speed import few_rows, prepare_cpu
torch.manual_seed(0)
x, w = torch.randn(256, 300), torch.randn(64, 300)
exact = (x.double() @ w.double().T).float()
prepare_cpu()
prepare_cpu()
assert (x @ w.T - exact).abs().max() < 0.1 * exact.std()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
with few_rows():
    assert torch.get_float32_matmul_precision() == "highest"
assert torch.get_float32_matmul_precision() == "medium"
print(faults())
"""


def test_freed_memory_is_kept_and_products_stay_right():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    pages = 20 * 16_000_000 // 4096
    assert int(done.stdout) < pages / 10


THREADS = """
import os, torch
os.sched_getaffinity = lambda pid: set(range(3))
from worldmodel.speed import prepare_cpu, threads_for
prepare_cpu()
for units in (100, 2100):
    threads_for(torch.nn.Linear(units, units))
    print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("asked", "found"), [(None, "1 3"), ("2", "2 2")])
def test_small_models_get_one_thread_and_large_ones_all(monkeypatch, asked, found):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == found.split()
