"""Where `kernel.c` was built into the package, its functions; where not, nothing, and PyTorch does their work."""

import ctypes
from pathlib import Path

import torch  # noqa: F401  (the library takes its threads)

# Of each function's arguments: a pointer, a size, an int, a float.
KINDS = {"p": ctypes.c_void_p, "s": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
ARGUMENTS = {
    "normed": "ppppppsssiifi",
    "normed_back": "pppppsssiifi",
    "gated": "pppppsssii",
    "gated_back": "ppppppsssii",
    "drawn": "ppppsssifi",
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
