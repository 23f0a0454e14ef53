"""The recurrent state-space model of DreamerV3: a deterministic path `deter` and categorical latents `stoch`.

Source: `dreamerv3/rssm.py` of the official code, arXiv 2301.04104. Shapes: B batch, T time, A action (with the context
beside it), E tokens, D deter, S categoricals, C classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldmodel.distributions import categorical_kl, categorical_log_probs, drawn, mode_one_hot, sample_one_hot
from worldmodel.fused import normed
from worldmodel.nets import MLP, BlockLinear, Linear, NormedLinear, RMSNorm, Rounding, truncated_normal_
from worldmodel.recurrence import Cell, Unroll, Weights, classes_first


class State(NamedTuple):
    """One latent state a row: `deter` (..., D), `stoch` (..., S * C) one-hot."""

    deter: Tensor
    stoch: Tensor

    def feat(self) -> Tensor:
        return torch.cat([self.deter, self.stoch], -1)

    def __getitem__(self, index) -> "State":  # pyright: ignore[reportIncompatibleMethodOverride]
        return State(self.deter[index], self.stoch[index])

    def detach(self) -> "State":
        return State(self.deter.detach(), self.stoch.detach())


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the RSSM; the defaults are the official size1m."""

    deter: int = 512
    hidden: int = 64
    stoch: int = 32
    classes: int = 4
    blocks: int = 8
    free_nats: float = 1.0


class RSSM(Rounding, nn.Module):
    def __init__(self, config: RSSMConfig, tokens: int, actions: int) -> None:
        super().__init__()
        self.config = c = config
        self.flat = c.stoch * c.classes
        self.in_deter = NormedLinear(c.deter, c.hidden)
        self.in_stoch = NormedLinear(self.flat, c.hidden)
        self.in_action = NormedLinear(actions, c.hidden)
        self.core = BlockLinear(c.deter + c.blocks * 3 * c.hidden, c.deter, c.blocks)
        self.core_norm = RMSNorm(c.deter)
        self.gates = BlockLinear(c.deter, 3 * c.deter, c.blocks)
        self.prior = nn.Sequential(MLP(c.deter, c.hidden, 2), Linear(c.hidden, self.flat))
        # One linear map of deter and tokens together, kept as two so that the tokens' half leaves the time loop.
        self.posterior_deter = Linear(c.deter, c.hidden)
        self.posterior_tokens = nn.Linear(tokens, c.hidden, bias=False)
        for part in (self.posterior_deter, self.posterior_tokens):
            truncated_normal_(part.weight, c.deter + tokens)
        self.posterior_norm = RMSNorm(c.hidden)
        self.posterior_out = Linear(c.hidden, self.flat)

    @property
    def feat_size(self) -> int:
        return self.config.deter + self.flat

    def initial(self, batch: int) -> State:
        like = self.core.bias
        return State(like.new_zeros(batch, self.config.deter), like.new_zeros(batch, self.flat))

    def recurrent(self) -> Weights:
        a, z, p, out = self.in_deter, self.in_stoch, self.posterior_deter, self.posterior_out
        return Weights(
            *(a.linear.weight, a.linear.bias, a.norm.scale),
            *(z.linear.weight, z.linear.bias, z.norm.scale),
            *(self.core.weight, self.core.bias, self.core_norm.scale),
            *(self.gates.weight, self.gates.bias),
            *(p.weight, p.bias, self.posterior_norm.scale),
            *(out.weight, out.bias),
        )

    def _log_probs(self, logits: Tensor) -> Tensor:
        return categorical_log_probs(rearrange(logits, "... (s c) -> ... s c", s=self.config.stoch))

    def _step(self, state: State, action_in: Tensor) -> Tensor:
        """Next deter (B, D) from a state and the already projected action (B, hidden)."""
        c = self.config
        shared = torch.cat([self.in_deter(state.deter), self.in_stoch(state.stoch), action_in], -1)
        own = rearrange(state.deter, "b (g d) -> b g d", g=c.blocks)
        x = torch.cat([own, shared.unsqueeze(1).expand(-1, c.blocks, -1)], -1)
        x = F.silu(self.core_norm(self.core(rearrange(x, "b g d -> b (g d)"))))
        gates = rearrange(self.gates(x), "b (g three d) -> three b (g d)", g=c.blocks, three=3)
        candidate = torch.tanh(torch.sigmoid(gates[0]) * gates[1])
        update = torch.sigmoid(gates[2] - 1)
        return update * candidate + (1 - update) * state.deter

    def _posterior(self, deter: Tensor, token_in: Tensor) -> Tensor:
        x = F.silu(self.posterior_norm(self.posterior_deter(deter) + token_in))
        return self._log_probs(self.posterior_out(x))

    def prior_log_probs(self, deter: Tensor) -> Tensor:
        return self._log_probs(self.prior(deter))

    def observe(
        self, tokens: Tensor, action: Tensor, is_first: Tensor, state: State | None = None
    ) -> tuple[State, Tensor]:
        """Filter a sequence.

        Args:
            tokens: (B, T, E) encoded observations.
            action: (B, T, A) the action (and context) that led to each observation.
            is_first: (B, T) bool; there the state and the previous action are forgotten.

        Returns:
            States (B, T, ...) and the posterior's log probabilities (B, T, S, C).
        """
        state = self.initial(tokens.shape[0]) if state is None else state
        # Whatever does not depend on the recurrence is done once for the whole sequence.
        keep = (~is_first).to(tokens.dtype).unsqueeze(-1)
        action_in, token_in = self.in_action(action * keep), self.posterior_tokens(tokens)
        shape = (self.config.stoch, self.config.classes)
        by_time = (x.transpose(0, 1).contiguous() for x in (action_in, token_in, keep))
        deter, stoch, log_probs = Unroll.apply(*by_time, *state, shape, self.compute, *self.recurrent())
        return State(deter.transpose(0, 1), stoch.flatten(-2).transpose(0, 1)), log_probs.transpose(0, 1)

    def observe_step(self, state: State, token: Tensor, action: Tensor, is_first: Tensor | None = None) -> State:
        """One step of the filter, for acting: (B, E), (B, A), (B,) bool."""
        if is_first is not None:
            begins = is_first.unsqueeze(-1)  # NaN times 0 would be NaN
            deter, stoch, action = (torch.where(begins, 0.0, x) for x in (*state, action))
            state = State(deter, stoch)
        deter = self._step(state, self.in_action(action))
        log_prob = self._posterior(deter, self.posterior_tokens(token))
        return State(deter, rearrange(sample_one_hot(log_prob), "b s c -> b (s c)"))

    def imagine_step(self, state: State, action: Tensor, sample: bool = True) -> State:
        """One step without an observation: the latent is drawn from the prior, or is its mode."""
        deter = self._step(state, self.in_action(action))
        log_prob = self.prior_log_probs(deter)
        stoch = sample_one_hot(log_prob) if sample else mode_one_hot(log_prob)
        return State(deter, rearrange(stoch, "b s c -> b (s c)"))

    @torch.no_grad()
    def prepared(self) -> "Prepared":
        return Prepared(self)

    def imagine(self, state: State, action: Tensor, sample: bool = True) -> State:
        """Open loop: from states (B, ...) under actions (B, T, A) to states (B, T, ...)."""
        deters, stochs = [], []
        for t in range(action.shape[1]):
            state = self.imagine_step(state, action[:, t], sample)
            deters.append(state.deter)
            stochs.append(state.stoch)
        return State(torch.stack(deters, 1), torch.stack(stochs, 1))

    def kl(self, posterior: Tensor, deter: Tensor) -> tuple[Tensor, Tensor]:
        """Dynamics and representation loss (B, T) with free nats, from posterior log probs and their deters."""
        prior = self.prior_log_probs(deter)
        dynamics = categorical_kl(posterior.detach(), prior).clamp(min=self.config.free_nats)
        representation = categorical_kl(posterior, prior.detach()).clamp(min=self.config.free_nats)
        return dynamics, representation


class Ready(NamedTuple):
    """A state between `Prepared.enter` and `leave`."""

    deter: Tensor  # (N, D)
    own: Tensor  # (N, D) the same as it is multiplied
    stoch: Tensor  # (N, C * S) as it is multiplied, the classes first


class Prepared:
    """Steps without gradients, on weights that were cast and cut to shape once.

    To be made anew when weights have changed: some of what it holds are copies, some the weights themselves.
    """

    def __init__(self, rssm: RSSM) -> None:
        self.rssm, c, self.dtype = rssm, rssm.config, rssm.compute
        self.shape, self.turned = (c.stoch, c.classes), (c.classes, c.stoch)
        self.cell = Cell(rssm.recurrent(), self.shape, rssm.compute)
        mlp, out = rssm.prior
        self.layers = [
            (layer.linear.weight.to(rssm.compute), layer.linear.bias.to(rssm.compute), layer.norm.scale)
            for layer in mlp.children()
            if isinstance(layer, NormedLinear)
        ]
        assert isinstance(out, Linear)
        weight, bias = classes_first(out.weight.mT, self.shape).mT, classes_first(out.bias, self.shape)
        self.out = weight.to(rssm.compute).contiguous(), bias.to(rssm.compute)

    def enter(self, state: State) -> Ready:
        return Ready(state.deter, state.deter.to(self.dtype), classes_first(state.stoch, self.shape).to(self.dtype))

    def leave(self, stoch: Tensor) -> Tensor:
        return classes_first(stoch, self.turned)

    def observe(self, state: Ready, token: Tensor, action: Tensor) -> Ready:
        """One step, the latent drawn from the posterior."""
        deter, own, _ = self.cell.step(*state, self.rssm.in_action(action, self.dtype))
        logits = self.cell.posterior(own, self.rssm.posterior_tokens(token))[-1]
        return Ready(deter, own, drawn(logits, self.shape)[0].flatten(1))

    def imagine(self, state: Ready, action: Tensor) -> Ready:
        """One step, the latent drawn from the prior."""
        deter, own, _ = self.cell.step(*state, self.rssm.in_action(action, self.dtype))
        x = own
        for weight, bias, scale in self.layers:
            x = normed(F.linear(x, weight, bias), scale, self.dtype)
        return Ready(deter, own, drawn(F.linear(x, *self.out), self.shape)[0].flatten(1))
