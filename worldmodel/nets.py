"""The layers of DreamerV3: RMS norm, SiLU, truncated-normal weights, block-diagonal linear maps, convolutions.

Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023), and the official `embodied/jax/nets.py`.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.fused import RMS_EPS, normed, normed_back


def truncated_normal_(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal of variance `scale² / fan_in`, cut at two standard deviations and corrected for the cut."""
    std = 1.1368 * math.sqrt(1.0 / fan_in)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    with torch.no_grad():
        weight.mul_(scale)


class Rounding:
    """Its products' factors are rounded to `compute`; weights, inputs and outputs stay float32."""

    compute = torch.float32


class Linear(Rounding, nn.Linear):
    """A linear map with DreamerV3's initial weights; `outscale` 0 makes a head begin at zero."""

    def __init__(self, inputs: int, outputs: int, outscale: float = 1.0) -> None:
        self.outscale = outscale
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, self.in_features, self.outscale)
        nn.init.zeros_(self.bias)

    def product(self, input: Tensor, known: Tensor | None = None) -> Tensor:
        """As wide as it was multiplied; where its numbers are known, it only learns to pass gradients back."""
        if known is not None:
            return _Known.apply(known, input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return F.linear(*(x.to(self.compute) for x in (input, self.weight, self.bias)))

    def forward(self, input: Tensor) -> Tensor:
        return self.product(input).float()


class _Known(torch.autograd.Function):
    """The product (..., M) of inputs (..., N) that was found before, without a gradient."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(input, weight)
        return known.view_as(known)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        input, weight = ctx.saved_tensors
        of_input = (grad @ weight.to(grad.dtype)).to(input.dtype) if ctx.needs_input_grad[1] else None
        rows = grad.flatten(0, -2)
        of_weight = rows.mT @ input.to(grad.dtype).flatten(0, -2)
        return None, of_input, of_weight.to(weight.dtype), rows.sum(0, dtype=weight.dtype)


def compute_in(dtype: torch.dtype, *modules: nn.Module) -> None:
    """Round the factors of products in `modules` to `dtype`."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, Rounding):
                part.compute = dtype


class RMSNorm(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, RMS_EPS)


class BlockLinear(nn.Module):
    """`blocks` independent linear maps side by side: (..., inputs) to (..., outputs), 1/blocks of the weights.

    The weight is stored as it is multiplied, (block, in, out): permuting it at every step costs a fifth of the training
    step in a peer.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(f"{inputs} inputs and {outputs} outputs do not divide into {blocks} blocks")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        truncated_normal_(self.weight, inputs)  # the official code counts all inputs, not one block's

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b (g i) -> g b i", g=self.blocks)
        return rearrange(torch.bmm(x, self.weight), "g b o -> b (g o)") + self.bias


class NormedLinear(nn.Module):
    """Linear, RMS norm, SiLU; the output in whatever width the next layer wants it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = RMSNorm(outputs)

    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32, known: Tensor | None = None) -> Tensor:
        return normed(self.linear.product(x, known), self.norm.scale, dtype)


class MLP(Rounding, nn.Sequential):
    def __init__(self, inputs: int, units: int, layers: int) -> None:
        super().__init__(*[NormedLinear(inputs if i == 0 else units, units) for i in range(layers)])

    def forward(self, input: Tensor, dtype: torch.dtype = torch.float32, known: Tensor | None = None) -> Tensor:
        *before, last = self
        for layer in before:
            input, known = layer(input, self.compute, known), None
        return last(input, dtype, known)


class Head(nn.Module):
    """An MLP and one linear map to `outputs` numbers."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int, outscale: float = 1.0) -> None:
        super().__init__()
        self.mlp = MLP(inputs, units, layers)
        self.out = Linear(units, outputs, outscale)

    def forward(self, x: Tensor, known: Tensor | None = None, fixed: int = 0) -> Tensor:
        """From inputs (..., N), the first of which may be `fixed`: what does not learn passes nothing back there.

        Args:
            known: what `first` made of them with the same weights.
        """
        if known is None and torch.is_grad_enabled() and x.requires_grad and not self.learns:
            return _Passed.apply(x, self, fixed)  # pyright: ignore[reportReturnType]
        return self.out(self.mlp(x, self.out.compute, known))

    @property
    def learns(self) -> bool:
        return any(weight.requires_grad for weight in self.parameters())

    def first(self, x: Tensor) -> Tensor:
        """The first layer's product, which is most of the work where inputs are many."""
        layer = self.mlp[0]
        assert isinstance(layer, NormedLinear)
        return layer.linear.product(x)


class _Passed(torch.autograd.Function):
    """A head that learns nothing and passes gradients back to its inputs (..., N), as one node of the graph.

    Dreams are chains of such heads, and of small batches each node costs more than what it computes.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, head: Head, fixed: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        layers, kept, x = [layer for layer in head.mlp if isinstance(layer, NormedLinear)], [], input
        for layer in layers:
            kept.append(layer.linear.product(x))
            x = normed(kept[-1], layer.norm.scale, layer.linear.compute)
        weights = [layer.linear.weight for layer in layers], [layer.norm.scale for layer in layers]
        ctx.layers = list(zip(*weights, kept, strict=True))
        ctx.out, ctx.compute, ctx.fixed = head.out.weight, head.out.compute, fixed
        return head.out(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.to(ctx.compute) @ ctx.out.to(ctx.compute)
        for i, (weight, scale, before) in reversed(list(enumerate(ctx.layers))):
            weight = weight if i else weight[:, ctx.fixed :]
            grad = normed_back(grad, before, scale)[0] @ weight.to(grad.dtype)
        return F.pad(grad, (ctx.fixed, 0)).float(), None, None


def within(x: Tensor, most: float = 8.0) -> Tensor:
    """Cut at +-most. The gradient of `clamp`, in five operations, takes a twentieth of an update on dreams."""
    return F.hardtanh(x, -most, most)


MOST_MULTIPLIED = 64


def products(x: Tensor) -> Tensor:
    """Appends all products of two inputs: (..., N) to (..., `products_size(N)`), each cut at +-8.

    The laws of motion are made of them (a turned displacement, a speed squared), distances too, and a layer of sums has
    to spend most of its width on imitating one. Of more than 64 inputs there would be too many, and none is appended.
    """
    if x.shape[-1] > MOST_MULTIPLIED:
        return x
    first, second = _pairs(x.shape[-1], x.device)
    return torch.cat([x, within(x.index_select(-1, first) * x.index_select(-1, second))], -1)


@cache
def _pairs(n: int, device: torch.device) -> Tensor:
    return torch.triu_indices(n, n, device=device)


def products_size(inputs: int) -> int:
    return inputs + (inputs * (inputs + 1) // 2 if inputs <= MOST_MULTIPLIED else 0)


class Conv(nn.Conv2d):
    """A convolution of kernel 5 that keeps the size, with DreamerV3's initial weights; images are (N, C, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, padding=2)

    def reset_parameters(self) -> None:
        truncated_normal_(self.weight, self.in_channels * 25)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ChannelNorm(nn.Module):
    """RMS norm over the channels of (N, C, H, W), then SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(rearrange(x, "n c h w -> n h w c"))
        return rearrange(F.silu(x), "n h w c -> n c h w")


class ImageEncoder(nn.Module):
    """64x64x3 image in [0, 1] to a flat vector of `outputs` numbers: four times convolve, halve by max pooling."""

    def __init__(self, depth: int, multipliers: Sequence[int] = (2, 3, 4, 4)) -> None:
        super().__init__()
        widths = [3, *(depth * m for m in multipliers)]
        self.convs = nn.ModuleList([Conv(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        self.norms = nn.ModuleList([ChannelNorm(b) for b in widths[1:]])
        self.outputs = widths[-1] * 4 * 4

    def forward(self, image: Tensor) -> Tensor:
        x = rearrange(image, "n h w c -> n c h w") - 0.5
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(F.max_pool2d(conv(x), 2))
        return rearrange(x, "n c h w -> n (c h w)")


class ImageDecoder(nn.Module):
    """Latent state to a 64x64x3 image in [0, 1]: a 4x4 map, then four times double and convolve.

    `deter` reaches the map through a block-diagonal linear map, one block a group of channels; a dense one of 4x4 cells
    would hold most of the model's weights.
    """

    def __init__(
        self, deter: int, stoch: int, depth: int, units: int, multipliers: Sequence[int] = (2, 3, 4, 4)
    ) -> None:
        super().__init__()
        widths = [depth * m for m in reversed(multipliers)]
        self.first, self.groups = widths[0], 8
        self.deter_in = BlockLinear(deter, 4 * 4 * self.first, self.groups)
        self.stoch_in = nn.Sequential(NormedLinear(stoch, 2 * units), Linear(2 * units, 4 * 4 * self.first))
        self.norms = nn.ModuleList([ChannelNorm(width) for width in widths])
        self.convs = nn.ModuleList([Conv(a, b) for a, b in zip(widths, [*widths[1:], 3], strict=True)])

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """(N, D) and (N, S * C) to (N, 64, 64, 3)."""
        own = rearrange(self.deter_in(deter), "n (g h w c) -> n (g c) h w", g=self.groups, h=4, w=4)
        x = own + rearrange(self.stoch_in(stoch), "n (h w c) -> n c h w", h=4, w=4)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(F.interpolate(norm(x), scale_factor=2, mode="nearest"))
        return rearrange(torch.sigmoid(x), "n c h w -> n h w c")
