"""Where networks compute: the one place that chooses, that device's random numbers, and what it has found.

First weights and samples of the logs are drawn by the CPU everywhere, so that on every machine a seed begins alike.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from configs import UserError

CPU = torch.device("cpu")


def choose_device(name: str = "auto") -> torch.device:
    """From auto (a GPU if there is one), cpu, cuda, or cuda:1 for the second of several.

    Raises:
        UserError: there is no such device here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not gpus):
        return CPU
    found = re.fullmatch(r"auto|cuda(?::(\d+))?", name)
    if not found:
        raise UserError(f"there is no device {name!r}: give auto, cpu, cuda, or cuda:1 for the second of several")
    number = int(found[1] or 0)
    if number >= gpus:
        why = "" if torch.version.cuda else " (this PyTorch is built for the CPU alone)"
        raise UserError(f"{name} is not available here{why}: give cpu or auto")
    return torch.device("cuda", number)


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


# -- random numbers ---------------------------------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Any]:
    """Of the CPU's stream, and of a GPU's own."""
    state: dict[str, Any] = {"torch_random": torch.get_rng_state()}
    if device.type == "cuda":
        state["gpu_random"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on as `random_state` was; a GPU's stream stays as it is if the state is of a run on the CPU."""
    torch.set_rng_state(state["torch_random"])
    if device.type == "cuda" and "gpu_random" in state:
        torch.cuda.set_rng_state(state["gpu_random"], device)


def seeded(seed: int, device: torch.device) -> dict[str, Any]:
    """The `random_state` that a seed gives."""
    state: dict[str, Any] = {"torch_random": torch.Generator().manual_seed(seed).get_state()}
    if device.type == "cuda":
        state["gpu_random"] = torch.Generator(device).manual_seed(seed).get_state()
    return state


def random_kept(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards both streams are where they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


# -- numbers ----------------------------------------------------------------------------------------------------------


def numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars of one device, fetched at once, as each time is a wait for a GPU."""
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}
