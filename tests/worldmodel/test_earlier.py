"""Learning on from an earlier run's model: what is kept, what is rehearsed, what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from told import Told, told
from toy_logs import named_after_origin, sliding_mass, write_log

from configs import UserError, from_dict, packaged
from worldmodel.cli import train
from worldmodel.context import ContextSpec
from worldmodel.earlier import Earlier, mixed, scaled_as
from worldmodel.model import ModelConfig
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import load_model
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

SHORT = ("--batch", 4, "--length", 8, "--wandb", "off")
TINY = ModelConfig(rssm=RSSMConfig(deter=32, hidden=16, stoch=4, classes=4, blocks=4), units=16, layers=1)
QUICK = TrainerConfig(batch=8, length=5, warmup=10, ensemble=0, transition_steps=1, transition_batch=64)
NOTHING = ContextSpec((), (), ())


@pytest.fixture
def command(capsys):
    def call(*arguments: object) -> Told:
        return told(capsys, train, arguments)

    return call


@pytest.fixture
def old(tmp_path):
    """A run on labelled logs, whose commands reach to 1."""
    logs = write_log(tmp_path / "old-logs", sliding_mass(8, steps=20))
    shape = from_dict(ModelConfig, packaged("sizes", "debug"), "debug")
    trainer = Trainer(logs, shape, TrainerConfig(batch=4, length=8))
    trainer.steps = 20
    trainer.save(tmp_path / "old" / "checkpoints")
    settings = {"task": "toy", "size": "debug", "data": str(logs.folder), "seed": 0}
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "old"


@pytest.fixture
def new_logs(tmp_path):
    """Other floors, no labels, and another bound on the commands."""
    episodes = sliding_mass(6, steps=20, friction=(6.0, 8.0), seed=1, label=False)
    return write_log(tmp_path / "new-logs", episodes, bounds=(-2.0, 2.0)).folder


def replay(folder, first: float) -> Replay:
    episodes = named_after_origin([30, 30], [False, False], label=False)
    for episode in episodes:
        episode.observation["vector"] += first
    return Replay(write_log(folder, episodes), NOTHING)


# -- rehearsal -------------------------------------------------------------------------------------------------------


def test_every_member_of_the_ensemble_rehearses_its_share(old, new_logs, monkeypatch):
    """Else they would tell the logs apart, and not what the model knows."""
    config = TrainerConfig(batch=4, length=8, ensemble=2, ensemble_batch=30)
    trainer = Trainer(LogReader(new_logs), from_dict(ModelConfig, packaged("sizes", "debug"), "debug"), config)
    trainer.start_from(old / "checkpoints", [str(old.parent / "old-logs")])
    labelled = []  # of the earlier logs alone
    monkeypatch.setattr(
        "worldmodel.trainer.ensemble_loss",
        lambda model, windows, _: labelled.append(windows.labelled[:, 0]) or next(model.ensemble.parameters()).sum(),
    )
    trainer.learn_ensemble()
    assert [int(member.sum()) for member in labelled[0].reshape(2, 30)] == [9, 9]


@pytest.mark.parametrize("plain", [True, False])
def test_a_share_of_every_batch_is_of_earlier_logs(tmp_path, plain):
    new, one, other = (replay(tmp_path / name, at) for name, at in (("new", 0), ("one", 1e4), ("other", 2e4)))
    earlier = [Earlier(one, one), Earlier(other, other)]
    batch = mixed(new, earlier, 0.3, 40, 5, np.random.default_rng(0), plain)
    assert batch.vector.shape == (40, 5, 2) and batch.episode.shape == (40, 5)
    origin = (batch.vector[..., 0] // 1e4).numpy()
    assert (origin == origin[:, :1]).all()  # no segment runs from one log into another
    counts = np.bincount(origin[:, 0].astype(int), minlength=3)
    assert counts[0] == 28 and counts[1:].sum() == 12 and counts[1:].min() > 0


def test_without_earlier_logs_batches_are_as_ever(tmp_path):
    new = replay(tmp_path / "new", 0)
    ours = mixed(new, [], 0.3, 8, 5, np.random.default_rng(3))
    assert torch.equal(ours.vector, new.sample(8, 5, np.random.default_rng(3)).vector)


def test_rehearsal_keeps_what_was_learnt(tmp_path):
    """Old floors are slippery, new ones sticky: without labels and without rehearsal, the old law is lost."""
    logs = {
        name: write_log(tmp_path / name, sliding_mass(20, friction=friction, seed=seed, label=False))
        for name, friction, seed in (("slippery", (0.0, 0.2), 0), ("sticky", (7.0, 9.0), 1))
    }
    first = Trainer(logs["slippery"], TINY, QUICK)
    for _ in range(60):
        first.update()
    first.save(tmp_path / "run")
    before = float(first.evaluate(horizon=5).model[-1])
    errors = {}
    for share in (0.0, 0.3):
        trainer = Trainer(logs["sticky"], TINY, dataclasses.replace(QUICK, rehearsal=share))
        trainer.start_from(tmp_path / "run", [str(logs["slippery"].folder)])
        assert float(trainer.evaluate_earlier(horizon=5)[str(logs["slippery"].folder)].model[-1]) == before
        for _ in range(60):
            trainer.update()
        errors[share] = float(trainer.evaluate_earlier(horizon=5)[str(logs["slippery"].folder)].model[-1])
    assert errors[0.3] < 0.7 * errors[0.0]


# -- scales ----------------------------------------------------------------------------------------------------------


def test_commands_keep_the_bounds_that_the_network_knows(tmp_path, new_logs):
    before = {path.name: path.read_bytes() for path in new_logs.iterdir()}
    action = {"names": ["motor 0"], "low": [-1.0], "high": [1.0]}
    for _ in range(2):  # a second time, as when it goes on
        reader = scaled_as(LogReader(new_logs), action, tmp_path / "run" / "episodes")
        assert reader.folder == tmp_path / "run" / "episodes" and reader.schema["action"]["high"] == [1.0]
        assert np.array_equal(reader.rows["action"], LogReader(new_logs).rows["action"]) and not reader.verify()
    assert {path.name: path.read_bytes() for path in new_logs.iterdir()} == before
    same = LogReader(new_logs)
    assert scaled_as(same, same.schema["action"], tmp_path / "other") is same
    write_log(tmp_path / "full", sliding_mass(2))
    with pytest.raises(UserError, match="already holds other logs"):
        scaled_as(same, action, tmp_path / "full")


def test_it_begins_as_the_earlier_model(old, new_logs, tmp_path):
    theirs, meta = load_model(old / "checkpoints")
    reader = scaled_as(LogReader(new_logs), meta["action"], tmp_path / "episodes")
    trainer = Trainer(reader, theirs.config, TrainerConfig(batch=4, length=8))
    assert not torch.equal(trainer.model.std, theirs.std) and not len(trainer.model.context)
    trainer.start_from(old / "checkpoints", [str(tmp_path / "old-logs")])
    assert trainer.model.context == theirs.context == trainer.replay.context
    assert trainer.lessons.earlier[0].replay.context == theirs.context
    for name, value in theirs.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name
    trainer.update()
    for name in ("mean", "std", "step_std"):
        assert torch.equal(getattr(trainer.model, name), getattr(theirs, name))


# -- the command -----------------------------------------------------------------------------------------------------


def test_it_tells_what_was_gained_and_what_forgotten(command, old, new_logs, tmp_path):
    run = tmp_path / "tuned"
    done = command("--init-from", old, "--data", new_logs, "--run", run, "--steps", 2, *SHORT)
    assert done.code == 0, done.err
    assert f"Beginning as the model of {old}, of step 20; its scales are kept" in done.out
    assert f"Rehearsed, as 30% of every batch: {tmp_path / 'old-logs'}, 7 episodes; 1 held out" in done.out
    assert "on these logs after 1 / 10 / 16 steps: " in done.out
    assert f"on the earlier logs {tmp_path / 'old-logs'} after 1 / 10 / 16 steps: " in done.out
    kept = json.loads((run / "plots" / "forgetting.json").read_text())
    assert set(kept["before"]) == set(kept["now"]) == {"these logs", str(tmp_path / "old-logs")}
    assert (run / "plots" / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (earlier,) = [row for row in rows if row["phase"] == "earlier_logs"]
    assert earlier["before_0"] > 0 and earlier["error_0"] > 0
    # The same command goes on, knows what was before, and rehearses still.
    again = command("--run", run, "--data", new_logs, "--init-from", old, "--steps", 3, *SHORT)
    assert again.code == 0 and "Going on from step 2" in again.out and "Rehearsed, as 30%" in again.out
    assert json.loads((run / "plots" / "forgetting.json").read_text())["before"] == kept["before"]
    model, meta = load_model(run / "checkpoints")
    assert meta["steps"] == 3 and model.context.names == ("floor_friction",) and meta["began_as"] == str(old)
    # And so does one that begins as this one.
    third = command("--init-from", run, "--data", new_logs, "--run", tmp_path / "third", "--steps", 1, *SHORT)
    assert third.code == 0 and third.out.count("Rehearsed, as a part") == 2
    settings = yaml.safe_load((tmp_path / "third" / "config.yaml").read_text())
    assert settings["size"] == "debug"


def test_without_the_earlier_logs_it_says_so_and_learns_on(command, old, new_logs, tmp_path):
    shutil.rmtree(tmp_path / "old-logs")
    done = command("--init-from", old, "--data", new_logs, "--run", tmp_path / "tuned", "--steps", 2, *SHORT)
    assert done.code == 0, done.err
    said = " ".join((done.out + done.err).split())
    assert "earlier logs are not rehearsed" in said and "Rehearsed" not in said


def test_what_does_not_fit_is_refused(command, old, new_logs, tmp_path):
    def refused(message: str, *arguments: object, run: str = "tuned") -> None:
        done = command("--init-from", old, "--run", tmp_path / run, "--steps", 1, "--wandb", "off", *arguments)
        assert done.code != 0 and message in " ".join(done.err.split()), done.err
        assert run == "old" or not (tmp_path / run / "checkpoints").exists()

    def other(name: str, change) -> list[object]:
        episodes = sliding_mass(4, steps=20)
        folder = write_log(tmp_path / name, episodes).folder
        schema = json.loads((folder / "schema.json").read_text())
        change(schema)
        (folder / "schema.json").write_text(json.dumps(schema))
        return ["--data", folder]

    refused("is of size debug; leave --size out", "--data", new_logs, "--size", "laptop")
    refused("--init-from needs --data")
    refused("--init-from and --run are the same folder", "--data", new_logs, run="old")
    refused(
        "model's control rate in Hz is 10.0, that of these logs 20", *other("fast", lambda s: s.update(control_hz=20))
    )
    refused("model's task is toy, that of these logs boat", *other("boat", lambda s: s.update(task="boat")))
    names = other("names", lambda s: s["observation"]["vector"].update(names=["a", "b"]))
    refused("model's observation is channel 0, channel 1, that of these logs a, b", *names)
    refused(
        "model's action is motor 0, that of these logs wheel",
        *other("act", lambda s: s["action"].update(names=["wheel"])),
    )
    done = command("--init-from", tmp_path, "--data", new_logs, "--run", tmp_path / "tuned")
    assert done.code != 0 and "no world model is in it" in done.err
    done = command("--init-from", tmp_path / "names", "--data", new_logs, "--run", old)
    assert done.code != 0 and "did not begin as another's; leave --init-from out" in " ".join(done.err.split())
