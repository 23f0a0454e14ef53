"""Given the official DreamerV3's weights, inputs and draws, our parts give its recorded numbers (tests/reference)."""

import pickle
from collections.abc import Iterator
from pathlib import Path

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
from worldmodel.loss import world_model_loss
from worldmodel.model import Belief, ModelConfig, Spaces, WorldModel
from worldmodel.official import read_world_model
from worldmodel.official_checkpoint import read_checkpoint
from worldmodel.optim import LaProp, SafeStep
from worldmodel.replay import Batch
from worldmodel.rssm import RSSMConfig, State

# The vector decoder's loss is ours (it states its noise), so it is switched off on both sides.
CONFIG = ModelConfig(
    RSSMConfig(deter=64, hidden=16, stoch=8, classes=4), units=16, depth=2, carry=False, vector_scale=0.0
)


CHECKPOINT = Path(__file__).parents[1] / "reference" / "checkpoint"


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
    given["vector"] = torch.cat([given.pop("angles"), given.pop("speeds")], -1)
    return Batch.without_physics(**given)


def draw(monkeypatch, given: Iterator[Tensor]) -> None:
    """Our samplers' uniform numbers come from there."""

    def rand(*size, **_):
        uniform = next(given)
        assert uniform.shape == torch.zeros(*size).shape
        return uniform

    monkeypatch.setattr(torch, "rand", rand)


def test_every_part_of_the_world_model_agrees(recording, model, monkeypatch):
    with Agreement(PART) as agreement:
        compare_parts(agreement, recording, model, monkeypatch)


def test_a_model_read_from_an_official_checkpoint_agrees(monkeypatch):
    """Saved by the official trainer after three steps from its own initial weights."""
    model = new_model()
    unread = read_world_model(model, read_checkpoint(CHECKPOINT))
    assert not [name for name in unread if name.startswith(("enc/", "dyn/", "dec/", "rew/", "con/"))]
    with Agreement(PART) as agreement:
        compare_parts(agreement, Recording("checkpoint"), model, monkeypatch)


def test_a_spoiled_weight_is_noticed(recording, model, monkeypatch):
    for name in ("rssm.gates.bias", "image_encoder.convs.2.weight", "decoder.mlp.0.linear.weight", "reward.out.bias"):
        weight = model.get_parameter(name)
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.view(-1)[0] += 0.01
        agreement = Agreement(PART)
        compare_parts(agreement, recording, model, monkeypatch)
        assert max(agreement.differences.values()) > PART, name
        with torch.no_grad():
            weight.copy_(kept)


@torch.no_grad()
def compare_parts(agreement: Agreement, recording: Recording, model: WorldModel, monkeypatch) -> None:
    batch = batch_of(recording)
    tokens = model.encode(batch.vector, batch.image)
    expected = recording["parts/tokens"]
    agreement["encoder, vector"] = tokens[..., :16], expected[..., :16]
    pixels = expected[..., 16:].unflatten(-1, (4, 4, 8)).movedim(-1, 2).flatten(2)  # ours are by channels
    agreement["encoder, image"] = tokens[..., 16:], pixels

    draw(monkeypatch, draws(recording["parts/observe/logit"], recording["parts/observe/stoch"]))
    seen, posterior = model.rssm.observe(tokens, batch.action, batch.is_first)
    agreement["observe, deter"] = seen.deter, recording["parts/observe/deter"]
    agreement["observe, stoch"] = seen.stoch, recording["parts/observe/stoch"].flatten(-2)
    agreement["observe, posterior"] = posterior, categorical_log_probs(recording["parts/observe/logit"])

    draw(monkeypatch, draws(recording["parts/imagine/logit"], recording["parts/imagine/stoch"]))
    dreamt = model.rssm.imagine(seen[:, -1], recording["dream"])
    agreement["imagine, deter"] = dreamt.deter, recording["parts/imagine/deter"]
    agreement["imagine, stoch"] = dreamt.stoch, recording["parts/imagine/stoch"].flatten(-2)
    prior = model.rssm.prior_log_probs(dreamt.deter)
    agreement["imagine, prior"] = prior, categorical_log_probs(recording["parts/imagine/logit"])

    # From here on each part is given the official states, so that no part lives on another's mistakes.
    seen = State(recording["parts/observe/deter"], recording["parts/observe/stoch"].flatten(-2))
    belief = Belief(seen.deter, seen.stoch, torch.zeros(*batch.is_first.shape, 0))
    prior = model.rssm.prior_log_probs(seen.deter)
    agreement["prior"] = prior, categorical_log_probs(recording["parts/prior"])
    dynamics, representation = model.rssm.kl(categorical_log_probs(recording["parts/observe/logit"]), seen.deter)
    agreement["KL with free bits, dynamics"] = dynamics, recording["parts/dyn"]
    agreement["KL with free bits, representation"] = representation, recording["parts/rep"]

    means = torch.cat([recording["parts/decoder/angles"], recording["parts/decoder/speeds"]], -1)
    agreement["decoder, vector"] = model.decoder(seen.feat())[..., :6], means
    image = model.decode_image(belief)
    agreement["decoder, image"] = image[0, :2], recording["parts/decoder/image"]
    assert batch.image is not None
    error = ((image - batch.image.float() / 255) ** 2).sum((-3, -2, -1))
    agreement["decoder, image loss"] = error, recording["parts/decoder/image_loss"]

    logits = model.reward(belief.feat())
    agreement["reward, logits"] = logits, recording["parts/reward/logits"]
    if "parts/reward/mean" in recording.arrays:
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
            loss = world_model_loss(model, batch).total
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


def test_a_model_without_images_is_read_too(recording):
    model = WorldModel(CONFIG, Spaces(6, 3), ContextSpec((), (), ()))
    weights = recording.under("weights")
    with pytest.raises(UserError, match="dyn/obs0/kernel"):
        read_world_model(model, weights)
    kernel = weights["dyn/obs0/kernel"][: 64 + 16]
    unread = read_world_model(model, weights | {"dyn/obs0/kernel": kernel})
    assert {name.split("/")[1][:2] for name in unread} == {"cn", "co", "sp", "im"}  # of convolutions alone
    assert torch.equal(model.rssm.posterior_tokens.weight, torch.from_numpy(kernel[64:].T))


class Hostile:
    def __reduce__(self):
        return (print, ("this ran while a checkpoint was read",))


def test_a_checkpoint_of_more_than_arrays_is_refused_unread(tmp_path, capsys):
    (tmp_path / "agent.pkl").write_bytes(pickle.dumps({"params": {"enc/mlp0/bias": Hostile()}}))
    with pytest.raises(UserError, match="builtins.print"):
        read_checkpoint(tmp_path)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="agent.pkl"):
        read_checkpoint(tmp_path / "nothing")


def test_the_latest_checkpoint_of_a_run_is_found(tmp_path):
    (tmp_path / "latest").write_text("20260101T000000\n")
    (tmp_path / "20260101T000000").mkdir()
    arrays = {"enc/mlp0/bias": np.arange(3, dtype=np.float32)}
    (tmp_path / "20260101T000000" / "agent.pkl").write_bytes(pickle.dumps({"params": arrays, "counters": {}}))
    assert read_checkpoint(tmp_path)["enc/mlp0/bias"].tolist() == [0, 1, 2]


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
