"""Where `kernel.c` was built into the package, its functions; where not, nothing, and PyTorch does their work."""

import ctypes
from pathlib import Path
from typing import Any
from zlib import crc32

import torch  # before the library, which takes its threads
from torch import Tensor

# Of each function's arguments: a pointer, a size, an int, a float.
KINDS = {"p": ctypes.c_void_p, "s": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
ARGUMENTS = {
    "normed": "ppppppsssiifi",
    "normed_back": "pppppsssiifi",
    "gated": "pppppsssii",
    "gated_back": "ppppppsssii",
    "drawn": "ppppsssifi",
    "twohot": "pppppssi",
    "exponentials": "ppppssi",
}


def load(folder: Path) -> ctypes.CDLL | None:
    """The library in a folder; none if there is none, if it was built from another `kernel.c`, or if torch lacks what
    it takes from there: threads."""
    source = crc32(Path(__file__).with_name("kernel.c").read_bytes())
    for path in folder.glob("_kernel*.so"):
        try:
            found = ctypes.CDLL(str(path))
            built_from = ctypes.c_uint32.in_dll(found, "source").value
        except (OSError, ValueError):
            continue
        if built_from != source:
            continue
        for name, kinds in ARGUMENTS.items():
            function = getattr(found, name)
            function.argtypes, function.restype = [KINDS[kind] for kind in kinds], None
        return found
    return None


LIBRARY = load(Path(__file__).parent)
WIDTHS = (torch.float32, torch.bfloat16)


def library(product: Tensor, *others: Tensor) -> Any:
    """The library, if it can work on a product of matrices, in float32 or bfloat16, and on other tensors in float32.

    It is given bare addresses, so that all have to be contiguous, and on the CPU.
    """
    if LIBRARY is None or product.dtype not in WIDTHS or not (product.is_cpu and product.is_contiguous()):
        return None
    for x in others:
        if x.dtype is not torch.float32 or not (x.is_cpu and x.is_contiguous()):
            return None
    return LIBRARY


def threads(x: Tensor) -> int:
    """As many as torch would use on a tensor of that size."""
    return torch.get_num_threads() if x.numel() >= 2**15 else 1


def at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
