"""Nights that are killed in the midst of a phase: their numbers are those of a night that was not, to the last bit.

On a simulated clock, which goes on by a second with every step. A kill is a copy of the run folder as it is then.
"""

import shutil

import numpy as np
import pytest
import torch
from small_nights import Ears, small_config

from dreaming import checks, dreamphase, night
from dreaming.auditing import Auditor
from dreaming.clock import Budget, Share
from dreaming.dreamphase import dream
from dreaming.evening import clone, learn
from dreaming.learning import DreamConfig
from dreaming.run import BEST, CLONE, LATEST, RunFolder
from worldmodel import checkpoint
from worldmodel.trainer import TrainerConfig

TOTAL = 128.0
SHARES = {"learn": 0.25, "clone": 0.25, "dream": 0.5}
KILLS = {"learn": 27, "clone": 16, "dream": 45}  # steps into the phase
SAVE_EVERY_S = 8.0
LEARNING = TrainerConfig(batch=6, length=8, transition_steps=2, transition_batch=16, ensemble=2, ensemble_batch=16)
DREAMING = DreamConfig(dreams=8, horizon=6, batch=4, length=8)


class Clock(Ears):
    """Listens, and makes time pass."""

    def __init__(self, at: float = 0.0) -> None:
        super().__init__()
        self.at, self.steps = at, 0

    def now(self) -> float:
        return self.at

    def phase(self, name, seconds):
        super().phase(name, seconds)
        self.steps = 0

    def progress(self, share, text):
        self.at += 1.0
        self.steps += 1


def played(run: RunFolder, clock: Clock) -> None:
    shares = [Share(name, share) for name, share in SHARES.items()]
    sleeper = night.Night(run.config(), run, Budget(TOTAL, shares, clock.now, used=clock.at), clock)
    sleeper.one_process = True
    sleeper.phase("learn", learn)
    sleeper.phase("clone", clone)
    sleeper.phase("dream", dream)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_night):
    """A folder of a whole night, and beside it copies of it as it was at each kill."""
    path = tmp_path_factory.mktemp("resumed") / "whole"
    run = RunFolder(path)
    run.create(small_config(scenario="slippery", seed=3, trainer=LEARNING, dream=DREAMING))
    shutil.copytree(RunFolder(small_night.path).episodes, run.episodes)

    class Killer(Clock):
        def progress(self, share, text):
            super().progress(share, text)
            if self.phases and KILLS.get(self.phases[-1]) == self.steps:
                shutil.copytree(path, path.with_name(self.phases[-1]))

    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        played(run, Killer())
    return path


def quick(patch) -> None:
    """Saves every few steps; trials and audits of a size that hangs on no real clock."""
    patch.setattr(night.Night, "save_every_s", SAVE_EVERY_S)
    patch.setattr(dreamphase, "ENVS", 4)
    patch.setattr(checks, "affordable_draws", lambda *_: 2)
    patch.setattr(Auditor, "affordable", lambda *_, **__: 2)


def same(one, other, where: str) -> None:
    """To the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            same(one[name], other[name], f"{where} {name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where} {i}")
    elif isinstance(one, torch.Tensor):
        assert np.array_equal(one.numpy(), other.numpy(), equal_nan=one.is_floating_point()), where
    else:
        assert one == other, where


@pytest.mark.parametrize("phase", KILLS)
def test_a_killed_night_goes_on_to_the_last_bit(whole, phase, monkeypatch):
    quick(monkeypatch)
    run = RunFolder(whole.with_name(phase))
    name = night.SAVED_AS[phase]
    at = checkpoint.load(run.checkpoints, name)[1]["place"]["at"]
    assert 0 < KILLS[phase] - at["elapsed"] <= 1 + SAVE_EVERY_S, "it was killed some steps after it was saved"
    clock = Clock(TOTAL - at["left"])
    played(run, clock)
    assert clock.phases == list(SHARES)[list(SHARES).index(phase) :]
    for name in ("world-model", CLONE, LATEST):
        (state, meta, step), (other, of_other, of_step) = (
            checkpoint.load(folder.checkpoints, name) for folder in (RunFolder(whole), run)
        )
        assert step == of_step and step > 0
        same(state, other, name)
        same(meta, of_other, name)
    there, here = RunFolder(whole).progress(), run.progress()
    assert (there.best_score, there.refused, there.updates) == (here.best_score, here.refused, here.updates)


def test_a_night_that_goes_on_after_its_dreams_audits_the_policy_they_made(whole):
    run = RunFolder(whole)
    state, _, _ = checkpoint.load(run.checkpoints, LATEST)

    def auditor(nights: int) -> Auditor:
        morning = night.Night(run.config(), run, Budget(1.0, []), Ears())
        morning.state.nights = nights
        return morning.auditor()

    for name, weight in auditor(run.progress().nights).actor.state_dict().items():
        assert torch.equal(weight, state["dreamer"]["learner"][f"actor.{name}"]), name
    # Another night begins with a policy of its own.
    first = next(iter(auditor(run.progress().nights + 1).actor.parameters()))
    assert not torch.equal(first, next(iter(auditor(run.progress().nights).actor.parameters())))


def test_the_best_policy_is_the_one_that_was_kept_last_whatever_it_had_learnt_by(whole, tmp_path):
    """A night killed between keeping it and saving where it was goes on from fewer updates."""
    shutil.copytree(whole, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    morning = night.Night(run.config(), run, Budget(1.0, []), Ears())
    learner = morning.dreamer.learner
    for updates in (200, 190):
        with torch.no_grad():
            next(iter(learner.actor.parameters())).fill_(updates)
        morning.save_policy(BEST, updates=updates)
    assert next(iter(morning.agent(BEST).actor.parameters())).unique().tolist() == [190.0]
