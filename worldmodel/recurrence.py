"""The RSSM's recurrent step, and its unrolling over a sequence with a backward pass of its own.

Recurrent training is bound by its many small operations. So weights are cut to shape and cast once a sequence, and on
the way back only what hangs on the recurrence is done step by step: each weight's gradient is one product over all
steps, instead of a sum of one product a step. Matrices may be multiplied in bfloat16; states, norms and sums stay
float32. Autograd through `RSSM.observe_step`, step by step, is what tests compare it to.

Shapes: T time, B batch, D deter, H hidden, S categoricals, C classes, G blocks of d = D / G.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.distributions import UNIMIX, drawn, mixed
from worldmodel.fused import by_block, gated, gated_back, normed, normed_back, normed_sum


class Weights(NamedTuple):
    """All that takes part in the recurrence."""

    deter: Tensor  # (H, D)
    deter_bias: Tensor
    deter_norm: Tensor
    stoch: Tensor  # (H, S * C)
    stoch_bias: Tensor
    stoch_norm: Tensor
    core: Tensor  # (G, d + 3 H, d)
    core_bias: Tensor
    core_norm: Tensor
    gates: Tensor  # (G, d, 3 d)
    gates_bias: Tensor
    posterior: Tensor  # (H, D)
    posterior_bias: Tensor
    posterior_norm: Tensor
    out: Tensor  # (S * C, H)
    out_bias: Tensor


class Step(NamedTuple):
    """What one step leaves for its way back."""

    of_deter: Tensor  # (B, H) before its norm
    of_stoch: Tensor  # (B, H) before its norm
    shared: Tensor  # (B, 3 H)
    core: Tensor | None  # (B, D) before its norm
    hidden: Tensor  # (B, D)
    gates: Tensor  # (G, B, 3 d) before their bias


class Cell:
    """One step forwards and one back, on weights that were made ready once.

    `stoch` and logits are laid out (C, S) here, not (S, C) as elsewhere; what is multiplied comes in `dtype`.

    Args:
        shape: (S, C).
        dtype: of the matrices that are multiplied.
    """

    def __init__(self, weights: Weights, shape: tuple[int, int], dtype: torch.dtype) -> None:
        weights = Weights(*(weight.detach() for weight in weights))
        self.dtype, self.full = dtype, weights
        # A softmax over few last entries is slow: inside, classes come before categoricals.
        weights = weights._replace(
            stoch=classes_first(weights.stoch, shape),
            out=classes_first(weights.out.mT, shape).mT,
            out_bias=classes_first(weights.out_bias, shape),
        )
        self.low = low = Weights(*(weight.to(dtype).contiguous() for weight in weights))
        self.blocks, rows, self.d = weights.core.shape
        # What the blocks share of their input meets one matrix, instead of being copied for each block.
        self.core_own = low.core[:, : self.d].contiguous()  # (G, d, d)
        self.core_shared = low.core[:, self.d :].transpose(0, 1).reshape(rows - self.d, -1)  # (3 H, D)

    def by_block(self, x: Tensor) -> Tensor:
        return by_block(x, self.blocks)

    def step(
        self, deter: Tensor, own: Tensor, stoch: Tensor, action_in: Tensor, keep: bool = False
    ) -> tuple[Tensor, Tensor, Step]:
        """Next deter (B, D), in float32 and as it is multiplied.

        Args:
            deter: (B, D) in float32.
            own: the same as it is multiplied.
            stoch: (B, C * S).
            action_in: (B, H) the projected action.
            keep: whether there will be a way back.
        """
        low, full, dtype = self.low, self.full, self.dtype
        of_deter = F.linear(own, low.deter, low.deter_bias)
        of_stoch = F.linear(stoch, low.stoch, low.stoch_bias)
        after = normed(of_deter, full.deter_norm, dtype), normed(of_stoch, full.stoch_norm, dtype)
        shared = torch.cat([*after, action_in], -1)
        of_shared, of_own = torch.mm(shared, self.core_shared), torch.bmm(self.by_block(own), self.core_own)
        hidden, core = normed_sum(of_shared, of_own, full.core_bias, full.core_norm, keep)
        gates = torch.bmm(self.by_block(hidden), low.gates)
        arrived, narrow = gated(gates, full.gates_bias, deter)
        return arrived, narrow, Step(of_deter, of_stoch, shared, core, hidden, gates)

    def step_back(self, grad: Tensor, deter: Tensor, saved: Step) -> tuple["StepGrads", Tensor, Tensor]:
        """From the gradient (B, D) of what `step` returned to those of its pre-activations, of deter and of stoch."""
        low, full = self.low, self.full
        assert saved.core is not None
        gates, back = gated_back(grad, saved.gates, full.gates_bias, deter)
        hidden = torch.empty_like(saved.hidden)
        self.by_block(hidden).copy_(torch.bmm(gates, low.gates.mT))
        core, core_norm = normed_back(hidden, saved.core, full.core_norm)
        of_deter, of_stoch, of_action = (x.contiguous() for x in torch.mm(core, self.core_shared.mT).chunk(3, -1))
        of_deter, deter_norm = normed_back(of_deter, saved.of_deter, full.deter_norm)
        of_stoch, stoch_norm = normed_back(of_stoch, saved.of_stoch, full.stoch_norm)
        back.add_(torch.mm(of_deter, low.deter))
        self.by_block(back).add_(torch.bmm(self.by_block(core), self.core_own.mT))
        grads = StepGrads(of_deter, deter_norm, of_stoch, stoch_norm, of_action, core, core_norm, gates)
        return grads, back, torch.mm(of_stoch, low.stoch).float()

    def posterior(self, own: Tensor, token_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Before the norm (B, H), after it (B, H), and logits (B, C * S)."""
        before = token_in + F.linear(own, self.low.posterior, self.low.posterior_bias)
        after = normed(before, self.full.posterior_norm, self.dtype)
        return before, after, F.linear(after, self.low.out, self.low.out_bias)

    def posterior_back(self, grad: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradient (B, C * S) of logits to those before the norm, of the norm's scale, and of deter (B, D)."""
        of_before, norm = normed_back(torch.mm(grad, self.low.out), before, self.full.posterior_norm)
        return of_before, norm, torch.mm(of_before, self.low.posterior).float()


def classes_first(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """(..., S * C) as (..., C * S), and back when called with (C, S)."""
    return x.unflatten(-1, shape).mT.flatten(-2)


class StepGrads(NamedTuple):
    """Gradients of one step's pre-activations, as they are multiplied, and of its norms' scales."""

    of_deter: Tensor
    deter_norm: Tensor
    of_stoch: Tensor
    stoch_norm: Tensor
    of_action: Tensor
    core: Tensor
    core_norm: Tensor
    gates: Tensor  # (G, B, 3 d)


class Unroll(torch.autograd.Function):
    """The filter over a whole sequence, time first.

    Inputs: the projected actions and tokens (T, B, H), `keep` (T, B, 1) which is 0 where a row starts afresh, the state
    before (B, D) and (B, S * C), which gets no gradient, the shape (S, C), the matrices' dtype, and `Weights`.
    Outputs: deter (T, B, D), stoch (T, B, S, C) and the posterior's log probabilities (T, B, S, C).
    """

    @staticmethod
    def forward(ctx: Any, action_in: Tensor, token_in: Tensor, keep: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        deter, stoch, shape, dtype, *tensors = rest
        cell = Cell(Weights(*tensors), shape, dtype)
        stoch = classes_first(stoch, shape)
        deters, stochs, plain, states, steps, posteriors = [], [], [], [], [], []
        action_in, keeps = action_in.to(dtype), keep.to(dtype)
        own, stoch = deter.to(dtype), stoch.to(dtype)
        for t in range(len(action_in)):
            before = deter * keep[t], own * keeps[t], stoch * keeps[t]
            deter, own, saved = cell.step(*before, action_in[t], keep=True)
            *posterior, logits = cell.posterior(own, token_in[t])
            one_hot, probs = drawn(logits, shape, keep=True)
            stoch = one_hot.flatten(1)
            for kept, value in zip(
                (deters, stochs, plain, states, steps, posteriors),
                (deter, one_hot, probs, before, saved, posterior),
                strict=True,
            ):
                kept.append(value)
        probs = torch.stack(plain)
        ctx.cell, ctx.keep, ctx.states, ctx.steps, ctx.posteriors = cell, keep, states, steps, posteriors
        outputs = torch.stack(deters), torch.stack(stochs).float().mT, torch.log(mixed(probs)).mT
        ctx.save_for_backward(outputs[0], probs)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_deter, of_stoch, of_log_prob = grads
        deter, plain = ctx.saved_tensors  # (T, B, D), (T, B, C, S)
        cell: Cell = ctx.cell
        # Straight through the sample, and of the log probabilities.
        of_mixed = of_stoch.mT + of_log_prob.mT / mixed(plain)
        later_deter, later_stoch = torch.zeros_like(deter[0]), torch.zeros_like(plain[0])
        logits, befores, norms, steps = [], [], [], []
        for t in reversed(range(len(deter))):
            weighted = (of_mixed[t] + later_stoch) * plain[t]
            of_logits = (weighted - plain[t] * weighted.sum(1, keepdim=True)) * (1 - UNIMIX)
            of_logits = of_logits.flatten(1).to(cell.dtype)
            before, norm, of_arrived = cell.posterior_back(of_logits, ctx.posteriors[t][0])
            of_arrived += of_deter[t]
            of_arrived += later_deter
            step, later_deter, later_stoch = cell.step_back(of_arrived, ctx.states[t][0], ctx.steps[t])
            later_deter *= ctx.keep[t]
            later_stoch = (later_stoch * ctx.keep[t]).view_as(weighted)
            for kept, value in zip((logits, befores, norms, steps), (of_logits, before, norm, step), strict=True):
                kept.append(value)
        for kept in (logits, befores, norms, steps):
            kept.reverse()
        of_token, of_out = torch.stack(befores), torch.cat(logits)
        of_step = StepGrads(*(torch.stack(parts) for parts in zip(*steps, strict=True)))
        weights = _weight_grads(ctx, cell, deter, of_step, of_token.flatten(0, 1), torch.stack(norms), of_out)
        classes, categoricals = plain.shape[2:]
        back = (classes, categoricals)  # to the layout that the weights have
        weights = weights._replace(
            stoch=classes_first(weights.stoch, back),
            out=classes_first(weights.out.mT, back).mT,
            out_bias=classes_first(weights.out_bias, back),
        )
        return of_step.of_action.float(), of_token.float(), None, None, None, None, None, *weights


def _weight_grads(
    ctx: Any, cell: Cell, deter: Tensor, step: StepGrads, of_before: Tensor, posterior_norm: Tensor, of_out: Tensor
) -> Weights:
    """One product over all steps and rows for each weight."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        return torch.mm(left.mT, right).float()

    def total(x: Tensor) -> Tensor:
        return x.sum(0, dtype=torch.float32)

    shared, hidden = (torch.cat([getattr(step, name) for step in ctx.steps]) for name in ("shared", "hidden"))
    _, states, stochs = (torch.cat(parts) for parts in zip(*ctx.states, strict=True))
    after = torch.cat([after for _, after in ctx.posteriors])
    of_deter, of_stoch, core = (x.flatten(0, 1) for x in (step.of_deter, step.of_stoch, step.core))
    gates = step.gates.transpose(0, 1).flatten(1, 2)  # (G, T B, 3 d)
    own = torch.bmm(cell.by_block(states).mT, cell.by_block(core)).float()
    of_shared = product(shared, core).view(-1, cell.blocks, cell.d).transpose(0, 1)
    return Weights(
        deter=product(of_deter, states),
        deter_bias=total(of_deter),
        deter_norm=total(step.deter_norm),
        stoch=product(of_stoch, stochs),
        stoch_bias=total(of_stoch),
        stoch_norm=total(step.stoch_norm),
        core=torch.cat([own, of_shared], 1),
        core_bias=total(core),
        core_norm=total(step.core_norm),
        gates=torch.bmm(cell.by_block(hidden).mT, gates).float(),
        gates_bias=gates.sum(1, dtype=torch.float32).flatten(),
        posterior=product(of_before, deter.flatten(0, 1).to(cell.dtype)),
        posterior_bias=total(of_before),
        posterior_norm=total(posterior_norm),
        out=product(of_out, after),
        out_bias=total(of_out),
    )
