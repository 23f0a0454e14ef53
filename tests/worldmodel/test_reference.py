"""Given the official DreamerV3's weights, inputs and draws, our parts give its recorded numbers (tests/reference)."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from agreement import PART, STEP, Agreement, Recording, draws
from torch import Tensor

from configs import UserError
from worldmodel.context import ContextSpec
from worldmodel.distributions import (
    bernoulli_loss,
    categorical_kl,
    categorical_log_probs,
    twohot_bins,
    twohot_loss,
    twohot_mean,
)
from worldmodel.model import Belief, ModelConfig, Spaces, WorldModel
from worldmodel.official import read_world_model
from worldmodel.optim import LaProp, SafeStep
from worldmodel.replay import Batch
from worldmodel.rssm import RSSMConfig, State

# The vector decoder's loss is ours (it states its noise), so it is switched off on both sides.
CONFIG = ModelConfig(
    RSSMConfig(deter=64, hidden=16, stoch=8, classes=4), units=16, depth=2, carry=False, vector_scale=0.0
)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording("world_model")


@pytest.fixture
def model(recording) -> WorldModel:
    made = new_model()
    assert read_world_model(made, recording.under("weights")) == set()
    return made


def new_model() -> WorldModel:
    return WorldModel(CONFIG, Spaces(vector=6, action=3, image=True), ContextSpec((), (), ()))


def batch_of(recording: Recording) -> Batch:
    given = {name: torch.from_numpy(value) for name, value in recording.under("batch").items()}
    rows = given["is_first"].shape
    nothing = torch.zeros(*rows, 0)
    given |= {"applied_action": given["action"], "demonstrated": given["action"], "context": nothing, "known": nothing}
    nowhere = np.zeros(rows, np.int64)
    return Batch(**given, labelled=torch.zeros(rows, dtype=torch.bool), episode=nowhere, step=nowhere)


def draw(monkeypatch, given: Iterator[Tensor]) -> None:
    """Our samplers' uniform numbers come from there."""

    def rand(*size, **_):
        uniform = next(given)
        assert uniform.shape == torch.zeros(*size).shape
        return uniform

    monkeypatch.setattr(torch, "rand", rand)


def log_probs(logit: Tensor) -> Tensor:
    return torch.log(0.99 * torch.softmax(logit, -1) + 0.01 / logit.shape[-1])


def states(recording: Recording, part: str) -> State:
    return State(recording[f"parts/{part}/deter"], recording[f"parts/{part}/stoch"].flatten(-2))


def test_every_part_of_the_world_model_agrees(recording, model, monkeypatch):
    batch = batch_of(recording)
    with Agreement(PART) as agreement, torch.no_grad():
        tokens = model.encode(batch.vector, batch.image)
        pixels = recording["parts/tokens"][..., 16:].reshape(2, 5, 4, 4, 8)
        agreement["encoder, vector"] = tokens[..., :16], recording["parts/tokens"][..., :16]
        agreement["encoder, image"] = tokens[..., 16:], pixels.movedim(-1, 2).flatten(2)

        draw(monkeypatch, draws(recording["parts/observe/logit"], recording["parts/observe/stoch"]))
        seen, posterior = model.rssm.observe(tokens, batch.action, batch.is_first)
        agreement["observe, deter"] = seen.deter, recording["parts/observe/deter"]
        agreement["observe, stoch"] = seen.stoch, recording["parts/observe/stoch"].flatten(-2)
        agreement["observe, posterior"] = posterior, log_probs(recording["parts/observe/logit"])

        draw(monkeypatch, draws(recording["parts/imagine/logit"], recording["parts/imagine/stoch"]))
        dreamt = model.rssm.imagine(seen[:, -1], recording["dream"])
        prior = model.rssm.prior_log_probs(dreamt.deter)
        agreement["imagine, deter"] = dreamt.deter, recording["parts/imagine/deter"]
        agreement["imagine, stoch"] = dreamt.stoch, recording["parts/imagine/stoch"].flatten(-2)
        agreement["imagine, prior"] = prior, log_probs(recording["parts/imagine/logit"])

        # From here on each part is given the official states, so that no part lives on another's mistakes.
        seen = states(recording, "observe")
        agreement["prior"] = model.rssm.prior_log_probs(seen.deter), log_probs(recording["parts/prior"])
        dynamics, representation = model.rssm.kl(log_probs(recording["parts/observe/logit"]), seen.deter)
        agreement["KL with free bits, dynamics"] = dynamics, recording["parts/dyn"]
        agreement["KL with free bits, representation"] = representation, recording["parts/rep"]

        belief = Belief(seen.deter, seen.stoch, torch.zeros(2, 5, 0))
        agreement["decoder, vector"] = model.decoder(seen.feat())[..., :6], recording["parts/decoder/vector"]
        image = model.decode_image(belief)
        agreement["decoder, image"] = image[0, :2], recording["parts/decoder/image"]
        error = ((image - batch.image.float() / 255) ** 2).sum((-3, -2, -1))
        agreement["decoder, image loss"] = error, recording["parts/decoder/image_loss"]

        logits = model.reward(belief.feat())
        agreement["reward, logits"] = logits, recording["parts/reward/logits"]
        agreement["reward, mean"] = model.predict_reward(belief), recording["parts/reward/mean"]
        agreement["reward, loss"] = twohot_loss(logits, batch.reward, model.bins), recording["parts/reward/loss"]
        logit = model.continuation(belief.feat()).squeeze(-1)
        agreement["continuation, logit"] = logit, recording["parts/continuation/logit"]
        alive = (~batch.is_terminal).float()
        agreement["continuation, loss"] = bernoulli_loss(logit, alive), recording["parts/continuation/loss"]


def test_whole_training_steps_agree(recording, model, monkeypatch):
    """The loss of a batch, its gradient, clipping, warm-up (2 steps) and LaProp, three times over."""
    batch = batch_of(recording)
    step = SafeStep(LaProp(model.parameters(), lr=1e-3, warmup=2))
    with Agreement(STEP) as agreement:
        for index in range(3):
            told = iter([torch.zeros(2, 1)])  # which segments hide their physics
            given = draws(recording[f"step{index}/logit"], recording[f"step{index}/stoch"])
            draw(monkeypatch, (uniform for part in (told, given) for uniform in part))
            loss, _ = model.loss(batch)
            agreement[f"loss {index}"] = loss, recording[f"step{index}/loss"]
            assert step(loss)
        expected = new_model()
        read_world_model(expected, recording.under("after"))
        for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
            if name.startswith("decoder.out"):
                ours, theirs = ours[:6], theirs[:6]
            agreement[name] = ours, theirs


def test_weights_of_another_shape_or_name_are_refused_by_name(recording, model):
    weights = recording.under("weights")
    with pytest.raises(UserError, match="dyn/dyngru/kernel"):
        read_world_model(model, {name: value for name, value in weights.items() if name != "dyn/dyngru/kernel"})
    with pytest.raises(UserError, match=r"enc/mlp0.*\(5, 16\)|enc/mlp0.*\(16, 5\)"):
        read_world_model(model, weights | {"enc/mlp0/kernel": np.zeros((5, 16), np.float32)})
    with pytest.raises(UserError, match="carry"):
        read_world_model(WorldModel(ModelConfig(), Spaces(6, 3), ContextSpec((), (), ())), weights)


def test_distributions_agree():
    recording = Recording("functions")
    p, q = (categorical_log_probs(recording[name]) for name in "pq")
    bins = twohot_bins()
    with Agreement(PART) as agreement:
        agreement["KL"] = categorical_kl(p, q), recording["kl"]
        agreement["two-hot bins"] = bins, recording["bins"]
        loss = twohot_loss(recording["logits"], recording["targets"], bins)
        agreement["two-hot loss"] = loss, recording["twohot_loss"]
        agreement["two-hot mean"] = twohot_mean(recording["logits"], bins), recording["twohot_mean"]


def test_laprop_with_adaptive_clipping_and_warm_up_agrees():
    recording = Recording("functions")
    params = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in recording.under("params").items()}
    optimizer = LaProp(params.values(), lr=0.05, warmup=3)
    with Agreement(PART) as agreement:
        for index in range(6):
            for name, p in params.items():
                p.grad = recording[f"grads{index}/{name}"]
            optimizer.step()
            for name, p in params.items():
                agreement[f"step {index}, {name}"] = p.clone(), recording[f"params{index}/{name}"]
        assert math.isfinite(sum(agreement.differences.values()))
