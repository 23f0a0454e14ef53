"""A second device for machines that have none: it computes on the CPU, and refuses what a GPU would refuse.

Its tensors say that they lie on torch's device without numbers, `meta`, but hold numbers. As on a GPU, operations on
tensors of both devices fail, `numpy()` fails, and only moving (`to`, `cpu`, `copy_`) gets across. It is stricter than a
GPU, which takes a CPU's scalar or index beside its own tensors and waits for it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from worldmodel import recorded
from worldmodel.nets import _pairs
from worldmodel.recorded import tensors

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
ELSEWHERE = torch.device("meta")
COPY, MOVE = torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default
TELLING = {getattr(torch.ops.aten, name).default for name in ("_local_scalar_dense", "nonzero", "masked_select")}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
DRAWS = {getattr(torch.ops.aten, name).default for name in ("rand", "randn", "rand_like", "randn_like")}


class There(Tensor):
    """A tensor of the second device."""

    here: Tensor  # the numbers

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        return torch.Tensor._make_wrapper_subclass(
            cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=ELSEWHERE
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})


class Machine(TorchDispatchMode):
    """Sees to it that tensors that are made there, or brought there, hold numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})


class Python(TorchFunctionMode):
    """What never reaches `Machine`: torch does it by itself on its own `meta`, or forbids it to tensors like ours."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor and isinstance(args[0], There):
            return torch.tensor(args[1], dtype=args[0].dtype).to(ELSEWHERE)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == ELSEWHERE:
            given = {name: value for name, value in kwargs.items() if name != "device"}
            return func(*args, **given).to(ELSEWHERE)
        if func is Tensor.tolist and isinstance(args[0], There):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


class Repeated:
    """In place of a CUDA graph: does the work again, refuses what could not be recorded, overwrites what it gave."""

    at_work = False

    def __init__(self, work: Any, inputs: tuple) -> None:
        self.work, self.inputs, self.given = work, inputs, None

    def replay(self) -> Any:
        Repeated.at_work = True
        try:
            found = self.work(*self.inputs)
        finally:
            Repeated.at_work = False
        if self.given is None:
            self.given = found
        for held, new in zip(tensors(self.given), tensors(found), strict=True):
            held.detach().copy_(new.detach())
        return self.given


def refuse(func: Any, given: list[Tensor], lie_there: list[bool], asked: Any) -> None:
    """What a GPU cannot do while it is recorded: tell numbers to the CPU, or get any from there.

    That it would go on with a number of Python's as it was then, no one tells here.
    """
    across = func in (COPY, MOVE) and (len(set(lie_there)) > 1 or (asked and (asked == ELSEWHERE) != lie_there[0]))
    masks = func in INDEXING and any(x.dtype is torch.bool for x in given[1:])
    if any(lie_there) and (func in TELLING or masks) or across:
        raise RuntimeError(f"{func} cannot be recorded")


def compute(func: Any, args: tuple, kwargs: dict) -> Any:
    """On the numbers, once it is clear that they lie together; the result lies where they do, or where it was asked."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    lie_there = [isinstance(x, There) for x in given]
    if Repeated.at_work:
        refuse(func, given, lie_there, kwargs.get("device"))
    if any(lie_there) and not all(lie_there) and func not in (COPY, MOVE):
        found = ", ".join(f"{tuple(x.shape)} on {x.device.type}" for x in given)
        raise RuntimeError(f"Expected all tensors to be on the same device, {func} was given {found}")
    result_there = lie_there[0] if func is COPY else any(lie_there)
    if asked := kwargs.get("device"):
        result_there, kwargs = torch.device(asked) == ELSEWHERE, kwargs | {"device": torch.device("cpu")}
    numbers, settings = tree_map_only(There, lambda x: x.here, (args, kwargs))
    result = func(*numbers, **settings)
    if result_there:
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, There, result))
    return args[0] if func is COPY else result


def alike(there: Sequence[Any], here: Sequence[Any], device: torch.device) -> bool:
    """Whether numbers and arrays from a device are the CPU's: the very same where it is emulated, nearly on a GPU."""
    off = 0.0 if device == ELSEWHERE else 0.02
    return all(np.allclose(a, b, rtol=off, atol=off) for a, b in zip(there, here, strict=True))


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Where work is recorded as on a GPU, from the first time on."""
    _pairs.cache_clear()  # which keeps tensors by device
    before, recorded.UNRECORDED = recorded.UNRECORDED, 0
    recorded.RECORDERS[ELSEWHERE.type] = Repeated
    try:
        with Python(), Machine(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*which is a no-op")  # loading weights is none, as ours hold numbers
            yield ELSEWHERE
    finally:
        _pairs.cache_clear()
        recorded.UNRECORDED = before
        recorded.RECORDERS.pop(ELSEWHERE.type, None)


class DrawsOfTheCPU(TorchDispatchMode):
    """Random numbers of a GPU are others; here it gets the CPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in DRAWS:
            return func(*args, **kwargs)
        like, given = tree_map_only(Tensor, lambda x: x.cpu(), (args, kwargs))
        device = kwargs.get("device") or next((x.device for x in args if isinstance(x, Tensor)), "cpu")
        return func(*like, **given | {"device": torch.device("cpu")}).to(device)
