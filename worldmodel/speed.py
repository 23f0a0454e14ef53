"""Settings of a process in which to train on a CPU."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # as glibc's malloc.h numbers them


def prepare_cpu() -> None:
    """Makes large tensors and large products cheap, for the whole process; call it once, before training.

    Memory that was freed is kept for the next tensor: to fetch it anew from the system, page by page, was measured to
    take ten times as long as the arithmetic on it. Products of float32 go to oneDNN, which on AMD's processors is twice
    as fast as MKL at the same precision; on processors with matrix units it may round their factors to bfloat16.
    """
    torch.set_float32_matmul_precision("medium")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def few_rows() -> Iterator[None]:
    """For products of a row or two, to which oneDNN was measured to take 21 microseconds and MKL 4."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
