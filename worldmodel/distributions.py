"""Random variables of DreamerV3, as functions from tensors to tensors; plus the actor's mixture of normals."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

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
    """Expected value (...) of a two-hot head's logits (..., 255)."""
    return expected_bin(torch.softmax(logits, -1), bins)


def expected_bin(probs: Tensor, bins: Tensor) -> Tensor:
    """Summed from the middle outwards in pairs, so that equal and opposite tails of size 5e8 cancel exactly."""
    half = BINS // 2
    left = probs[..., :half] * bins[:half]
    right = probs[..., half + 1 :] * bins[half + 1 :]
    return (left + right.flip(-1)).sum(-1)


def twohot_loss(logits: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy (...) of logits (..., 255) with the two bins around `target` (...), without building one-hots."""
    return twohot_cross_entropy(torch.log_softmax(logits, -1), target, bins)


def twohot_cross_entropy(log_probs: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """As `twohot_loss`, from log probabilities (..., 255), which several targets may share."""
    target = target.detach()
    above = torch.searchsorted(bins, target.contiguous(), right=True).clamp(1, BINS - 1)
    below = above - 1
    low, high = bins[below], bins[above]
    weight = ((target - low) / (high - low)).clamp(0, 1)
    at = torch.gather(log_probs, -1, torch.stack([below, above], -1))
    return -((1 - weight) * at[..., 0] + weight * at[..., 1])


class ActionMixture:
    """A mixture of K bounded normals over an action vector in [-1, 1]^A.

    One component takes the whole vector, so two right answers (left or right around the box) stay two answers instead
    of their useless mean. Built from raw numbers (..., K * (1 + 2A)).
    """

    def __init__(self, raw: Tensor, actions: int, min_std: float, max_std: float, least: float = 0.0) -> None:
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
