import dataclasses
import json

import numpy as np
import pytest
import torch
from toy_logs import slide, sliding_mass, write_log

from configs import UserError, from_dict, packaged
from worldmodel import trainer as trainer_module
from worldmodel.evaluation import open_loop
from worldmodel.model import ModelConfig
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import NAME, load_model
from worldmodel.storage import LogReader, LogWriter
from worldmodel.trainer import Trainer, TrainerConfig, train

SMALL = RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4)
TINY = ModelConfig(SMALL, units=8, depth=2, layers=1)
QUICK = TrainerConfig(
    batch=4, length=8, warmup=10, transition_steps=2, transition_batch=32, ensemble=2, ensemble_batch=32
)


@pytest.fixture
def logs(tmp_path) -> LogReader:
    return write_log(tmp_path / "logs", sliding_mass(8, steps=12))


def steps(trainer: Trainer, count: int, total: int) -> None:
    train(trainer, lambda: 1.0 if trainer.steps >= count else trainer.steps / total)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- saving and going on ---------------------------------------------------------------------------------------------


def test_it_goes_on_under_no_other_bounds_or_channels(logs, tmp_path):
    """A command is a share of its bounds to the network; imported logs are bounded by what they happen to hold."""
    Trainer(logs, TINY, QUICK).save(tmp_path / "run")
    wider = write_log(tmp_path / "wider", sliding_mass(8, steps=12), bounds=(-2.0, 2.0))
    with pytest.raises(UserError, match=r"other commands than these logs have.*--init-from"):
        Trainer(wider, TINY, QUICK).restore(tmp_path / "run")
    renamed = json.loads((tmp_path / "logs" / "schema.json").read_text())
    renamed["observation"]["vector"]["names"].reverse()
    (tmp_path / "logs" / "schema.json").write_text(json.dumps(renamed))
    with pytest.raises(UserError, match="other channels than these logs have"):
        Trainer(LogReader(tmp_path / "logs"), TINY, QUICK).restore(tmp_path / "run")


def test_resuming_gives_the_very_weights_of_an_uninterrupted_run(logs, tmp_path):
    straight = Trainer(logs, TINY, QUICK, seed=3)
    steps(straight, 30, 40)
    first = Trainer(logs, TINY, QUICK, seed=3)
    steps(first, 12, 40)
    first.save(tmp_path / "run")
    torch.manual_seed(99)
    second = Trainer(logs, TINY, QUICK, seed=77)
    second.restore(tmp_path / "run")
    assert second.steps == 12
    steps(second, 30, 40)
    assert identical(weights(straight), weights(second))


def test_looking_does_not_disturb_training(logs):
    watched, alone = (Trainer(logs, TINY, QUICK, seed=3) for _ in range(2))
    torch.manual_seed(3)
    while watched.steps < 6:
        watched.evaluate(5)
        watched.update()
    torch.manual_seed(3)
    steps(alone, 6, 10**9)
    assert identical(weights(watched), weights(alone))


def test_the_seed_decides_everything(logs):
    runs = []
    for seed in (3, 3, 4):
        trainer = Trainer(logs, TINY, QUICK, seed=seed)
        steps(trainer, 3, 10)
        runs.append(weights(trainer))
    assert identical(runs[0], runs[1]) and not identical(runs[0], runs[2])


def test_a_loaded_model_is_the_saved_one(logs, tmp_path):
    trainer = Trainer(logs, TINY, QUICK)
    steps(trainer, 5, 10)
    trainer.save(tmp_path / "run")
    model, meta = load_model(tmp_path / "run")
    assert identical(model.state_dict(), weights(trainer)) and not model.training
    assert (meta["task"], meta["steps"], meta["control_hz"]) == ("toy", 5, 10.0)
    assert meta["observation_names"] == ["channel 0", "channel 1"]
    assert model.context == trainer.model.context
    mine, theirs = (open_loop(m, trainer.held_out, 4).model for m in (trainer.model, model))
    assert np.array_equal(mine, theirs)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_it_is_said(logs, tmp_path):
    trainer = Trainer(logs, TINY, QUICK)
    steps(trainer, 2, 10)
    trainer.save(tmp_path / "run")
    kept = {name: value.clone() for name, value in weights(trainer).items()}
    steps(trainer, 4, 10)
    path = trainer.save(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:1000])
    again = Trainer(logs, TINY, QUICK)
    again.restore(tmp_path / "run")
    assert again.steps == 2 and identical(weights(again), kept)
    assert again.trouble == ["the checkpoint of step 4 is damaged; went on from the one of step 2"]


@pytest.mark.parametrize("what", ["task", "spaces", "model", "physics"])
def test_a_run_of_something_else_is_refused(logs, tmp_path, what):
    Trainer(logs, TINY, QUICK).save(tmp_path / "run")
    config, episodes, task = TINY, sliding_mass(4, steps=12), "toy"
    if what == "task":
        task = "hopper"
    elif what == "model":
        config = dataclasses.replace(TINY, units=16)
    elif what == "spaces":
        for e in episodes:
            e.observation["vector"] = e.observation["vector"][:, :1]
    else:
        episodes = sliding_mass(4, steps=12, label=False)
    other = Trainer(write_log(tmp_path / "other", episodes, task=task), config, QUICK)
    before = {name: value.clone() for name, value in weights(other).items()}
    with pytest.raises(UserError, match=f"holds a model whose {what} is") as caught:
        other.restore(tmp_path / "run")
    assert "\n" not in str(caught.value) and "or a new --run" in str(caught.value)
    assert identical(before, weights(other))


def test_logs_that_grew_go_on_with_the_scale_the_network_knows(logs, tmp_path):
    trainer = Trainer(logs, TINY, QUICK)
    trainer.save(tmp_path / "run")
    with LogWriter(logs.folder, logs.schema) as writer:
        for friction in (9.0, 1.0):
            writer.append(slide(friction, np.zeros(12), 0.0, 1.0))
    grown = Trainer(LogReader(logs.folder), TINY, QUICK)
    assert grown.model.context != trainer.model.context
    grown.restore(tmp_path / "run")
    assert grown.model.context == grown.replay.context == grown.held_out.context == trainer.model.context
    grown.update()


def test_a_checkpoint_older_than_the_settings_is_gone_on_with(logs, tmp_path, monkeypatch):
    trainer = Trainer(logs, TINY, QUICK)
    meta = trainer.meta()
    del meta["model"]["vector_loss"]
    meta["model"]["carry_noise"] = 0.1  # which was the model's
    monkeypatch.setattr(trainer, "meta", lambda: meta)
    trainer.update()
    trainer.save(tmp_path / "run")
    again = Trainer(logs, TINY, QUICK)
    again.restore(tmp_path / "run")
    assert again.steps == 1 and identical(weights(again), weights(trainer))
    assert load_model(tmp_path / "run")[0].config == TINY


def test_a_run_goes_on_with_todays_way_of_learning(logs, tmp_path):
    """What no output depends on may have another default by now; what shapes the model may not."""
    then = Trainer(logs, dataclasses.replace(TINY, context_dropout=0.3), QUICK)
    then.save(tmp_path / "run")
    again = Trainer(logs, TINY, QUICK)
    again.restore(tmp_path / "run")
    assert again.model.config == TINY
    with pytest.raises(UserError, match="whose model is"):
        Trainer(logs, dataclasses.replace(TINY, noise_floor=0.1), QUICK).restore(tmp_path / "run")


def test_everything_learns_from_observations_that_are_as_wrong_as_the_settings_say(logs, monkeypatch):
    shares = []

    def noted(before, step_std, share):
        shares.append(share)
        return before

    for module in ("model", "loss"):
        monkeypatch.setattr(f"worldmodel.{module}.disturbed", noted)
    trainer = Trainer(logs, TINY, dataclasses.replace(QUICK, carry_noise=0.7))
    trainer.update()
    times = QUICK.transition_steps + 2  # its steps, the ensemble's and the filter's
    assert shares == [0.7] * times
    open_loop(trainer.model, trainer.held_out, 4, starts=4)
    assert len(shares) == times  # nothing is disturbed where nothing is learnt


# -- trouble ---------------------------------------------------------------------------------------------------------


def poison(instance: Trainer, monkeypatch, from_step: int, to_step: int, which: str = "world_model_loss") -> None:
    honest = getattr(trainer_module, which)

    def loss(model, batch, *more):
        found = honest(model, batch, *more)
        factor = float("nan") if from_step <= instance.steps < to_step else 1.0
        return found._replace(total=found.total * factor) if which == "world_model_loss" else found * factor

    monkeypatch.setattr(trainer_module, which, loss)


def test_a_few_bad_batches_of_the_transition_are_no_cause_to_go_back(logs, monkeypatch):
    trainer = Trainer(logs, TINY, dataclasses.replace(QUICK, transition_steps=2, transition_ahead=1))
    honest, calls = trainer_module.transition_loss, []

    def every_other(model, batch, noise):
        calls.append(batch)
        return honest(model, batch, noise) * (float("nan") if len(calls) % 2 else 1.0)

    monkeypatch.setattr(trainer_module, "transition_loss", every_other)
    steps(trainer, 8, 10)
    assert trainer.transition_step is not None and trainer.transition_step.skipped == 8
    assert trainer.skipped == 0 and trainer.trouble == []


LOSSES = pytest.mark.parametrize("which", ["world_model_loss", "transition_loss"])


@LOSSES
def test_losses_that_are_not_finite_are_skipped(logs, monkeypatch, which):
    trainer = Trainer(logs, TINY, QUICK)
    poison(trainer, monkeypatch, 2, 5, which)
    steps(trainer, 8, 10)
    assert trainer.skipped == 3 and trainer.trouble == []
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


@LOSSES
def test_after_many_the_last_good_state_is_taken_at_a_third_of_the_rate(logs, monkeypatch, tmp_path, which):
    monkeypatch.setattr(trainer_module, "KEEP_EVERY", 20)
    trainer = Trainer(logs, TINY, QUICK)
    steps(trainer, 20, 10**9)
    good = {name: value.clone() for name, value in weights(trainer).items()}
    steps(trainer, 23, 10**9)
    poison(trainer, monkeypatch, 23, 28, which)
    steps(trainer, 28, 10**9)
    assert identical(weights(trainer), good)
    assert len(trainer.trouble) == 1 and "went back to the last good state" in trainer.trouble[0]
    steps(trainer, 29, 10**9)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(QUICK.lr / 3)
    trainer.save(tmp_path / "run")
    again = Trainer(logs, TINY, QUICK)
    again.restore(tmp_path / "run")
    again.update()
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(QUICK.lr / 3)
    assert again.trouble == trainer.trouble


@LOSSES
def test_losses_that_are_not_finite_ever_again_are_said_so_once(logs, monkeypatch, which):
    trainer = Trainer(logs, TINY, QUICK)
    steps(trainer, 1, 10**9)
    good = {name: value.clone() for name, value in weights(trainer).items()}
    poison(trainer, monkeypatch, 1, 10**9, which)
    steps(trainer, 61, 10**9)
    assert identical(weights(trainer), good) and len(trainer.trouble) < 9
    assert sum("again and again" in text for text in trainer.trouble) == 1


@LOSSES
def test_losses_that_never_were_finite_end_with_a_reason(logs, monkeypatch, which):
    trainer = Trainer(logs, TINY, QUICK)
    poison(trainer, monkeypatch, 0, 10, which)
    with pytest.raises(UserError, match="not finite from the first steps on: look for extreme values"):
        steps(trainer, 10, 10)


def test_learning_less_than_standing_still_is_noticed(logs):
    trainer = Trainer(logs, TINY, QUICK)
    with torch.no_grad():
        trainer.model.decoder.out.bias.fill_(30.0)
    trainer.evaluate(5)
    assert trainer.trouble == []  # too early to say
    trainer.steps = 1000
    trainer.evaluate(5)
    assert "above standing still" in trainer.trouble[0]


def test_the_learning_rate_falls_to_a_tenth_at_the_end(logs):
    trainer = Trainer(logs, TINY, QUICK)
    rates = []
    for progress in (0.0, 0.6, 0.8, 1.0):
        trainer.update(progress)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([QUICK.lr * share for share in (1.0, 1.0, 10**-0.5, 0.1)])


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Trainer:
    """A mass on floors of friction 0.2 to 3, learnt by the debug size in some seconds."""
    reader = write_log(tmp_path_factory.mktemp("mass"), sliding_mass(150))
    size = from_dict(ModelConfig, packaged("sizes", "debug"), "debug")
    trainer = Trainer(reader, size, TrainerConfig(batch=16, length=16, lr=3e-3, warmup=50, ensemble=0))
    steps(trainer, 260, 260)
    return trainer


def test_a_toy_system_is_learnt(learnt):
    result = learnt.evaluate(20)
    assert result.model[0] < 0.5 * result.persistence[0]
    assert (result.model[4:] < 0.33 * result.persistence[4:]).all(), (result.model, result.persistence)
    assert learnt.trouble == []


def test_told_the_friction_it_foretells_better_than_told_a_wrong_one(learnt):
    held_out = learnt.held_out
    right = open_loop(learnt.model, held_out, 20).model.mean()
    wrong = Replay(held_out.reader, held_out.context, held_out.episodes.tolist())
    wrong.values = -wrong.values  # slippery for rough, rough for slippery
    assert right < 0.7 * open_loop(learnt.model, wrong, 20).model.mean()


def test_the_friction_is_read_back_from_how_it_slides(learnt):
    """Untold, the context head must tell floors apart by the motion alone."""
    estimates, truths = [], []
    for mu in (0.3, 0.9, 1.6, 2.3, 2.9):
        rows = slide(mu, np.tile([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], 5), 0.0, 0.0)
        vector = torch.from_numpy(rows.observation["vector"])[None]
        action = torch.cat([torch.zeros(1, 1, 1), torch.from_numpy(rows.action)[None]], 1)
        nothing = torch.zeros(1, 31, 1)
        is_first = torch.zeros(1, 31, dtype=torch.bool)
        is_first[:, 0] = True
        model = learnt.model.eval()
        with torch.no_grad():
            beliefs, *_ = model.filter(vector, None, model.action_input(action, nothing, nothing), is_first)
            estimates.append(model.estimate_context(beliefs)[0][0, -10:].mean().item())
        truths.append((mu - model.context.centre[0]) / model.context.scale[0])
    assert np.corrcoef(estimates, truths)[0, 1] > 0.8, (estimates, truths)


def test_meta_data_are_plain_json(learnt, tmp_path):
    path = learnt.save(tmp_path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["name"] == NAME and manifest["meta"]["trainer"]["batch"] == 16
