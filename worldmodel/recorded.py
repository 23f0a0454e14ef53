"""Work for a GPU that is recorded once and then repeated as a whole, as a CUDA graph.

An update is thousands of small kernels, and Python asks for them more slowly than a GPU does them: an H200 was at work
for 23 of the 297 ms of an update on 64 dreams. A recording asks for all of them at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

TROUBLE: list[str] = []  # plain sentences, for the report
UNRECORDED = 2  # first calls: libraries set themselves up in them, which cannot be recorded


class UnrecordableError(Exception):
    """The work does what cannot be recorded, or this GPU's libraries do."""


class Recording(Protocol):
    """Of `work(*inputs)`; nothing is computed before `replay`."""

    def __init__(self, work: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        """May raise UnrecordableError."""
        ...

    def replay(self) -> Any:
        """What the work makes of what the inputs hold now, in the same tensors each time."""
        ...


class Recorded:
    """`work`, from trees of tensors to a tree of tensors; done as it is anywhere but on a GPU.

    Trees are tensors, and tuples, lists, dicts and dataclasses of trees. What is no tensor is taken as it was first,
    but arrays of NumPy: the work does not get them. What it gives holds until it is called again.

    The work must not look at a tensor's numbers (`if`, `float`), nor fetch any from the CPU. For inputs of other shapes
    it is recorded anew.
    """

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work
        self._calls: dict[Any, int] = {}
        self._recordings: dict[Any, tuple[Recording, list[Tensor]]] = {}

    def __call__(self, *inputs: Any) -> Any:
        first = next(tensors(inputs), None)
        device = None if first is None else first.device
        if device is None or device.type not in RECORDERS:
            return self.work(*inputs)
        kind = _kind(inputs)
        calls = self._calls[kind] = self._calls.get(kind, 0) + 1
        if kind not in self._recordings:
            bare = mapped(inputs, lambda x: x)
            if calls <= UNRECORDED:
                return _aside(device, self.work, bare)
            own = mapped(inputs, torch.clone)
            try:
                self._recordings[kind] = RECORDERS[device.type](self.work, own), list(tensors(own))
            except UnrecordableError as error:  # a night goes on, if more slowly
                del RECORDERS[device.type]
                TROUBLE.append(f"nothing is recorded on this GPU any more, which takes longer: {error}")
                return self.work(*bare)
        recording, held = self._recordings[kind]
        for buffer, given in zip(held, tensors(inputs), strict=True):
            buffer.copy_(given)
        return recording.replay()


class CudaGraph:
    def __init__(self, work: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        self.graph, device = torch.cuda.CUDAGraph(), next(tensors(inputs)).device
        generator = torch.cuda.default_generators[device.index]
        before = generator.clone_state()
        try:
            # Other threads of this process may be at work on the GPU meanwhile.
            with torch.cuda.graph(self.graph, stream=_side(device), capture_error_mode="thread_local"):
                self.outputs = work(*inputs)
        except RuntimeError as error:
            generator.graphsafe_set_state(before)  # or else it believes for ever that it is being recorded
            raise UnrecordableError(str(error)) from error

    def replay(self) -> Any:
        self.graph.replay()
        return self.outputs


RECORDERS: dict[str, type[Recording]] = {"cuda": CudaGraph}
_SIDES: dict[torch.device, torch.cuda.Stream] = {}


def _side(device: torch.device) -> torch.cuda.Stream:
    if device not in _SIDES:
        _SIDES[device] = torch.cuda.Stream(device)
    return _SIDES[device]


def _aside(device: torch.device, work: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """The work on a stream of its own, as recording asks for of all that comes before it."""
    if device.type != "cuda":
        return work(*inputs)
    here, side = torch.cuda.current_stream(device), _side(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        found = work(*inputs)
    here.wait_stream(side)
    return found


# -- trees -------------------------------------------------------------------------------------------------------------


def tensors(tree: Any) -> Iterator[Tensor]:
    """All that a tree holds, in order."""
    if isinstance(tree, Tensor):
        yield tree
    for part in _parts(tree):
        yield from tensors(part)


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tree of other tensors, and without arrays."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, np.ndarray):
        return None
    if isinstance(tree, (tuple, list)):
        parts = [mapped(part, change) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {name: mapped(part, change) for name, part in tree.items()}
    if _of_fields(tree):
        return replace(tree, **{field.name: mapped(getattr(tree, field.name), change) for field in fields(tree)})
    return tree


def _parts(tree: Any) -> list[Any]:
    if isinstance(tree, (tuple, list)):
        return list(tree)
    if isinstance(tree, dict):
        return list(tree.values())
    return [getattr(tree, field.name) for field in fields(tree)] if _of_fields(tree) else []


def _of_fields(tree: Any) -> bool:
    return is_dataclass(tree) and not isinstance(tree, type)


def _kind(tree: Any) -> Any:
    """Equal for trees that one recording serves."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    if isinstance(tree, np.ndarray):
        return None
    parts = _parts(tree)
    if not parts and not isinstance(tree, (tuple, list, dict)):
        return tree
    return type(tree), tuple(tree) if isinstance(tree, dict) else None, *map(_kind, parts)
