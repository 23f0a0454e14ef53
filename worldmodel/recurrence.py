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

from worldmodel.distributions import UNIMIX, mixed
from worldmodel.nets import RMS_EPS


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
    core: Tensor  # (B, D) before its norm
    hidden: Tensor  # (B, D)
    reset: Tensor  # (G, B, d)
    proposed: Tensor  # (G, B, d) before reset and tanh
    candidate: Tensor  # (G, B, d)
    update: Tensor  # (G, B, d)


def normed(x: Tensor, scale: Tensor) -> Tensor:
    return F.silu(F.rms_norm(x, scale.shape, scale, RMS_EPS))


def normed_back(grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of `normed(x, scale)` to those of x (..., N) and of the scale before it is summed (..., N)."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPS)
    plain = x * inverse
    grad = torch.ops.aten.silu_backward(grad, plain * scale)
    along = grad * scale
    return inverse * (along - plain * (along * plain).mean(-1, keepdim=True)), grad * plain


class Cell:
    """One step forwards and one back, on weights that were made ready once.

    `stoch` and logits are laid out (C, S) here, not (S, C) as elsewhere.

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
        self.gates_bias = weights.gates_bias.view(self.blocks, 1, 3 * self.d)

    def by_block(self, x: Tensor) -> Tensor:
        """(B, G * k) to a view (G, B, k)."""
        return x.view(len(x), self.blocks, -1).transpose(0, 1)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x.to(self.dtype), weight, bias).float()

    def step(self, deter: Tensor, stoch: Tensor, action_in: Tensor) -> tuple[Tensor, Step]:
        """Next deter (B, D) from deter (B, D), stoch (B, C * S) and the projected action (B, H)."""
        low, full, own = self.low, self.full, deter.to(self.dtype)
        of_deter = self.linear(own, low.deter, low.deter_bias)
        of_stoch = self.linear(stoch, low.stoch, low.stoch_bias)
        shared = torch.cat([normed(of_deter, full.deter_norm), normed(of_stoch, full.stoch_norm), action_in], -1)
        core = torch.mm(shared.to(self.dtype), self.core_shared).float().add_(full.core_bias)
        self.by_block(core).add_(torch.bmm(self.by_block(own), self.core_own))
        hidden = normed(core, full.core_norm)
        gates = torch.bmm(self.by_block(hidden.to(self.dtype)), low.gates) + self.gates_bias
        reset, proposed, update = gates.split(self.d, -1)
        reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
        candidate = torch.sigmoid(reset * proposed * 2).mul_(2).sub_(1)  # tanh, which itself is five times slower
        arrived = torch.empty_like(deter)
        torch.lerp(self.by_block(deter), candidate, update, out=self.by_block(arrived))
        return arrived, Step(of_deter, of_stoch, shared, core, hidden, reset, proposed, candidate, update)

    def step_back(self, grad: Tensor, deter: Tensor, saved: Step) -> tuple["StepGrads", Tensor, Tensor]:
        """From the gradient (B, D) of what `step` returned to those of its pre-activations, of deter and of stoch."""
        low, full = self.low, self.full
        grad_blocks, before = self.by_block(grad), self.by_block(deter)
        candidate, update, reset = saved.candidate, saved.update, saved.reset
        of_product = grad_blocks * update * (1 - candidate.square())
        of_reset = of_product * saved.proposed * reset * (1 - reset)
        of_update = grad_blocks * (candidate - before) * update * (1 - update)
        gates = torch.cat([of_reset, of_product * reset, of_update], -1)
        hidden = torch.empty_like(saved.hidden)
        self.by_block(hidden).copy_(torch.bmm(gates.to(self.dtype), low.gates.mT))
        core, core_norm = normed_back(hidden, saved.core, full.core_norm)
        core_low = core.to(self.dtype)
        of_deter, of_stoch, of_action = torch.mm(core_low, self.core_shared.mT).float().chunk(3, -1)
        of_deter, deter_norm = normed_back(of_deter, saved.of_deter, full.deter_norm)
        of_stoch, stoch_norm = normed_back(of_stoch, saved.of_stoch, full.stoch_norm)
        back = torch.mm(of_deter.to(self.dtype), low.deter).float()
        back_blocks = self.by_block(back)
        back_blocks.add_(torch.bmm(self.by_block(core_low), self.core_own.mT)).addcmul_(grad_blocks, 1 - update)
        grads = StepGrads(of_deter, deter_norm, of_stoch, stoch_norm, of_action, core, core_norm, gates)
        return grads, back, torch.mm(of_stoch.to(self.dtype), low.stoch).float()

    def posterior(self, deter: Tensor, token_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Before the norm (B, H), after it (B, H), and logits (B, C * S)."""
        before = self.linear(deter, self.low.posterior, self.low.posterior_bias).add_(token_in)
        after = normed(before, self.full.posterior_norm)
        return before, after, self.linear(after, self.low.out, self.low.out_bias)

    def posterior_back(self, grad: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradient (B, C * S) of logits to those before the norm, of the norm's scale, and of deter (B, D)."""
        after = torch.mm(grad.to(self.dtype), self.low.out).float()
        of_before, norm = normed_back(after, before, self.full.posterior_norm)
        return of_before, norm, torch.mm(of_before.to(self.dtype), self.low.posterior).float()


def classes_first(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """(..., S * C) as (..., C * S), and back when called with (C, S)."""
    return x.unflatten(-1, shape).mT.flatten(-2)


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


class StepGrads(NamedTuple):
    """Gradients of one step's pre-activations, and of its norms' scales, each row's own."""

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
        categoricals, classes = shape
        stoch = classes_first(stoch, shape)
        deters, stochs, plain, states, steps, posteriors = [], [], [], [], [], []
        for t in range(len(action_in)):
            before = deter * keep[t], stoch * keep[t]
            deter, saved = cell.step(*before, action_in[t])
            *posterior, logits = cell.posterior(deter, token_in[t])
            probs = torch.softmax(logits.view(-1, classes, categoricals), 1)
            one_hot = draw(mixed(probs))
            stoch = one_hot.flatten(1)
            for kept, value in zip(
                (deters, stochs, plain, states, steps, posteriors),
                (deter, one_hot, probs, before, saved, posterior),
                strict=True,
            ):
                kept.append(value)
        probs = torch.stack(plain)
        ctx.cell, ctx.keep, ctx.states, ctx.steps, ctx.posteriors = cell, keep, states, steps, posteriors
        outputs = torch.stack(deters), torch.stack(stochs).mT, torch.log(mixed(probs)).mT
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
            before, norm, of_arrived = cell.posterior_back(of_logits.flatten(1), ctx.posteriors[t][0])
            of_arrived += of_deter[t]
            of_arrived += later_deter
            step, later_deter, later_stoch = cell.step_back(of_arrived, ctx.states[t][0], ctx.steps[t])
            later_deter *= ctx.keep[t]
            later_stoch = (later_stoch * ctx.keep[t]).view_as(of_logits)
            for kept, value in zip((logits, befores, norms, steps), (of_logits, before, norm, step), strict=True):
                kept.append(value)
        for kept in (logits, befores, norms, steps):
            kept.reverse()
        of_token, of_out = torch.stack(befores), torch.stack(logits).flatten(0, 1).flatten(1)
        of_step = StepGrads(*(torch.stack(parts) for parts in zip(*steps, strict=True)))
        weights = _weight_grads(ctx, cell, deter, of_step, of_token.flatten(0, 1), torch.cat(norms), of_out)
        classes, categoricals = plain.shape[2:]
        back = (classes, categoricals)  # to the layout that the weights have
        weights = weights._replace(
            stoch=classes_first(weights.stoch, back),
            out=classes_first(weights.out.mT, back).mT,
            out_bias=classes_first(weights.out_bias, back),
        )
        return of_step.of_action, of_token, None, None, None, None, None, *weights


def _weight_grads(
    ctx: Any, cell: Cell, deter: Tensor, step: StepGrads, of_before: Tensor, posterior_norm: Tensor, of_out: Tensor
) -> Weights:
    """One product over all steps and rows for each weight."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        return torch.mm(left.to(cell.dtype).mT, right.to(cell.dtype)).float()

    def by_block(x: Tensor) -> Tensor:
        return cell.by_block(x.to(cell.dtype))

    shared, hidden = (torch.cat([getattr(step, name) for step in ctx.steps]) for name in ("shared", "hidden"))
    states, stochs = (torch.cat(parts) for parts in zip(*ctx.states, strict=True))
    after = torch.cat([after for _, after in ctx.posteriors])
    of_deter, deter_norm, of_stoch, stoch_norm, _, core, core_norm = (x.flatten(0, 1) for x in step[:-1])
    gates = step.gates.transpose(0, 1).flatten(1, 2)  # (G, T B, 3 d)
    own = torch.bmm(by_block(states).mT, by_block(core)).float()
    of_shared = product(shared, core).view(-1, cell.blocks, cell.d).transpose(0, 1)
    return Weights(
        deter=product(of_deter, states),
        deter_bias=of_deter.sum(0),
        deter_norm=deter_norm.sum(0),
        stoch=product(of_stoch, stochs),
        stoch_bias=of_stoch.sum(0),
        stoch_norm=stoch_norm.sum(0),
        core=torch.cat([own, of_shared], 1),
        core_bias=core.sum(0),
        core_norm=core_norm.sum(0),
        gates=torch.bmm(by_block(hidden).mT, gates.to(cell.dtype)).float(),
        gates_bias=gates.sum(1).flatten(),
        posterior=product(of_before, deter.flatten(0, 1)),
        posterior_bias=of_before.sum(0),
        posterior_norm=posterior_norm.sum(0),
        out=product(of_out, after),
        out_bias=of_out.sum(0),
    )
