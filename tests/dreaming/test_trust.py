from dataclasses import replace

import numpy as np
import pytest
import torch
from test_actor_critic import CONTEXT, DEBUG, ON, REWARD, SMALL, VALUE, some_logs

from configs import UserError
from dreaming.actor_critic import ActorCritic, cut, lambda_return
from dreaming.imagination import Rollout, imagine, starts_from
from dreaming.learning import DreamConfig, DreamLearner, dream_physics
from dreaming.rehearsal import rehearse, replayed_logs
from dreaming.scenario import load_scenarios
from dreaming.trust import TrustConfig, covered, kept_its_word, recalibrated, restated, weighed
from dreaming.truth import Dream, Truth
from envs.physics import Physics
from worldmodel.calibration import Calibration
from worldmodel.model import Spaces, WorldModel
from worldmodel.replay import Replay

# The bound is the disagreement.
CALIBRATION = Calibration(0.9, 0.5, 50, (1.0, 0.0, 0.0, 0.0, 0.0), 1.0, scale=0.1, episodes=9)
CUT = TrustConfig(cut=True)


@pytest.fixture
def replay(tmp_path) -> Replay:
    return some_logs(tmp_path)


@pytest.fixture
def model(replay) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT)
    model.set_statistics(replay.statistics())
    model.add_ensemble(3)
    model.calibration = CALIBRATION
    return model.eval().requires_grad_(False)


def dreamer(model: WorldModel, replay: Replay, trust: TrustConfig) -> DreamLearner:
    torch.manual_seed(1)
    settings = replace(SMALL, critic_first=1)
    config = DreamConfig(settings, horizon=4, dreams=16, batch=2, length=8, trust=trust)
    return DreamLearner(model, replay, "push-box", Physics(), load_scenarios("slippery", "push-box"), 20.0, config)


def some_dreams(model: WorldModel, replay: Replay, learner: ActorCritic, horizon: int = 6) -> Rollout:
    starts = starts_from(model.observe, replay.sample(2, 4, np.random.default_rng(0)), "blind")
    physics = dream_physics(model, [Physics()] * 8, np.zeros(8, int), horizon, 20.0)
    return imagine(model, learner.actor, starts, physics, horizon, explore=True)


def test_a_cut_return_worked_by_hand():
    """Two steps of three are trusted: state 1's return is its reward and what the critic says of state 2."""
    lam = cut(0.5, torch.tensor([[True, True, False]]))
    returns = lambda_return(REWARD, ON, VALUE, 0.5, lam)
    # 2 + .5 * 30 = 17; 1 + .5 (.5 * 20 + .5 * 17) = 10.25.
    torch.testing.assert_close(returns[:, :2], torch.tensor([[10.25, 17.0]]))
    later = lambda_return(REWARD + torch.tensor([0, 0, 99.0]), ON, VALUE + torch.tensor([0, 0, 0, 99.0]), 0.5, lam)
    assert torch.equal(later[:, :2], returns[:, :2])
    whole = lambda_return(REWARD, ON, VALUE, 0.5, cut(0.5, torch.ones(1, 3, dtype=torch.bool)))
    assert torch.equal(whole, lambda_return(REWARD, ON, VALUE, 0.5, 0.5))


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_steps_beyond_the_horizon_neither_pay_nor_teach(model, replay, gradient):
    learner = ActorCritic(replace(SMALL, gradient=gradient), model, "blind")
    counted = torch.arange(6) < torch.tensor([0, 1, 2, 3, 4, 5, 6, 3]).unsqueeze(-1)

    def losses(more: torch.Tensor | float, over: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Of the same dreams, dreamt anew each time: their graph is used up by the loss."""
        torch.manual_seed(0)
        judge = ActorCritic(replace(SMALL, gradient=gradient), model, "blind")
        judge.load_state_dict(learner.state_dict())
        torch.manual_seed(1)
        rollout = some_dreams(model, replay, judge)
        going_on = rollout.continuation if over is None else torch.where(over, 0.1, rollout.continuation)
        changed = replace(rollout, reward=rollout.reward + more, continuation=going_on)
        loss, metrics = judge.losses(model, changed, counted=counted)
        grads = torch.autograd.grad(loss, list(judge.critic.parameters()), retain_graph=True)
        return [loss, metrics["critic_loss"], *grads]

    as_dreamt = losses(0.0)
    otherwise = losses(5.0 * ~counted, ~counted)
    assert all(torch.equal(a, b) for a, b in zip(as_dreamt, otherwise, strict=True))
    assert not torch.equal(as_dreamt[0], losses(5.0 * counted)[0])


def test_dreams_that_nobody_trusts_teach_nothing(model, replay):
    learner = ActorCritic(SMALL, model, "blind")
    rollout = some_dreams(model, replay, learner)
    loss, _ = learner.losses(model, rollout, counted=torch.zeros(8, 6, dtype=torch.bool))
    grads = torch.autograd.grad(loss, list(learner.parameters())[:1] + list(learner.critic.parameters()))
    assert torch.isfinite(loss) and not any(grad.any() for grad in grads)


def test_switched_off_nothing_changes(replay):
    """With judges and without, uncalibrated and calibrated: the same numbers, to the last bit."""
    torch.manual_seed(0)
    plain = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT)
    plain.set_statistics(replay.statistics())
    judged = WorldModel(DEBUG, Spaces(vector=2, action=1), CONTEXT)
    judged.load_state_dict(plain.state_dict())
    judged.add_ensemble(3)
    judged.calibration = CALIBRATION
    learners = [dreamer(model, replay, TrustConfig()) for model in (plain, judged)]
    metrics = []
    for learner in learners:
        torch.manual_seed(2)
        learner.clone(0.0)
        metrics.append([learner.dream(0.1) for _ in range(3)])
    assert metrics[0] == metrics[1] and learners[0].imagined_steps == 3 * 16 * 4
    policies = [list(learner.learner.parameters()) for learner in learners]
    assert all(torch.equal(a, b) for a, b in zip(*policies, strict=True))


def test_what_is_beyond_trust_is_not_counted_as_learnt_from(model, replay):
    learner = dreamer(model, replay, CUT)
    metrics = [learner.dream(0.1) for _ in range(3)]
    assert 0 < learner.imagined_steps < 3 * 16 * 4
    assert learner.imagined_steps == pytest.approx(16 * sum(m["trust_horizon"] for m in metrics))
    model.calibration = replace(CALIBRATION, level=1e9)
    learner = dreamer(model, replay, CUT)
    assert np.isfinite(list(learner.dream(0.1).values())).all() and learner.imagined_steps == 0


def test_the_penalty_is_taken_from_the_reward_and_pulls_on_the_policy(model, replay):
    learner = ActorCritic(SMALL, model, "blind")
    rollout = some_dreams(model, replay, learner)
    found = weighed(TrustConfig(penalty=0.5), model, rollout)
    assert found.counted is None and model.ensemble is not None
    before = rollout.world.vector[:, :-1]
    spread = model.ensemble.disagreement(before, rollout.inputs).square().mean(-1).sqrt()
    torch.testing.assert_close(found.rollout.reward, rollout.reward - 0.5 * spread / 0.1)
    gradient = torch.autograd.grad(found.rollout.reward.sum() - rollout.reward.sum(), list(learner.actor.parameters()))
    assert any(part.any() for part in gradient)


def test_what_is_not_calibrated_as_asked_is_refused(model, replay):
    with pytest.raises(UserError, match="to coverage 0.9 and tolerance 0.5, and trust asks for coverage 0.8"):
        dreamer(model, replay, TrustConfig(penalty=0.1, coverage=0.8))
    model.calibration = None
    dreamer(model, replay, TrustConfig())
    with pytest.raises(UserError, match="needs a world model that was calibrated"):
        dreamer(model, replay, CUT)


def test_dreams_to_be_audited_state_their_trust(model, replay):
    learner = ActorCritic(SMALL, model, "blind")
    scenario = load_scenarios("slippery", "push-box")[0]
    given = (model, learner.actor, "blind", replay, "push-box", scenario, Physics(), 20.0)
    for dreams in (rehearse(*given, 3, 5, 0), replayed_logs(model, replay, 20.0, 3, 5, 0)):
        for dream in dreams:
            assert dream.uncertainty is not None and dream.uncertainty.shape == (5,)
            assert dream.trust_horizon == np.cumprod(dream.uncertainty <= 0.5).sum()
    model.calibration = None
    assert rehearse(*given, 1, 5, 0)[0].trust_horizon is None


def test_words_are_kept_up_to_the_trust_horizon():
    """Errors by step, root mean squares over the two channels: 0.5, 1, 2; the third is beyond trust."""
    observation = np.zeros((4, 2), np.float32)
    off = np.array([[0, 0], [0.5, 1.0], [1.0, 2.0], [2.0, 4.0]], np.float32)
    std = np.array([1.0, 2.0])

    def dream(trusted: int, second: float = 1.1) -> Dream:
        nothing = np.zeros(3, np.float32)
        bounds = np.array([0.6, second, 0.1], np.float32)
        return Dream(0, 0, "s", {}, np.zeros((3, 1)), observation, nothing, nothing, bounds, trusted)

    truth = Truth(off, np.zeros(3), 3, False)
    assert kept_its_word(dream(2), truth, std) is True
    assert kept_its_word(dream(2, second=0.9), truth, std) is False
    assert kept_its_word(dream(3), truth, std) is False
    assert kept_its_word(dream(0), truth, std) is None
    short = Truth(np.where(np.arange(4)[:, None] > 1, np.nan, off), np.zeros(3), 1, True)
    assert kept_its_word(dream(3), short, std) is True
    assert covered([dream(2), dream(3), dream(0)], [truth] * 3, std) == (1, 2)


def test_audits_set_the_level_anew():
    """Bounds of 0.5 on errors of 0.25 to 4.75 in nineteen episodes: at 18/20 the level must reach 4.5 / 0.5."""
    made = replace(CALIBRATION, tolerance=9.0)
    nothing, steps = np.zeros(1), np.array([[0.0], [0.0]])
    dreams = [Dream(i, 0, "s", {}, np.zeros((1, 1)), steps, nothing, nothing, np.array([0.5]), 1) for i in range(19)]
    truths = [Truth(np.array([[0.0], [0.25 * (i + 1)]]), nothing, 1, False) for i in range(19)]
    anew = recalibrated(made, dreams, truths, np.ones(1))
    assert anew.level == 9.0 and anew.episodes == 19
    again = [restated(dream, made, anew) for dream in dreams]
    assert again[0].uncertainty is not None and again[0].uncertainty[0] == 4.5
    assert covered(again, truths, np.ones(1)) == (18, 19)
    few = recalibrated(made, dreams[:5], truths[:5], np.ones(1))
    assert few.level == np.inf and restated(dreams[0], made, few).trust_horizon == 0
