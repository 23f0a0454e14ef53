"""Random variables of DreamerV3, as functions from tensors to tensors; plus the actor's mixture of normals."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import kernel

UNIMIX = 0.01  # share of a uniform in every categorical: no class is ever impossible, so KL stays finite
BINS = 255


def symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.expm1(torch.abs(x))


def categorical_log_probs(logits: Tensor) -> Tensor:
    """Log probabilities of categoricals (..., S, C) after mixing in 1% of a uniform.

    Computed with the classes before the categoricals, and a view of that: a softmax over few last entries was measured
    to take ten times as long.
    """
    return torch.log(mixed(torch.softmax(logits.mT.contiguous(), -2))).mT


def mixed(probs: Tensor) -> Tensor:
    """Categoricals (..., C, S), the classes first, with 1% of a uniform."""
    return (1 - UNIMIX) * probs + UNIMIX / probs.shape[-2]


def sample_one_hot(log_probs: Tensor) -> Tensor:
    """One-hot samples (..., S, C) with the straight-through gradient, by the inverse CDF: one uniform a categorical."""
    probs = torch.exp(log_probs)
    cumulative = torch.cumsum(probs.detach(), -1)
    uniform = torch.rand(cumulative.shape[:-1] + (1,), device=probs.device, dtype=probs.dtype)
    # Scaled by the total, which is 1 only up to rounding: a class past the end must never be drawn.
    index = (cumulative[..., :-1] <= uniform * cumulative[..., -1:]).sum(-1, keepdim=True)
    one_hot = torch.zeros_like(probs).scatter_(-1, index, 1.0)
    return one_hot + (probs - probs.detach()) if probs.requires_grad else one_hot


def drawn(logits: Tensor, shape: tuple[int, int], keep: bool = False) -> tuple[Tensor, Tensor | None]:
    """One-hot samples (B, C, S), as wide as logits (B, C * S), the classes first; and their softmax, if it is kept."""
    categoricals, classes = shape
    logits = logits.view(-1, classes, categoricals)
    if (library := kernel.library(logits)) is None:
        probs = torch.softmax(logits.float(), 1)
        return draw(mixed(probs)).to(logits.dtype), probs if keep else None
    uniform = torch.rand(len(logits), categoricals, 1).contiguous()
    one_hot, probs = torch.empty_like(logits), torch.empty_like(logits, dtype=torch.float32) if keep else None
    arrays = logits.data_ptr(), uniform.data_ptr(), one_hot.data_ptr(), kernel.at(probs)
    library.drawn(*arrays, *logits.shape, logits.dtype is torch.bfloat16, UNIMIX, kernel.threads(logits))
    return one_hot, probs


def draw(mixed: Tensor) -> Tensor:
    """One-hot samples of categoricals (B, C, S), by the inverse CDF; `sample_one_hot` with the classes first."""
    cumulative = torch.cumsum(mixed, 1)
    uniform = torch.rand(mixed.shape[0], mixed.shape[2], 1, device=mixed.device).mT
    below = (cumulative[:, :-1] > uniform * cumulative[:, -1:]).float()
    one_hot = torch.empty_like(mixed)
    one_hot[:, 0] = below[:, 0]
    torch.sub(below[:, 1:], below[:, :-1], out=one_hot[:, 1:-1])
    torch.sub(1, below[:, -1], out=one_hot[:, -1])
    return one_hot


def mode_one_hot(log_probs: Tensor) -> Tensor:
    return torch.zeros_like(log_probs).scatter_(-1, log_probs.argmax(-1, keepdim=True), 1.0)


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), summed over the S categoricals: (..., S, C) to (...)."""
    return (torch.exp(log_p) * (log_p - log_q)).sum((-2, -1))


def twohot_bins(device: torch.device | str = "cpu") -> Tensor:
    """255 values, dense near zero and exponential outwards, exactly symmetric (symexp of -20 to 20)."""
    half = symexp(torch.linspace(-20, 0, BINS // 2 + 1, device=device))
    return torch.cat([half, -half[:-1].flip(0)])


def twohot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Expected value (...) of a two-hot head's logits (..., 255).

    Summed from the middle outwards in pairs, so that equal and opposite tails of size 5e8 cancel exactly.
    """
    if _by_kernel(logits):
        logits = logits.contiguous()
        learns = torch.is_grad_enabled() and logits.requires_grad
        return _Mean.apply(logits, bins) if learns else _twohot(logits, bins)[0]  # pyright: ignore[reportReturnType]
    probs, half = torch.softmax(logits, -1), BINS // 2
    left = probs[..., :half] * bins[:half]
    right = probs[..., half + 1 :] * bins[half + 1 :]
    return (left + right.flip(-1)).sum(-1)


def _by_kernel(logits: Tensor) -> bool:
    """Whether the library can take logits (..., 255), once they are contiguous."""
    return kernel.LIBRARY is not None and logits.is_cpu and logits.dtype is torch.float32 and logits.shape[-1] == BINS


def _twohot(logits: Tensor, bins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (...), the largest logit (...), and the sum (...) of exponentials of what all are below it."""
    mean, most, total = (logits.new_empty(logits.shape[:-1]) for _ in range(3))
    arrays = (x.data_ptr() for x in (logits, bins, mean, most, total))
    kernel.library(logits).twohot(*arrays, logits.numel() // BINS, BINS, kernel.threads(logits))
    return mean, most, total


def twohot_loss(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (..., 255) with the two bins around `target` (...), without building one-hots."""
    return twohot_losses(logits, target.unsqueeze(0), bins)


def twohot_losses(logits: Tensor, targets: Tensor, bins: Tensor) -> Tensor:
    """The sum (...) of `twohot_loss` for each of several targets (K, ...)."""
    targets = targets.detach().contiguous()
    above = torch.searchsorted(bins, targets, right=True).clamp(1, BINS - 1)
    below = above - 1
    low, high = bins[below], bins[above]
    weight = ((targets - low) / (high - low)).clamp(0, 1)
    index, share = (torch.cat(parts).movedim(0, -1) for parts in ((below, above), (1 - weight, weight)))  # (..., 2 K)
    if _by_kernel(logits):
        return _CrossEntropy.apply(logits.contiguous(), index, share, bins)  # pyright: ignore[reportReturnType]
    return -(share * torch.log_softmax(logits, -1).gather(-1, index)).sum(-1)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, bins: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        mean, most, total = _twohot(logits, bins)
        ctx.save_for_backward(logits, bins, mean, most, total)
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, bins, mean, most, total = ctx.saved_tensors
        probs = _exponentials(logits, most, grad / total)
        return probs.mul_(bins - mean.unsqueeze(-1)), None


def _exponentials(logits: Tensor, most: Tensor, factor: Tensor) -> Tensor:
    """`factor` (...) times the exponential of logits (..., 255) less `most` (...)."""
    found, factor = torch.empty_like(logits), factor.contiguous()
    arrays = (x.data_ptr() for x in (logits, most, factor, found))
    kernel.library(logits).exponentials(*arrays, logits.numel() // BINS, BINS, kernel.threads(logits))
    return found


class _CrossEntropy(torch.autograd.Function):
    """Of logits (..., 255) with a few bins (..., K) and their shares (..., K)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, share: Tensor, bins: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, most, total = _twohot(logits, bins)
        ctx.save_for_backward(logits, index, share, most, total)
        return share.sum(-1) * (most + torch.log(total)) - (share * logits.gather(-1, index)).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, index, share, most, total = ctx.saved_tensors
        of_logits = _exponentials(logits, most, grad * share.sum(-1) / total)
        return of_logits.scatter_add_(-1, index, -grad.unsqueeze(-1) * share), None, None, None


class ActionMixture:
    """A mixture of K bounded normals over an action vector in [-1, 1]^A.

    One component takes the whole vector, so two right answers (left or right around the box) stay two answers instead
    of their useless mean. Built from raw numbers (..., K * (1 + 2A)).
    """

    def __init__(self, raw: Tensor, actions: int, min_std: float, max_std: float, least: float = 0.0) -> None:
        self.raw = raw
        components = raw.shape[-1] // (1 + 2 * actions)
        logits, mean, spread = raw.split([components, components * actions, components * actions], -1)
        shape = (*raw.shape[:-1], components, actions)
        self.log_weight = torch.log_softmax(logits, -1)  # (..., K)
        self.mean = torch.tanh(mean).reshape(shape)
        self.std = ((max_std - min_std) * torch.sigmoid(spread) + min_std).clamp(min=least).reshape(shape)

    def sample(self) -> Tensor:
        """(..., A), differentiable in the chosen component; not clipped, so that log probabilities are exact."""
        chosen = sample_one_hot(self.log_weight.detach()).unsqueeze(-1)
        mean, std = (self.mean * chosen).sum(-2), (self.std * chosen).sum(-2)
        return mean + std * torch.randn_like(mean)

    def mode(self) -> Tensor:
        """The mean of the likeliest component."""
        chosen = mode_one_hot(self.log_weight).unsqueeze(-1)
        return (self.mean * chosen).sum(-2)

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action.unsqueeze(-2) - self.mean) / self.std
        per_component = -0.5 * (z * z + math.log(2 * math.pi)) - torch.log(self.std)
        return torch.logsumexp(self.log_weight + per_component.sum(-1), -1)

    def entropy_estimate(self) -> Tensor:
        """The components' mean entropy: a lower bound of the mixture's own, which has no closed form, with a gradient.

        It is exact when one component takes all or all coincide, and at most log K below the truth; so as a bonus it
        widens the answers that there are but does not reward keeping several.
        """
        per_component = (0.5 * math.log(2 * math.pi * math.e) + torch.log(self.std)).sum(-1)
        return (torch.exp(self.log_weight) * per_component).sum(-1)


class BoundedNormal:
    """DreamerV3's distribution over an action vector in [-1, 1]^A, from raw numbers (..., 2A)."""

    def __init__(self, raw: Tensor, min_std: float = 0.1, max_std: float = 1.0) -> None:
        mean, spread = raw.chunk(2, -1)
        self.mean = torch.tanh(mean)
        self.std = (max_std - min_std) * torch.sigmoid(spread + 2) + min_std

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) / self.std
        return (-0.5 * (z * z + math.log(2 * math.pi)) - torch.log(self.std)).sum(-1)

    def entropy(self) -> Tensor:
        return (0.5 * math.log(2 * math.pi * math.e) + torch.log(self.std)).sum(-1)


def bernoulli_loss(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")
