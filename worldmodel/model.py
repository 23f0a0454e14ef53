"""The world model: encoder, RSSM, decoder and heads; what trains them is in `worldmodel.loss`.

DreamerV3's, with what this project adds: channels scaled by their own statistics, observations carried beside the
latent and moved on by a transition that sees what the simulator sees (observation, action, physics), a decoder that
states its noise, the context beside the action, and a head that reads the context back.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.calibration import Calibration
from worldmodel.context import ContextSpec
from worldmodel.distributions import symexp, symlog, twohot_bins, twohot_mean
from worldmodel.ensemble import Ensemble
from worldmodel.nets import MLP, Head, ImageDecoder, ImageEncoder, Linear, within
from worldmodel.replay import Batch, Statistics
from worldmodel.rssm import RSSM, Prepared, RSSMConfig, State
from worldmodel.transition import Transition


class Belief(NamedTuple):
    """What the model holds of a moment: the RSSM's state, and the vector observation that it carries on.

    `vector` (..., D) is scaled, seen where there was an observation, imagined where not; of width 0 if nothing is
    carried.
    """

    deter: Tensor
    stoch: Tensor
    vector: Tensor

    def feat(self) -> Tensor:
        """Features (..., F) for heads and critic: `deter`, and the carried observation or, without one, `stoch`.

        Beside the observation itself, what the posterior's `stoch` says of it is a temptation: the prior's, in dreams,
        says it less exactly, and a reward head that relied on it paid half of what was due.
        """
        beside = within(self.vector) if self.vector.shape[-1] else self.stoch
        return torch.cat([self.deter, beside], -1)

    @property
    def fixed(self) -> int:
        """How many of the features, the first ones, pass no gradient on."""
        return 0 if self.deter.requires_grad else self.deter.shape[-1]

    def at(self, *index) -> "Belief":
        return Belief(self.deter[index], self.stoch[index], self.vector[index])

    def reshape(self, *shape: int) -> "Belief":
        """Other leading dimensions; the last stays."""
        return Belief(*(x.reshape(*shape, x.shape[-1]) for x in self))

    def joined(self, others: "Belief") -> "Belief":
        return Belief(*(torch.cat(pair) for pair in zip(self, others, strict=True)))

    def detach(self) -> "Belief":
        return Belief(*(x.detach() for x in self))

    @property
    def latent(self) -> State:
        return State(self.deter, self.stoch)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape and the loss of a world model."""

    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    units: int = 64  # width of encoder, decoder and heads
    depth: int = 4  # channels of the image networks are multiples of it
    layers: int = 3
    context_dropout: float = 0.5  # share of training segments whose physics is hidden: the robot's own view
    carry: bool = True  # predict changes of the last observation and feed it back; False decodes from the latent alone
    noise_floor: float = 0.02  # least standard deviation a decoded channel may claim, as a share of its (change's) own
    vector_scale: float = 10.0  # weight of the vector observation's loss
    vector_loss: Literal["noise", "symlog"] = "noise"  # the decoder states its noise; or DreamerV3's squared error
    representation_scale: float = 0.1


@dataclass(frozen=True)
class Spaces:
    """Shapes the model is built for: D vector channels, A actions, images or not."""

    vector: int
    action: int
    image: bool = False


def disturbed(before: Tensor, step_std: Tensor, share: float) -> Tensor:
    """Carried observations (..., D) as a rollout has them, wrong by up to `share` of a step: learnt is the way back.

    Without it, errors of one step feed those of the next; 25 steps ahead they were measured at twice the size.
    Source: Sanchez-Gonzalez et al., "Learning to Simulate Complex Physics with Graph Networks" (2020). Some rows
    stay clean.
    """
    size = share * torch.rand_like(before[..., :1])
    return before + size * step_std * torch.randn_like(before)


class WorldModel(nn.Module):
    """Shapes: B batch, T time, D vector channels, A actions, C context factors, F features.

    Why observations are carried: 32 categoricals say where a box is to a few centimetres, and whether a finger touches
    it is decided by millimetres. The latent is left to hold what the observation does not say.

    Why a `transition` of its own: an RSSM that is told the friction still prefers to remember how the box slid, and
    then dreams of the floor it remembers. The transition remembers nothing, so that it has to take the physics it is
    told; the decoder only adds what memory knows better. Where physics is not told, memory is all there is.
    """

    def __init__(self, config: ModelConfig, spaces: Spaces, context: ContextSpec) -> None:
        super().__init__()
        self.config, self.spaces, self.context = config, spaces, context
        units, layers = config.units, config.layers
        if config.carry and config.vector_loss != "noise":
            raise ValueError(
                "a carried observation is predicted with its noise: give vector_loss noise, or carry=False"
            )
        self.carried = spaces.vector if config.carry else 0
        self.encoder = MLP(spaces.vector, units, layers)
        self.image_encoder = ImageEncoder(config.depth) if spaces.image else None
        tokens = units + (self.image_encoder.outputs if self.image_encoder else 0)
        self.rssm = RSSM(config.rssm, tokens, spaces.action + 2 * len(context) + self.carried)
        self.feat_size = feat = config.rssm.deter + (self.carried or self.rssm.flat)
        self.transition = None
        if config.carry:
            given = spaces.vector + spaces.action + 2 * len(context)
            self.transition = Transition(spaces.vector, spaces.action, len(context), units, layers)
            # Not from `stoch`: the posterior's has seen the very observation that is to be predicted.
            self.decoder = Head(config.rssm.deter + given, units, layers, 2 * spaces.vector, outscale=0.0)
        else:
            self.decoder = Head(feat, units, layers, (2 if config.vector_loss == "noise" else 1) * spaces.vector)
        self.image_decoder = None
        if spaces.image:
            rest = self.rssm.flat + self.carried
            self.image_decoder = ImageDecoder(config.rssm.deter, rest, config.depth, units)
        self.reward = Head(feat, units, 1, 255, outscale=0.0)
        self.continuation = Head(feat, units, 1, 1)
        self.context_head = None
        if len(context):
            self.context_head = nn.Sequential(MLP(feat, units, 1), Linear(units, 2 * len(context)))
        self.mean: Tensor
        self.std: Tensor
        self.step_std: Tensor
        self.bins: Tensor
        self.register_buffer("mean", torch.zeros(spaces.vector))
        self.register_buffer("std", torch.ones(spaces.vector))
        self.register_buffer("step_std", torch.ones(spaces.vector))  # of the change in a step, in shares of `std`
        self.register_buffer("bins", twohot_bins())
        self.ensemble: Ensemble | None = None
        self.calibration: Calibration | None = None
        self.widening: tuple[float, ...] | None = None  # of the context's stated deviation: worldmodel.estimate

    def add_ensemble(self, members: int) -> None:
        """Gives the model judges of its transition, untrained; none without a transition, or of 0 members."""
        self.ensemble = None
        if members and self.transition is not None:
            with torch.random.fork_rng(devices=[]):  # all else comes out the same with and without them
                self.ensemble = Ensemble(members, self.spaces.vector, self.spaces.action, len(self.context))

    # -- observations -------------------------------------------------------------------------------------------------

    def set_statistics(self, statistics: Statistics) -> None:
        self.mean.copy_(torch.as_tensor(statistics.mean))
        self.std.copy_(torch.as_tensor(statistics.std))
        self.step_std.copy_(torch.as_tensor(statistics.step_std) / self.std)

    def scale(self, vector: Tensor) -> Tensor:
        """Log units to comparable scale: zero mean, unit standard deviation over the training logs."""
        return (vector - self.mean) / self.std

    def encode(self, vector: Tensor, image: Tensor | None = None) -> Tensor:
        """Observations (..., D) [and images (..., 64, 64, 3) uint8] to tokens (..., E)."""
        tokens = self.encoder(symlog(self.scale(vector)))
        if self.image_encoder is None:
            return tokens
        if image is None:
            raise ValueError("this world model was trained with images; give one beside the vector")
        flat = rearrange(image, "... h w c -> (...) h w c").float() / 255
        pixels = self.image_encoder(flat).reshape(*tokens.shape[:-1], -1)
        return torch.cat([tokens, pixels], -1)

    def floored(self, log_std: Tensor) -> Tensor:
        low = math.log(self.config.noise_floor)
        return low + nn.functional.softplus(log_std - low)

    def expected(self, latent: State, before: Tensor, inputs: Tensor, dreaming: bool = False) -> tuple[Tensor, Tensor]:
        """Scaled observation and the logarithm of its standard deviation (..., D), in units of `step_std` if carried.

        From the latent, the scaled observation before, and the RSSM's inputs (..., ·). In training gradients reach the
        decoder alone, as the transition has a loss of its own; in dreams they run through the transition alone.
        """
        if self.transition is None:
            out = self.decoder(latent.feat())
            if self.config.vector_loss == "symlog":
                return symexp(out), torch.zeros_like(out)
            mean, log_std = out.chunk(2, -1)
            return mean, self.floored(log_std)
        with torch.set_grad_enabled(torch.is_grad_enabled() and dreaming):
            change, log_std = (self.is_told(inputs) * part for part in self.transition(before, inputs))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not dreaming):
            more, wider = self.decoder(torch.cat([latent.deter, before.clamp(-8, 8), inputs], -1)).chunk(2, -1)
        return before + self.step_std * (change + more), self.floored(log_std + wider)

    def is_told(self, inputs: Tensor) -> Tensor:
        """(..., 1): 1 where the physics is told, and everywhere in a model whose logs told none."""
        if not len(self.context):
            return torch.ones_like(inputs[..., :1])
        return inputs[..., self.spaces.action + len(self.context) :].amax(-1, keepdim=True)

    def decode(self, belief: Belief) -> Tensor:
        """The expected vector observation (..., D), in the log's own units."""
        scaled = belief.vector if self.carried else self.expected(belief.latent, belief.vector, belief.vector)[0]
        return scaled * self.std + self.mean

    def decode_image(self, belief: Belief) -> Tensor:
        """The expected image (..., 64, 64, 3) in [0, 1]."""
        if self.image_decoder is None:
            raise ValueError("this world model was trained without images")
        deter, rest = belief.deter, torch.cat([belief.stoch, belief.vector], -1)
        flat = (rearrange(part, "... d -> (...) d") for part in (deter, rest))
        return self.image_decoder(*flat).reshape(*deter.shape[:-1], 64, 64, 3)

    def reward_logits(self, belief: Belief, dreaming: bool = True) -> Tensor:
        """(..., 255): what the observation pays by itself, if one is carried, and what memory adds to that."""
        logits = self.reward(belief.feat(), fixed=belief.fixed)
        if self.transition is None:
            return logits
        by_itself = self.transition.reward(belief.vector)
        return logits + (by_itself if dreaming else by_itself.detach())

    def predict_reward(self, belief: Belief) -> Tensor:
        return twohot_mean(self.reward_logits(belief), self.bins)

    def predict_continuation(self, belief: Belief) -> Tensor:
        """Probability (...) that the episode has not terminated on arriving here."""
        return torch.sigmoid(self.continuation(belief.feat(), fixed=belief.fixed).squeeze(-1))

    def estimate_context(self, belief: Belief) -> tuple[Tensor, Tensor]:
        """The robot's own estimate of its physics: mean and standard deviation (..., C), scaled as the context."""
        if self.context_head is None:
            empty = belief.deter.new_zeros(*belief.deter.shape[:-1], 0)
            return empty, empty
        mean, raw = self.context_head(belief.feat()).chunk(2, -1)
        return mean, nn.functional.softplus(raw) + 0.05

    # -- dynamics -----------------------------------------------------------------------------------------------------

    def initial(self, batch: int) -> Belief:
        latent = self.rssm.initial(batch)
        return Belief(latent.deter, latent.stoch, latent.deter.new_zeros(batch, self.carried))

    def action_input(self, action: Tensor, context: Tensor, known: Tensor) -> Tensor:
        """Actions (..., A) and the context's pairs (..., C) as the RSSM takes them."""
        return torch.cat([action, context * known, known], -1)

    def inputs(self, batch: Batch, hidden: Tensor) -> Tensor:
        """RSSM inputs (B, T, ·); where `hidden` (B, T) the model sees what the robot sees: its command, no physics."""
        labelled = batch.labelled & ~hidden
        action = torch.where(labelled.unsqueeze(-1), batch.applied_action, batch.action)
        return self.action_input(action, batch.context, batch.known * labelled.unsqueeze(-1))

    def filter(
        self,
        vector: Tensor,
        image: Tensor | None,
        inputs: Tensor,
        is_first: Tensor,
        noise: float = 0.0,
        after: Belief | None = None,
    ) -> tuple[Belief, Tensor, Tensor]:
        """Filter a sequence: beliefs (B, T), the posterior's log probabilities, and the scaled observations before.

        Args:
            noise: by which the observations before are `disturbed`.
            after: go on from these beliefs (B,) instead of from nothing; `is_first` forgets them.
        """
        scaled = self.scale(vector)
        before = torch.zeros_like(scaled)
        if after is not None and self.carried:
            before[:, 0] = after.vector * (~is_first[:, :1])
        before[:, 1:] = scaled[:, :-1]
        if noise and self.carried:
            before[:, 1:] = disturbed(before[:, 1:], self.step_std, noise)
        before[:, 1:] *= (~is_first[:, 1:]).unsqueeze(-1)
        if not self.carried:
            before, scaled = before[..., :0], scaled[..., :0]
        recurrent = torch.cat([inputs, before], -1)
        state = None if after is None else after.latent
        latent, posterior = self.rssm.observe(self.encode(vector, image), recurrent, is_first, state)
        return Belief(latent.deter, latent.stoch, scaled), posterior, before

    def observe(self, batch: Batch, hidden: bool) -> Belief:
        """Filter logged segments: beliefs (B, T), as the robot would (`hidden`) or knowing their physics."""
        mask = torch.full_like(batch.labelled, hidden)
        return self.filter(batch.vector, batch.image, self.inputs(batch, mask), batch.is_first)[0]

    def observe_past(self, batch: Batch, past: int) -> tuple[Belief, Tensor]:
        """What `imagine` takes, of logged segments (B, T) whose physics is told.

        Returns:
            The beliefs (B,) at the last of the first `past` rows, and the inputs (B, T - past, ·) that followed.
        """
        inputs = self.inputs(batch, torch.zeros_like(batch.labelled))
        image = None if batch.image is None else batch.image[:, :past]
        beliefs, *_ = self.filter(batch.vector[:, :past], image, inputs[:, :past], batch.is_first[:, :past])
        return beliefs.at(slice(None), -1), inputs[:, past:]

    def observe_step(
        self, belief: Belief, vector: Tensor, image: Tensor | None, inputs: Tensor, is_first: Tensor | None = None
    ) -> Belief:
        """One step of the filter for N machines: vector (N, D), inputs (N, ·) of `action_input`, is_first (N,) bool."""
        before = belief.vector
        if is_first is not None:
            before = torch.where(is_first.unsqueeze(-1), 0.0, before)  # NaN times 0 would be NaN
        token = self.encode(vector, image)
        latent = self.rssm.observe_step(belief.latent, token, torch.cat([inputs, before], -1), is_first)
        return Belief(latent.deter, latent.stoch, self.scale(vector) if self.carried else before)

    def imagine_step(
        self,
        belief: Belief,
        inputs: Tensor,
        sample: bool = True,
        noisy: bool = False,
        prepared: Prepared | None = None,
    ) -> Belief:
        """One step without an observation: (N, ...) under inputs (N, ·).

        With a carried observation, gradients run through the transition alone: what an action moves, it moves there.

        Args:
            noisy: draw the carried observation from the distribution that the decoder states instead of its mean.
            prepared: the RSSM's weights as they are now, for many steps; where gradients run through it, no use.
        """
        vector = belief.vector
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.carried):
            recurrent = torch.cat([inputs, vector], -1)
            if prepared is None or not sample or torch.is_grad_enabled():
                latent = self.rssm.imagine_step(belief.latent, recurrent, sample)
            else:
                ready = prepared.imagine(prepared.enter(belief.latent), recurrent)
                latent = State(ready.deter, prepared.leave(ready.stoch).float())
        if self.carried:
            vector, log_std = self.expected(latent, vector, inputs, dreaming=True)
            if noisy:
                vector = vector + self.step_std * torch.exp(log_std).detach() * torch.randn_like(vector)
        return Belief(latent.deter, latent.stoch, vector)

    def imagine(self, belief: Belief, inputs: Tensor, sample: bool = True) -> Belief:
        """Open loop: from beliefs (N, ...) under inputs (N, T, ·) to beliefs (N, T, ...)."""
        beliefs = []
        for t in range(inputs.shape[1]):
            belief = self.imagine_step(belief, inputs[:, t], sample)
            beliefs.append(belief)
        return Belief(*(torch.stack(parts, 1) for parts in zip(*beliefs, strict=True)))
