"""Cloning, dreaming, acting and rehearsing on another device than the CPU (tests/elsewhere.py)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import alike

from dreaming.actor_critic import ActorCriticConfig
from dreaming.agent import ActorConfig
from dreaming.learning import DreamConfig, DreamLearner
from dreaming.rehearsal import rehearse, replayed_logs
from dreaming.scenario import LOGGED, load_scenarios
from dreaming.trust import TrustConfig
from envs.physics import Physics
from worldmodel.calibration import Calibration
from worldmodel.device import CPU, device_of
from worldmodel.episode import Episode
from worldmodel.model import ModelConfig
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader, LogWriter, make_schema
from worldmodel.trainer import Trainer, TrainerConfig

TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)
SMALL = ActorCriticConfig(ActorConfig(units=8, layers=1), critic_units=8, critic_layers=1, critic_first=1)


@pytest.fixture
def logs(tmp_path) -> LogReader:
    """Noise, under several frictions, pushed now and then."""
    rng = np.random.default_rng(0)
    schema = make_schema("push-box", 20.0, ["x", "v"], ["motor"], [-1.0], [1.0], None)
    with LogWriter(tmp_path / "logs", schema) as writer:
        for friction in (0.3, 0.5, 0.7, 0.4):
            vector = rng.normal(size=(21, 2)).astype(np.float32)
            action = rng.uniform(-1, 1, (20, 1)).astype(np.float32)
            push = 0.3 * (rng.random(20) < 0.2).astype(np.float32)
            pays, known = vector[1:, 0].copy(), {"floor_friction": friction}
            writer.append(Episode({"vector": vector}, action, action, pays, push, False, True, known))
    return LogReader(tmp_path / "logs")


def learner_on(device: torch.device, logs: LogReader, config: DreamConfig) -> DreamLearner:
    trainer = Trainer(logs, TINY, TrainerConfig(compute="float32"), 0, device)
    scenarios = load_scenarios("slippery,latency,push", "push-box")
    learner = DreamLearner(trainer.model, trainer.replay, "push-box", Physics(), scenarios, 20.0, config)
    assert device_of(learner.learner) == device
    return learner


def learning(learner: DreamLearner) -> list[Any]:
    """Losses of cloning and of dreams, of the critic alone and of both, before and after going back."""
    found = [*learner.clone(0.0).values(), *learner.dream(0.0).values(), *learner.dream(0.5).values()]
    state = learner.state_dict()
    found += learner.dream(0.6).values()
    learner.load_state_dict(state)
    return [*found, *learner.dream(0.6).values()]


def acting(learner: DreamLearner) -> list[Any]:
    agent, rng = learner.agent(seed=4), np.random.default_rng(5)
    agent.reset(3)
    seen = [{"vector": rng.normal(size=(3, 2)).astype(np.float32)} for _ in range(4)]
    return [agent.act(observation, np.full(3, t == 0)) for t, observation in enumerate(seen)]


def rehearsing(learner: DreamLearner) -> list[Any]:
    model, replay, actor = learner.model, learner.replay, learner.learner.actor
    scene = ("push-box", LOGGED, Physics(), 20.0)
    dreams = rehearse(model, actor, learner.config.view, replay, *scene, count=2, horizon=4, seed=3)
    dreams += replayed_logs(model, replay, 20.0, count=2, horizon=4, seed=3)
    return [array for d in dreams for array in (d.action, d.observation, d.reward, d.continuation)]


@pytest.mark.parametrize(
    ("work", "gradient"),
    [(learning, "dynamics"), (learning, "reinforce"), (acting, "dynamics"), (rehearsing, "dynamics")],
)
@pytest.mark.parametrize("view", ["blind", "estimate"])
def test_nights_give_the_numbers_of_the_cpu(elsewhere, logs, work: Callable[[DreamLearner], list[Any]], gradient, view):
    settings = replace(SMALL, gradient=gradient)
    config = DreamConfig(settings, view, horizon=4, dreams=6, batch=2, length=8)
    here = work(learner_on(CPU, logs, config))
    assert alike(work(learner_on(elsewhere, logs, config)), here, elsewhere)


@pytest.mark.parametrize("trust", [TrustConfig(penalty=0.1), TrustConfig(cut=True)])
def test_dreams_that_trust_bounds_give_the_numbers_of_the_cpu(elsewhere, logs, trust):
    def losses(device: torch.device) -> list[Any]:
        learner = learner_on(device, logs, DreamConfig(SMALL, horizon=4, dreams=6, batch=2, length=8))
        learner.model.calibration = Calibration(0.9, 0.5, 3, (0.1, 0.2, -0.1, 0.05, 0.0), 0.4, 0.5, 4)
        learner.config = replace(learner.config, trust=trust)
        return [*learner.dream(0.0).values(), *learner.dream(0.5).values(), learner.imagined_steps]

    here = losses(CPU)
    assert alike(losses(elsewhere), here, elsewhere)
    assert (here[-1] < 2 * 6 * 4) == trust.cut
