import dataclasses

import numpy as np
import pytest
import torch
from toy_logs import sliding_mass, write_log

from configs import UserError
from worldmodel import checkpoint
from worldmodel.calibration import Calibration
from worldmodel.ensemble import Ensemble
from worldmodel.loss import ensemble_loss
from worldmodel.model import ModelConfig
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import NAME, load_model
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig
from worldmodel.transition import changed, seen

D, A, C, K = 3, 2, 1, 4
TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)
QUICK = TrainerConfig(batch=4, length=8, warmup=10, ensemble=3, ensemble_batch=32)


@pytest.fixture
def logs(tmp_path) -> LogReader:
    return write_log(tmp_path / "logs", sliding_mass(8, steps=12))


def moments(n: int, members: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(members, n, D), torch.randn(members, n, A + 2 * C)


def alone(ensemble: Ensemble, k: int, before: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Member k by itself, from PyTorch's own layers."""
    x = seen(before, inputs, A, C)
    for layer, scale in enumerate(ensemble.scales):
        x = torch.nn.functional.linear(x, ensemble.weights[layer][k].T, ensemble.biases[layer][k, 0])
        x = torch.nn.functional.silu(torch.nn.RMSNorm(x.shape[-1], eps=1e-4, elementwise_affine=False)(x) * scale[k, 0])
    return changed(x @ ensemble.weights[-1][k] + ensemble.biases[-1][k], inputs, D, C)


def test_members_side_by_side_are_members_one_by_one():
    ensemble = Ensemble(K, D, A, C)
    with torch.no_grad():
        for part in (*ensemble.scales, *ensemble.biases):
            part.normal_()
    before, inputs = moments(7, K)
    together = ensemble(before, inputs)
    for k in range(K):
        for all_of_them, one in zip(together, alone(ensemble, k, before[k], inputs[k]), strict=True):
            torch.testing.assert_close(all_of_them[k], one, rtol=1e-4, atol=1e-5)


def test_disagreement_is_the_spread_of_what_members_expect():
    ensemble = Ensemble(K, D, A, C)
    before, inputs = moments(6)
    each = torch.stack([alone(ensemble, k, before[0], inputs[0])[0] for k in range(K)])
    found = ensemble.disagreement(before.reshape(2, 3, D), inputs.reshape(2, 3, -1))
    torch.testing.assert_close(found, each.std(0).reshape(2, 3, D), rtol=1e-4, atol=1e-5)


def test_one_members_data_moves_no_other():
    ensemble = Ensemble(K, D, A, C)
    change, log_std = ensemble(*moments(5, K))
    (change[1].square().sum() + log_std[1].sum()).backward()
    for part in ensemble.parameters():
        assert part.grad is not None and part.grad[1].abs().sum() > 0
        assert not part.grad[[0, 2, 3]].any()


def test_members_that_agree_have_a_gradient():
    ensemble = Ensemble(K, D, A, C)
    with torch.no_grad():
        for part in ensemble.parameters():
            part.copy_(part[:1].expand_as(part))
    before, inputs = moments(2)
    before.requires_grad_(True)
    ensemble.disagreement(before, inputs).sum().backward()
    assert before.grad is not None and torch.isfinite(before.grad).all()


def test_members_part_where_no_log_has_been(tmp_path):
    """They learn the same law from the same logs, and agree there; far off each goes its own way."""
    trainer = Trainer(write_log(tmp_path, sliding_mass(60)), TINY, QUICK)
    for _ in range(300):
        trainer.learn_ensemble()
        trainer.steps += 1
    model = trainer.model
    batch = trainer.held_out.sample(200, 2, np.random.default_rng(0))
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))[:, 1]
    here = model.scale(batch.vector[:, 0])
    assert model.ensemble is not None
    with torch.no_grad():
        near, far = (model.ensemble.disagreement(x, inputs).mean() for x in (here, here + 5))
    assert near < 0.1 and far > 2.5 * near


def updated(logs: LogReader, config: TrainerConfig, steps: int = 3) -> Trainer:
    trainer = Trainer(logs, TINY, config, seed=3)
    while trainer.steps < steps:
        trainer.update(0.1)
    return trainer


def rest(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.model.state_dict().items() if not name.startswith("ensemble.")}


def test_all_else_learns_the_same_without_it(logs):
    without, with_it = (updated(logs, dataclasses.replace(QUICK, ensemble=k)) for k in (0, 3))
    assert without.model.ensemble is None and with_it.model.ensemble is not None
    assert rest(without).keys() == without.model.state_dict().keys()
    assert all(torch.equal(value, rest(with_it)[name]) for name, value in rest(without).items())


def test_it_learns_in_every_update_and_each_member_from_draws_of_its_own(logs):
    trainer = updated(logs, QUICK, 1)
    ensemble = trainer.model.ensemble
    assert ensemble is not None
    before = [weight.clone() for weight in ensemble.weights]
    assert np.isfinite(trainer.update()["ensemble"])
    moved = [(now - then).flatten(1).norm(dim=1) for now, then in zip(ensemble.weights, before, strict=True)]
    assert all((m > 0).all() and len(m.unique()) == 3 for m in moved)


def test_resuming_gives_the_very_members(logs, tmp_path):
    straight, first = updated(logs, QUICK, 6), updated(logs, QUICK, 4)
    first.save(tmp_path)
    again = Trainer(logs, TINY, QUICK, seed=9)
    again.restore(tmp_path)
    while again.steps < 6:
        again.update(0.1)
    theirs = again.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in straight.model.state_dict().items())


@pytest.mark.parametrize(("then", "now"), [(0, 3), (3, 0), (3, 5)])
def test_a_run_goes_on_with_other_judges_that_begin_anew(logs, tmp_path, then, now):
    saved = updated(logs, dataclasses.replace(QUICK, ensemble=then))
    saved.save(tmp_path)
    again = Trainer(logs, TINY, dataclasses.replace(QUICK, ensemble=now))
    fresh = again.model.ensemble and again.model.ensemble.weights[0].clone()
    again.restore(tmp_path)
    assert all(torch.equal(value, rest(again)[name]) for name, value in rest(saved).items())
    if now:
        assert again.model.ensemble and fresh is not None and torch.equal(again.model.ensemble.weights[0], fresh)
    again.update()
    assert again._good_state is not None
    again.model.load_state_dict(again._good_state)


def test_a_checkpoint_from_before_there_were_judges_loads(logs, tmp_path):
    trainer = updated(logs, dataclasses.replace(QUICK, ensemble=0))
    meta = trainer.meta()
    del meta["ensemble"], meta["calibration"], meta["trainer"]["ensemble"]
    checkpoint.save(tmp_path, NAME, 3, {"model": trainer.model.state_dict()}, meta)
    model, _ = load_model(tmp_path)
    assert model.ensemble is None and model.calibration is None


def test_judges_and_calibration_are_saved_with_the_model(logs, tmp_path):
    trainer = updated(logs, QUICK)
    made = Calibration(0.9, 1.0, 50, (0.5, 0.5, 0.1, 0.0, -1.0), 5.0, 0.1, 9)
    trainer.model.calibration = made
    trainer.save(tmp_path)
    model, _ = load_model(tmp_path)
    assert model.calibration == made
    assert all(torch.equal(v, model.state_dict()[name]) for name, v in trainer.model.state_dict().items())
    again = Trainer(logs, TINY, QUICK)
    again.restore(tmp_path)
    assert again.model.calibration == made
    again.update()
    assert again.model.calibration is None  # it was of other weights


def test_a_model_that_carries_nothing_has_no_judges(logs):
    trainer = Trainer(logs, dataclasses.replace(TINY, carry=False), QUICK)
    trainer.update()
    assert trainer.model.ensemble is None
    with pytest.raises(ValueError, match="no ensemble"):
        ensemble_loss(trainer.model, trainer.replay.sample(6, 2, trainer.rng))
    with pytest.raises(UserError, match="no ensemble to calibrate"):
        trainer.calibrate()
