"""What trains a world model: functions from a model and a batch to losses. Shapes as in `worldmodel.model`.

`noise` is what `worldmodel.model.disturbed` adds to carried observations, as a share of their change in a step.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from worldmodel.distributions import bernoulli_loss, symlog, twohot_loss
from worldmodel.model import Belief, WorldModel, disturbed
from worldmodel.replay import Batch


class Losses(NamedTuple):
    total: Tensor  # ()
    parts: dict[str, Tensor]  # without gradient
    beliefs: Belief  # (B, T), with their gradients


def vector_loss(model: WorldModel, mean: Tensor, log_std: Tensor, target: Tensor) -> Tensor:
    """Gaussian log loss (...) of the scaled observation under the noise that the decoder itself states.

    A box slides by a smooth law and is struck in jumps: with one noise for both, the jumps would drown the law.
    Each term is weighted by its standard deviation, without which what is hard at first is never learnt: Seitzer et
    al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation" (2022), beta = 0.5.
    """
    error = (target - mean) / (model.step_std if model.carried else 1.0)
    nll = 0.5 * (error * torch.exp(-log_std)) ** 2 + log_std
    return (nll * torch.exp(log_std.detach())).sum(-1)


def transition_loss(model: WorldModel, batch: Batch, noise: float = 0.0) -> Tensor:
    """The transition's loss (scalar) on windows (B, 1 + K) of rows; all are told what physics the log knows.

    The first step is judged by its likelihood. Further ones start from where the transition itself has led, as in a
    dream, and are judged by how far they stray: by the square over the noise stated, and where that is large by its
    logarithm, as a blow that comes one step late is far off whatever is learnt. Training on own predictions: Li et al.,
    "Robotic World Model" (2025).

    Rewards are learnt here as well, from rows of all over the logs: where a goal begins to pay is learnt from the
    few that stopped just beside it.
    """
    if model.transition is None:
        raise ValueError("this world model carries no observation, so it has no transition to train")
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    scaled, steps = model.scale(batch.vector), batch.is_first.shape[1] - 1
    at = disturbed(scaled[:, 0], model.step_std, noise)
    counted = model.is_told(inputs[:, 1]).squeeze(-1)
    total = scaled.new_zeros(())
    for t in range(1, 1 + steps):
        counted = counted * ~batch.is_first[:, t]
        change, log_std = model.transition(at, inputs[:, t])
        at = at + model.step_std * change
        log_std = model.floored(log_std)
        if t == 1:
            loss = vector_loss(model, at, log_std, scaled[:, t])
        else:
            strayed = ((scaled[:, t] - at) / model.step_std) ** 2 * torch.exp(-log_std.detach())
            loss = torch.log1p(0.5 * strayed).sum(-1) / steps
        total = total + (loss * counted).mean()
    paid = twohot_loss(model.transition.reward(scaled[:, 1]), batch.reward[:, 1], model.bins) * ~batch.is_first[:, 1]
    return total + paid.mean()


def ensemble_loss(model: WorldModel, batch: Batch, noise: float = 0.0) -> Tensor:
    """The members' losses (scalar, their sum) on windows (K * B, 2) of rows, B to each of the K.

    Each is the transition's on a single step, its likelihood.
    """
    if model.ensemble is None:
        raise ValueError("this world model has no ensemble to train; add_ensemble gives it one")
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))[:, 1]
    scaled = model.scale(batch.vector)
    counted = model.is_told(inputs).squeeze(-1) * ~batch.is_first[:, 1]
    before, target = disturbed(scaled[:, 0], model.step_std, noise), scaled[:, 1]
    before, target, inputs, counted = (
        rearrange(x, "(k b) ... -> k b ...", k=model.ensemble.members) for x in (before, target, inputs, counted)
    )
    change, log_std = model.ensemble(before, inputs)
    each = vector_loss(model, before + model.step_std * change, model.floored(log_std), target)
    return (each * counted).mean(1).sum()


def open_loop_loss(
    model: WorldModel, beliefs: Belief, inputs: Tensor, scaled: Tensor, is_first: Tensor, steps: int
) -> Tensor:
    """How far (B,) a rollout strays over a segment's last `steps` rows, of which it sees the actions alone.

    From filtered beliefs (B, T), the RSSM's inputs and scaled observations (B, T, ·), as far as the episode goes.
    Gradients reach memory and decoder: unlike those of single steps they say what is worth remembering for long. Errors
    count in units of a random walk's, which grow with the root of the steps. No more than that is asked of the latent.
    """
    if not model.carried:
        raise ValueError("a rollout can be followed only by a model that carries the observation")
    start = scaled.shape[1] - steps
    belief = beliefs.at(slice(None), start - 1)
    latent, at = belief.latent, belief.vector
    within, total = torch.ones_like(at[:, 0]), at.new_zeros(len(at))
    for t in range(start, scaled.shape[1]):
        latent = model.rssm.imagine_step(latent, torch.cat([inputs[:, t], at], -1))
        at, _ = model.expected(latent, at, inputs[:, t])
        within = within * ~is_first[:, t]
        strayed = ((scaled[:, t] - at) / model.step_std) ** 2 / (t - start + 1)
        total = total + 0.5 * strayed.sum(-1) * within
    return total / steps


def world_model_loss(model: WorldModel, batch: Batch, open_loop: int = 0, noise: float = 0.0) -> Losses:
    """Of segments (B, T); with `open_loop` their last so many rows are also foretold unseen."""
    size, length = batch.is_first.shape
    device = batch.vector.device
    hidden = (torch.rand(size, 1, device=device) < model.config.context_dropout).expand(size, length)
    inputs = model.inputs(batch, hidden)
    beliefs, posterior, before = model.filter(batch.vector, batch.image, inputs, batch.is_first, noise=noise)
    target = model.scale(batch.vector)
    alive = (~batch.is_terminal).float()
    # A carried observation leaves nothing to predict where nothing came before.
    counted = (~batch.is_first).float() if model.carried else torch.ones(size, length, device=device)
    dynamics, representation = model.rssm.kl(posterior, beliefs.deter)
    feat = beliefs.feat()
    if model.config.vector_loss == "symlog":  # DreamerV3's
        vector = ((model.decoder(beliefs.latent.feat()) - symlog(target)) ** 2).sum(-1)
    else:
        vector = vector_loss(model, *model.expected(beliefs.latent, before, inputs), target) * counted
    reward = twohot_loss(model.reward_logits(beliefs, dreaming=False), batch.reward, model.bins)
    continuation = bernoulli_loss(model.continuation(feat).squeeze(-1), alive)
    parts = {
        "vector": model.config.vector_scale * vector.mean(),
        "dynamics": dynamics.mean(),
        "representation": representation.mean(),
        "reward": reward.mean(),
        "continuation": continuation.mean(),
    }
    if open_loop:
        parts["open_loop"] = open_loop_loss(model, beliefs, inputs, target, batch.is_first, open_loop).mean()
    if batch.image is not None:
        error = (model.decode_image(beliefs) - batch.image.float() / 255) ** 2
        parts["image"] = error.sum((-3, -2, -1)).mean()
    if model.context_head is not None:
        # Only where the model was not told: elsewhere the head would learn to copy.
        mean, std = model.estimate_context(beliefs)
        told = batch.known * (hidden & batch.labelled).unsqueeze(-1)
        nll = 0.5 * ((mean - batch.context) / std) ** 2 + torch.log(std)
        parts["context"] = (nll * told).sum(-1).mean()
    scales = {"representation": model.config.representation_scale}
    total = torch.stack([scales.get(name, 1.0) * part for name, part in parts.items()]).sum()
    return Losses(total, {name: part.detach() for name, part in parts.items()}, beliefs)
