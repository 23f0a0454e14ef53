import math

import numpy as np
import pytest
import torch
from toy_logs import sliding_mass, write_log

from configs import UserError
from worldmodel.calibration import HORIZON, Calibration, conformal_level, rolled, scores
from worldmodel.model import ModelConfig
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.trainer import Trainer, TrainerConfig

TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)


def test_the_level_worked_by_hand():
    # Nine episodes of a score each and a tenth that is unknown: nine tenths lie at or below the greatest.
    each = np.arange(9)
    assert conformal_level(np.array([3.0, 1, 2, 9, 5, 4, 8, 6, 7]), each, 0.9) == 9.0
    assert conformal_level(np.array([3.0, 1, 2, 9, 5, 4, 8, 6, 7]), each, 0.5) == 5.0
    assert conformal_level(each.astype(float), each, 0.91) == math.inf
    # Two windows of one episode weigh as much as the single one of the other: 1/6, 1/6, 1/3, and 1/3 unknown.
    assert conformal_level(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 0.3) == 2.0
    assert conformal_level(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 0.34) == 3.0


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_a_window_of_a_new_episode_stays_below_the_level_as_often_as_stated(coverage):
    """Episodes differ, and their windows are alike; how many windows one gives differs as well."""
    rng = np.random.default_rng(0)

    def windows(episodes: int) -> tuple[np.ndarray, np.ndarray]:
        count = rng.integers(1, 12, episodes)
        which = np.repeat(np.arange(episodes), count)
        return np.exp(rng.normal(size=episodes)[which] + 0.3 * rng.normal(size=len(which))), which

    kept, trials = 0, 3000
    for _ in range(trials):
        level = conformal_level(*windows(30), coverage)
        kept += windows(1)[0][0] <= level
    spread = math.sqrt(coverage * (1 - coverage) / trials)
    # At least as often, and by no more than the share of the one episode that is unknown.
    assert coverage - 3 * spread <= kept / trials <= coverage + 1 / 31 + 3 * spread


def test_scores_worked_by_hand():
    expected = np.array([[0.1, 0.2, 0.4]])
    lived = np.ones((1, 3), bool)
    # The second step is off by 5 times what was expected, and trusted only below a level of 1 / 0.2 = 5.
    assert scores(np.array([[0.1, 1.0, 0.4]]), expected, lived, 1.0)[0] == pytest.approx(5.0)
    # Off by 20 times, but beyond a level of 5 nobody trusts that step.
    assert scores(np.array([[0.1, 4.0, 0.4]]), expected, lived, 1.0)[0] == pytest.approx(5.0)
    # Were errors up to 2 tolerated, it would be trusted up to a level of 10.
    assert scores(np.array([[0.1, 4.0, 0.4]]), expected, lived, 2.0)[0] == pytest.approx(10.0)
    # What is not finite is infinitely wrong, and what was not lived says nothing.
    assert scores(np.array([[np.nan, 0.0, 0.0]]), expected, lived, 1.0)[0] == pytest.approx(10.0)
    assert scores(np.array([[0.1, np.nan, 9.0]]), expected, lived & (np.arange(3) < 1), 1.0)[0] == pytest.approx(1.0)


def test_a_rollout_keeps_its_word_at_just_the_levels_from_its_score_on():
    """The score's closed form against trying levels one by one."""
    rng = np.random.default_rng(0)
    expected, error = (np.exp(rng.normal(size=(40, 12)) - 1) for _ in range(2))
    lived = np.arange(12) < rng.integers(1, 13, 40)[:, None]
    found = scores(error, expected, lived, 1.0)
    for level in np.geomspace(0.01, 100, 200):
        bound = level * expected
        trusted = np.cumprod(bound <= 1.0, 1).astype(bool)
        broken = ((error > bound) & trusted & lived).any(1)
        assert (broken == (level < found)).all()


def test_trust_ends_before_the_first_bound_that_is_too_great():
    made = Calibration(0.9, 1.0, 3, (1.0, 0.0, 0.0, 0.0, 0.0), 2.0, 0.1, 9)
    strife = torch.tensor([[0.1, 0.2, 0.3, 0.1], [0.1, 0.6, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1]])
    bound = made.bound(strife)
    torch.testing.assert_close(bound, 2 * strife, rtol=1e-4, atol=1e-5)
    # The first is trusted as far as was calibrated.
    assert made.trusted(bound).tolist() == [3, 1, 0]


def test_the_bound_knows_the_way_and_the_step():
    # log u = 0.5 log d_h + 0.5 log mean(d_1..h) + log h: at step 2, sqrt(0.4 * 0.25) * 2.
    made = Calibration(0.9, 1.0, 50, (0.5, 0.5, 1.0, 0.0, 0.0), 3.0, 0.1, 9)
    bound = made.bound(torch.tensor([[0.1, 0.4]]))
    torch.testing.assert_close(bound, torch.tensor([[0.3, 3 * 2 * math.sqrt(0.1)]]), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Trainer:
    reader = write_log(tmp_path_factory.mktemp("mass"), sliding_mass(200, steps=25))
    trainer = Trainer(reader, TINY, TrainerConfig(batch=8, length=8, warmup=20, ensemble=3, ensemble_batch=64))
    while trainer.steps < 120:
        trainer.update(trainer.steps / 120)
    trainer.calibrate()
    return trainer


def test_rollouts_stop_counting_where_the_episode_ends(learnt):
    found = rolled(learnt.model, learnt.held_out, 60, seed=1)
    assert found.error.shape == found.disagreement.shape == found.lived.shape == (60, HORIZON)
    assert np.bincount(found.episode).tolist() == [3] * 20
    counts = found.lived.sum(1)
    assert counts.min() >= 1 and counts.max() <= 25
    assert (found.lived == (np.arange(HORIZON) < counts[:, None])).all()


def test_looking_changes_nothing(learnt):
    learnt.model.train()
    state = torch.get_rng_state()
    first, second = (rolled(learnt.model, learnt.held_out, 20, seed=1).error for _ in range(2))
    assert np.array_equal(first, second) and torch.equal(state, torch.get_rng_state()) and learnt.model.training


def test_new_episodes_keep_what_was_stated(learnt, tmp_path):
    """Of rollouts in 60 episodes that nobody has seen: 90%, within what chance does to 20 and 60 episodes."""
    made = learnt.model.calibration
    assert made is not None and made.episodes == 20 and 0 < made.level < math.inf
    new = Replay(write_log(tmp_path, sliding_mass(60, steps=25, seed=7)), learnt.model.context)
    found = rolled(learnt.model, new, 300, seed=2)
    bound = made.bound(found.disagreement)
    trusted = np.arange(HORIZON) < made.trusted(bound).numpy()[:, None]
    broken = ((found.error > bound.numpy()) & trusted & found.lived).any(1)
    assert 0.02 < broken.mean() < 0.22
    assert trusted.any()


def test_too_few_held_out_episodes_are_refused(tmp_path):
    trainer = Trainer(write_log(tmp_path, sliding_mass(80, steps=8)), TINY, TrainerConfig(ensemble=2))
    with pytest.raises(UserError, match="8 held-out episodes cannot show that 90%.*give 90 episodes"):
        trainer.calibrate()
    assert trainer.calibrate(coverage=0.8).coverage == 0.8
