"""Reads the checkpoints of the official DreamerV3: a folder of pickles, of which nothing but numpy arrays is let in.

Source of the format: `elements/checkpoint.py` (a `ckpt` folder whose file `latest` names the folder of `agent.pkl`) and
`embodied/jax/agent.py: save`.
"""

import pickle
from pathlib import Path

import numpy as np

from configs import UserError

# numpy renamed its core between versions 1 and 2; a checkpoint says the name that its writer knew.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, more than arrays and plain values")
        return super().find_class(module, name)


def read_checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their official names, the optimiser's among them.

    Args:
        folder: the official run's `ckpt`, or one of the folders in it.

    Raises:
        UserError: there is no checkpoint, it is in several pieces, or it holds something else than arrays.
    """
    latest = folder / "latest"
    if latest.is_file():
        folder = folder / Path(latest.read_text().strip()).name
    path = folder / "agent.pkl"
    if not path.is_file():
        raise UserError(f"{folder} holds no agent.pkl; give the folder `ckpt` of an official run, saved in one piece")
    try:
        with open(path, "rb") as file:
            params = _Arrays(file).load()["params"]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no checkpoint of DreamerV3: {error}") from error
    return {name: np.asarray(value) for name, value in params.items()}
