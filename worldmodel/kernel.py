"""Where `kernel.c` was built into the package, its functions; where not, nothing, and PyTorch does their work."""

import ctypes
from pathlib import Path
from typing import Any

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
    """The library in a folder; none if there is none, or if it lacks what it takes from torch: threads."""
    for path in folder.glob("_kernel*.so"):
        try:
            found = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name, kinds in ARGUMENTS.items():
            function = getattr(found, name)
            function.argtypes, function.restype = [KINDS[kind] for kind in kinds], None
        return found
    return None


LIBRARY = load(Path(__file__).parent)
WIDTHS = (torch.float32, torch.bfloat16)


def library(x: Tensor, *widths: torch.dtype) -> Any:
    """The library, if it can work on x and write such widths."""
    return LIBRARY if x.is_cpu and x.dtype in WIDTHS and all(dtype in WIDTHS for dtype in widths) else None


def threads(x: Tensor) -> int:
    """As many as torch would use on a tensor of that size."""
    return torch.get_num_threads() if x.numel() >= 2**15 else 1


def at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
