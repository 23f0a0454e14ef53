"""LaProp with adaptive gradient clipping and warm-up, as DreamerV3 trains with; steps that are not finite are skipped.

Sources: Ziyin et al., "LaProp" (2020); Brock et al., "High-Performance Large-Scale Image Recognition Without
Normalization" (2021), for the clipping; `embodied/jax/opt.py` for how they are combined.
"""

# Torch's operations over lists of tensors have no public names; its own optimisers use these.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worldmodel.recorded import Recorded, mapped


class LaProp(torch.optim.Optimizer):
    """RMS-normalise first, then take momentum, so a small second-moment constant stays safe.

    Args:
        params: parameters, or groups of them.
        lr: learning rate after warm-up.
        warmup: steps of linear warm-up, from a rate of zero at the first.
        clip: a parameter's gradient is cut to this share of the parameter's norm.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        warmup: int = 1000,
        clip: float = 0.3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        min_norm: float = 1e-3,
    ) -> None:
        defaults = {"lr": lr, "warmup": warmup, "clip": clip, "betas": betas, "eps": eps, "min_norm": min_norm}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"nu": torch.zeros_like(p), "mu": torch.zeros_like(p), "step": torch.zeros(())}
            nus, mus = [self.state[p]["nu"] for p in params], [self.state[p]["mu"] for p in params]
            steps = [self.state[p]["step"] for p in params]
            torch._foreach_add_(steps, 1)
            count = float(steps[0])
            beta1, beta2 = group["betas"]
            grads = [p.grad for p in params]
            upper = torch._foreach_norm(params)
            torch._foreach_clamp_min_(upper, group["min_norm"])
            torch._foreach_mul_(upper, group["clip"])
            ratio = torch._foreach_div(torch._foreach_norm(grads), upper)
            torch._foreach_clamp_min_(ratio, 1.0)
            grads = torch._foreach_div(grads, ratio)
            torch._foreach_mul_(nus, beta2)
            torch._foreach_addcmul_(nus, grads, grads, 1 - beta2)
            scale = torch._foreach_div(nus, 1 - beta2**count)
            torch._foreach_sqrt_(scale)
            torch._foreach_add_(scale, group["eps"])
            torch._foreach_mul_(mus, beta1)
            torch._foreach_add_(mus, torch._foreach_div(grads, scale), alpha=1 - beta1)
            # The official schedule counts finished steps: the first one fills the averages and moves nothing.
            lr = group["lr"] * min(1.0, (count - 1) / group["warmup"] if group["warmup"] else 1.0)
            torch._foreach_add_(params, mus, alpha=-lr / (1 - beta1**count))


class SafeStep:
    """One optimiser step that refuses numbers that are not finite and counts the refusals."""

    def __init__(self, optimizer: LaProp) -> None:
        self.optimizer = optimizer
        self.skipped = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self, loss: Tensor) -> bool:
        """Backpropagate and step; False if the loss or a gradient was not finite and nothing was changed."""
        self.optimizer.zero_grad(set_to_none=True)
        finite = bool(torch.isfinite(loss))
        if finite:
            loss.backward()
            finite = bool(_finite([p.grad for p in self.parameters if p.grad is not None]))
        return self.take(finite)

    def take(self, finite: bool) -> bool:
        """Step on the gradients that there are; not if they are not finite, and then False."""
        if finite:
            self.optimizer.step()
        else:
            self.skipped += 1
        return finite


def _finite(grads: list[Tensor]) -> Tensor:
    return torch.isfinite(torch.stack(torch._foreach_norm(grads)).sum())


class Slope(NamedTuple):
    loss: Tensor  # ()
    beside: Any  # what the loss function gives beside it
    finite: bool  # the loss and all gradients


class Gradients:
    """A loss and its gradients, which it leaves in the parameters' `grad` for `SafeStep.take`; `Recorded`.

    Args:
        loss_of: from trees of tensors to a loss (scalar) and a tree of tensors beside it.
        parameters: those that the optimiser has; not all of them need have part in the loss.
    """

    def __init__(self, loss_of: Callable[..., tuple[Tensor, Any]], parameters: Iterable[nn.Parameter]) -> None:
        self.loss_of, self.parameters = loss_of, list(parameters)
        self._found = Recorded(self._find)

    def _find(self, *inputs: Any) -> tuple[Tensor, Any, Tensor, list[Tensor | None]]:
        for p in self.parameters:
            p.grad = None
        loss, beside = self.loss_of(*inputs)
        loss.backward()
        grads = [p.grad for p in self.parameters]
        finite = torch.isfinite(loss.detach()) & _finite([grad for grad in grads if grad is not None])
        return loss.detach(), mapped(beside, Tensor.detach), finite, grads

    def __call__(self, *inputs: Any) -> Slope:
        loss, beside, finite, grads = self._found(*inputs)
        for p, grad in zip(self.parameters, grads, strict=True):
            p.grad = grad
        return Slope(loss, beside, bool(finite))
