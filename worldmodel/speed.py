"""Settings of a process in which to train on a CPU."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # as glibc's malloc.h numbers them
MANY_WEIGHTS = 4_000_000  # between the sizes 1m and 12m


def prepare_cpu() -> None:
    """Makes large tensors and large products cheap, for the whole process; call it once, before training.

    It gets one thread, which `threads_for` may raise.

    Memory that was freed is kept for the next tensor: to fetch it anew from the system, page by page, was measured to
    take ten times as long as the arithmetic on it. Products of float32 go to oneDNN, which on AMD's processors is twice
    as fast as MKL at the same precision; on processors with matrix units it may round their factors to bfloat16.
    """
    if not _asked():
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def threads_for(model: torch.nn.Module) -> None:
    """Every core for a model of many weights; OMP_NUM_THREADS has the last word.

    Small models are many small operations. Two threads on two idle cores were measured to take 92 ms for an update on
    dreams where one takes 110, and five times as long as one where another program needs a core: they wait for each
    other by spinning. If they sleep instead, they take twice as long as one on idle cores.
    """
    if sum(weight.numel() for weight in model.parameters()) >= MANY_WEIGHTS and not _asked():
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _asked() -> bool:
    return "OMP_NUM_THREADS" in os.environ


@contextmanager
def few_rows() -> Iterator[None]:
    """For products of a row or two, to which oneDNN was measured to take 21 microseconds and MKL 4."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
