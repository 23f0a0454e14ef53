"""Chains of small operations, each in one pass over memory where `kernel.c` was built, else in PyTorch.

On a CPU such a chain costs what its passes over memory cost: half of a dream was spent on them. Inputs are what matrix
products give, float32 or bfloat16, and outputs as wide as the next product takes them; in between all is float32.

Shapes: B rows, N columns, G blocks of d = N / G.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import kernel

RMS_EPS = 1e-4
CHUNK = 64  # rows whose gradients of a scale are summed one after the other; what is left is summed by PyTorch


def _check(what: str, fits: bool, *given: Tensor) -> None:
    """The library is given bare addresses, and would read on where a tensor is too small."""
    if not fits:
        raise ValueError(f"{what} of shapes {', '.join(f'{tuple(x.shape)} {x.dtype}' for x in given)}: they do not fit")


def by_block(x: Tensor, blocks: int) -> Tensor:
    """(B, G * k) to a view (G, B, k)."""
    return x.view(len(x), blocks, x.shape[1] // blocks).transpose(0, 1)


def normed(x: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """RMS norm over x (..., N), times scale (N,), then SiLU."""
    _check("a norm", x.shape[-1:] == scale.shape, x, scale)
    if (library := kernel.library(x, scale)) is None or dtype not in kernel.WIDTHS:
        return F.silu(F.rms_norm(x.to(scale.dtype), scale.shape, scale, RMS_EPS)).to(dtype)
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _Normed.apply(x, scale, dtype)  # pyright: ignore[reportReturnType]
    y, n = torch.empty_like(x, dtype=dtype), len(scale)
    sizes, low = (x.numel() // n, n, n), (x.dtype is torch.bfloat16, dtype is torch.bfloat16)
    arrays = x.data_ptr(), None, None, scale.data_ptr(), y.data_ptr(), None
    library.normed(*arrays, *sizes, *low, RMS_EPS, kernel.threads(x))
    return y


def normed_sum(x: Tensor, blocks: Tensor, bias: Tensor, scale: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
    """`normed` of the sum of x (B, N), blocks (G, B, d) and bias (N,), as wide as x; and that sum, if it is kept."""
    fits = by_block(x, len(blocks)).shape == blocks.shape and x.shape[1:] == bias.shape == scale.shape
    _check("a norm of a sum", fits and x.dtype is blocks.dtype, x, blocks, bias, scale)
    if (library := kernel.library(x, bias, scale)) is None or kernel.library(blocks) is None:
        total = x + bias
        by_block(total, len(blocks)).add_(blocks)
        return normed(total, scale, x.dtype), total if keep else None
    y, kept = torch.empty_like(x), torch.empty_like(x, dtype=torch.float32) if keep else None
    arrays = (x.data_ptr(), blocks.data_ptr(), bias.data_ptr(), scale.data_ptr(), y.data_ptr(), kernel.at(kept))
    low = x.dtype is torch.bfloat16
    library.normed(*arrays, *x.shape, blocks.shape[-1], low, low, RMS_EPS, kernel.threads(x))
    return y, kept


def normed_back(grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of `normed(x, scale)` to those of x (..., N), as wide as grad, and of the scale (N,)."""
    if (library := kernel.library(grad, scale)) is None or kernel.library(x) is None:
        wide, plain = grad.to(scale.dtype), x.to(scale.dtype)
        inverse = torch.rsqrt(plain.square().mean(-1, keepdim=True) + RMS_EPS)
        plain = plain * inverse
        wide = torch.ops.aten.silu_backward(wide, plain * scale)
        along = wide * scale
        of_x = inverse * (along - plain * (along * plain).mean(-1, keepdim=True))
        return of_x.to(grad.dtype), (wide * plain).flatten(0, -2).sum(0)
    n = len(scale)
    rows = x.numel() // n
    of_x, of_scale = torch.empty_like(grad), scale.new_zeros(-(-rows // CHUNK), n)
    arrays = grad.data_ptr(), x.data_ptr(), scale.data_ptr(), of_x.data_ptr(), of_scale.data_ptr()
    low = (grad.dtype is torch.bfloat16, x.dtype is torch.bfloat16)
    library.normed_back(*arrays, rows, n, CHUNK, *low, RMS_EPS, kernel.threads(x))
    return of_x, of_scale[0] if len(of_scale) == 1 else of_scale.sum(0)


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, scale)
        return normed(x, scale, dtype)  # where gradients are off

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        of_x, of_scale = normed_back(grad, x, scale)
        return of_x.to(x.dtype), of_scale, None


def _gates(gates: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reset, proposed, candidate and update (G, B, d)."""
    reset, proposed, update = (gates + bias.view(len(gates), 1, -1)).chunk(3, -1)
    reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
    # A tanh of the product, which itself is five times slower.
    return reset, proposed, torch.sigmoid(reset * proposed * 2).mul_(2).sub_(1), update


def gated(gates: Tensor, bias: Tensor, deter: Tensor) -> tuple[Tensor, Tensor]:
    """Next deter (B, N) from gates (G, B, 3 d), their bias (3 N,) and deter (B, N); and the same as wide as gates."""
    _check("gates", gates.shape[::2].numel() == bias.numel() == 3 * deter.shape[1], gates, bias, deter)
    arrived = torch.empty_like(deter)
    if (library := kernel.library(gates, bias, deter)) is None:
        _, _, candidate, update = _gates(gates, bias)
        torch.lerp(by_block(deter, len(gates)), candidate, update, out=by_block(arrived, len(gates)))
        return arrived, arrived.to(gates.dtype)
    low = gates.dtype is torch.bfloat16
    narrow = torch.empty_like(deter, dtype=gates.dtype) if low else arrived
    arrays = gates.data_ptr(), bias.data_ptr(), deter.data_ptr(), arrived.data_ptr(), narrow.data_ptr() if low else None
    library.gated(*arrays, len(deter), len(gates), gates.shape[-1] // 3, low, kernel.threads(gates))
    return arrived, narrow


def gated_back(grad: Tensor, gates: Tensor, bias: Tensor, deter: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient (B, N) of `gated` to those of gates (G, B, 3 d), as wide as they, and of deter (B, N)."""
    of_gates, of_deter = torch.empty_like(gates), torch.empty_like(deter)
    if (library := kernel.library(gates, bias, deter, grad)) is None:
        reset, proposed, candidate, update = _gates(gates, bias)
        of_arrived, before = by_block(grad, len(gates)), by_block(deter, len(gates))
        of_product = of_arrived * update * (1 - candidate.square())
        of_reset = of_product * proposed * reset * (1 - reset)
        of_update = of_arrived * (candidate - before) * update * (1 - update)
        torch.cat([of_reset, of_product * reset, of_update], -1, out=of_gates)
        torch.mul(of_arrived, 1 - update, out=by_block(of_deter, len(gates)))
        return of_gates, of_deter
    arrays = (x.data_ptr() for x in (grad, gates, bias, deter, of_gates, of_deter))
    low = gates.dtype is torch.bfloat16
    library.gated_back(*arrays, len(deter), len(gates), gates.shape[-1] // 3, low, kernel.threads(gates))
    return of_gates, of_deter
