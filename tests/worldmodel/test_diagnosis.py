"""Each silent failure is found in a model or a log that has it, and nothing in those that have not."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from told import told
from toy_logs import slide, sliding_mass, write_log

from configs import from_dict, packaged
from worldmodel.cli import train
from worldmodel.context import ContextSpec
from worldmodel.diagnosis import diagnose
from worldmodel.drift import drift
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.replay import Replay
from worldmodel.trainer import Trainer, TrainerConfig

DEBUG = from_dict(ModelConfig, packaged("sizes", "debug"), "debug")
QUICK = TrainerConfig(batch=8, length=12, lr=4e-3, warmup=20, ensemble=0, transition_steps=2, transition_batch=64)


def trained(folder, updates: int, model: ModelConfig = DEBUG, episodes=None) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(write_log(folder / "logs", episodes or sliding_mass(30, steps=40)), model, QUICK)
    for k in range(updates):
        trainer.update(k / updates)
    return trainer


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Trainer:
    return trained(tmp_path_factory.mktemp("healthy"), 60)


@pytest.fixture(scope="module")
def latent(tmp_path_factory) -> Trainer:
    """One that carries no observation: its latents have to hold it."""
    return trained(tmp_path_factory.mktemp("latent"), 50, replace(DEBUG, carry=False))


def found(trainer: Trainer, model: WorldModel | None = None, held_out: Replay | None = None) -> list[str]:
    model = model or trainer.model
    return [f.name for f in diagnose(model, trainer.replay, held_out or trainer.held_out, updates=1000)]


def zeroed(layer: torch.nn.Module) -> None:
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)


def test_nothing_is_found_in_a_healthy_model_and_nothing_of_others_is_disturbed(healthy):
    before = torch.get_rng_state()
    assert found(healthy) == []
    assert torch.equal(torch.get_rng_state(), before) and healthy.model.training


def test_posterior_collapse(latent):
    assert not {"posterior collapse", "KL at the free-bits floor"} & set(found(latent))
    model = copy.deepcopy(latent.model)
    zeroed(model.rssm.posterior_out)
    assert "posterior collapse" in found(latent, model)


def test_free_bits_that_leave_the_prior_untaught(tmp_path):
    free = replace(DEBUG, carry=False, rssm=replace(DEBUG.rssm, free_nats=1000.0))
    assert "KL at the free-bits floor" in found(trained(tmp_path, 40, free))


def test_a_reward_head_that_always_says_the_same(healthy):
    model = copy.deepcopy(healthy.model)
    assert model.transition is not None
    zeroed(model.reward)
    zeroed(model.transition.pay)
    assert found(healthy, model) == ["reward head constant"]


def test_a_channel_that_the_decoder_ignores(healthy):
    model = copy.deepcopy(healthy.model)
    expected = model.expected

    def deaf(latent, before, inputs, dreaming=False):
        mean, log_std = expected(latent, before, inputs, dreaming)
        return torch.cat([mean[..., :1], before[..., 1:]], -1), log_std

    model.expected = deaf
    (finding,) = [
        f for f in diagnose(model, healthy.replay, healthy.held_out, 1000) if f.name == "decoder ignores a channel"
    ]
    assert finding.advice.startswith("channel 1: of its changes a straight line") and "the model 0%" in finding.advice


def test_a_model_that_does_not_look_at_its_commands(healthy):
    model = copy.deepcopy(healthy.model)
    given = model.inputs
    model.inputs = lambda batch, hidden: given(batch, hidden) * (torch.arange(3) > 0)
    assert "commands without effect" in found(healthy, model)


def test_logs_whose_commands_are_of_another_time(healthy, tmp_path):
    """As they are where the column is another machine's."""
    episodes = sliding_mass(30, steps=40)
    commands = [episode.action for episode in sliding_mass(30, steps=40, seed=9)]
    for episode, command in zip(episodes, commands, strict=True):
        episode.action, episode.applied_action = command, command
    logs = write_log(tmp_path / "logs", episodes)
    held_out = Replay(logs, healthy.model.context)
    assert "commands without effect" in found(healthy, held_out=held_out)


def test_too_little_data(tmp_path):
    """Two short episodes, on floors that resemble none of the held-out ones."""
    rng = np.random.default_rng(0)
    episodes = [slide(mu, rng.uniform(-1, 1, 24), 0.5, 0.5, label=False) for mu in (0.2, 0.3, *([3.0] * 8))]
    for k, episode in enumerate(episodes):
        episode.info["split"] = "train" if k < 2 else "test"
    trainer = trained(tmp_path, 40, episodes=episodes)
    (finding,) = [
        f for f in diagnose(trainer.model, trainer.replay, trainer.held_out, 1000) if f.name.startswith("too little")
    ]
    assert "48 steps are few for" in finding.advice


# -- logs that change with time --------------------------------------------------------------------------------------


def worn(label: bool, episodes: int = 40):
    """The motor gives half of what is commanded in the second half of the episodes."""
    made = sliding_mass(episodes, steps=40, label=False)
    for k, episode in enumerate(made):
        strength = 1.0 if k < episodes // 2 else 0.5
        x, v = episode.observation["vector"][0]
        command = episode.action.copy()
        made[k] = slide(1.0, strength * command[:, 0], float(x), float(v), label=False)
        made[k].action, made[k].applied_action = command, command
        made[k].physics = {"gearing": strength} if label else {}
    return made


def spec_of(episodes) -> ContextSpec:
    return ContextSpec.from_logs([episode.physics for episode in episodes], np.zeros(0))


def test_a_motor_that_wears_is_found_unless_the_logs_label_it(tmp_path):
    for label in (False, True):
        episodes = worn(label)
        reader = write_log(tmp_path / str(label), episodes)
        lines = drift(reader, spec_of(episodes), range(len(reader)))
        assert bool(lines) is not label
        if lines:
            assert lines[0].startswith("in the last third of the episodes channel 1 answers commands less")


def test_episodes_that_differ_at_random_do_not_drift(tmp_path):
    for seed in range(6):
        episodes = sliding_mass(24, steps=30, seed=seed, label=seed % 2 == 0)
        reader = write_log(tmp_path / str(seed), episodes)
        assert drift(reader, spec_of(episodes), range(len(reader))) == []
    assert drift(write_log(tmp_path / "few", worn(False, 14)), spec_of([]), range(14)) == []


def test_the_command_tells_its_findings_and_keeps_them(capsys, tmp_path):
    logs = write_log(tmp_path / "logs", worn(label=False)).folder
    short = ("--size", "debug", "--batch", 4, "--length", 8, "--wandb", "off")
    done = told(capsys, train, ("--data", logs, "--run", tmp_path / "run", "--steps", 2, *short))
    assert done.code == 0
    assert "note: logs that change with time: in the last third of the episodes channel 1 answers" in done.out
    assert "2 steps are too few to diagnose the model; from 300 on it is" in done.out
    (finding,) = json.loads((tmp_path / "run" / "results.json").read_text())["diagnosis"]
    assert finding["name"] == "logs that change with time" and "label what did" in finding["advice"]
