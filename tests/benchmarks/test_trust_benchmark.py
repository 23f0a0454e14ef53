"""Ranks and the foil of benchmarks/trust.py."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from trust import AUDITED, auroc, by_audit, judged, markdown, ranked, share_trunk  # noqa: E402

from dreaming.truth import Dream, Truth  # noqa: E402
from worldmodel.calibration import Calibration  # noqa: E402
from worldmodel.ensemble import Ensemble  # noqa: E402


def test_auroc_worked_by_hand():
    # Large: 3 and 2. Against 1 and 2.5: (3, 1), (3, 2.5), (2, 1) are right, (2, 2.5) is wrong.
    assert auroc(np.array([3.0, 1.0, 2.0, 2.5]), np.array([True, False, True, False])) == 0.75
    assert auroc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert auroc(np.array([1.0, 2.0]), np.array([False, False])) is None


def test_later_steps_gain_nothing_by_being_later():
    """Errors and bounds that grow with the step alone, and are shuffled within it: no better than chance."""
    rng = np.random.default_rng(0)
    grown = np.exp(np.arange(10.0))
    error, bound = (grown * (1 + 0.1 * rng.random((400, 10))) for _ in range(2))
    rank, large = ranked(error, bound, np.ones((400, 10), bool))
    assert auroc(bound.ravel(), error.ravel() >= np.quantile(error, 0.9)) == pytest.approx(1.0, abs=0.05)
    assert auroc(rank.ravel(), large.ravel()) == pytest.approx(0.5, abs=0.05)
    assert auroc(*(x.ravel() for x in ranked(error, error, np.ones((400, 10), bool)))) == 1.0


def test_steps_that_few_dreams_reach_are_left_out():
    lived = np.arange(2) < np.where(np.arange(40) < 10, 2, 1)[:, None]
    rank, large = ranked(np.ones((40, 2)), np.ones((40, 2)), lived)
    assert np.isnan(rank[:, 1]).all() and not large[:, 1].any() and not np.isnan(rank[:, 0]).any()


def test_a_shared_trunk_is_one_for_all_and_the_last_layers_are_not():
    ensemble = Ensemble(4, 3, 2, 1)
    expected = ensemble(torch.ones(1, 5, 3), torch.ones(1, 5, 4))[0][0]
    share_trunk(ensemble)
    assert [weight.shape[0] for weight in ensemble.weights] == [1, 1, 4]
    change, _ = ensemble(torch.ones(1, 5, 3), torch.ones(1, 5, 4))
    assert change.shape == (4, 5, 3) and change.std(0).min() > 0
    torch.testing.assert_close(change[0], expected)


def test_a_scenario_is_judged_by_what_its_dreams_said():
    """30 dreams of 2 steps, errors 0.1 and 1; ten bound them by 2, ten by 0.5 and trust both, ten trust none."""
    observation = np.array([[0.0], [0.1], [1.0]])
    truth = Truth(np.zeros((3, 1)), np.zeros(2), 2, True)
    dreams = [
        Dream(i, 0, "s", {}, np.zeros((2, 1)), observation, np.zeros(2), np.ones(2), np.full(2, bound), trusted)
        for bound, trusted in [(2.0, 2), (0.5, 2), (0.5, 0)]
        for i in range(10)
    ]
    found = judged(dreams, [truth] * 30, np.ones(1))
    assert (found["dreams"], found["kept"], found["said"], found["fell"]) == (30, 10, 20, 30)
    assert len(found["rank"]) == len(found["falling rank"]) == 60
    made = Calibration(0.5, 2.0, 2, (0.0,) * 5, 1.0, 1.0, 9)
    # The even episodes' scores are 0.5 where 2 was expected, and 2 where 0.5 was. Half of all, one episode unknown, lie
    # below a level of 2, at which no bound is broken, and nothing is trusted that was bounded by 2.
    audited = by_audit(made, dreams, [truth] * 30, np.ones(1))
    assert audited == {"dreams": 15, "kept": 10, "said": 10, "trusted": [0] * 5 + [2] * 10}
    table = markdown([{"scenarios": {"s": {"independent": found, "shared trunk": found, AUDITED: audited}}}])
    assert "| s | 30 (30) | 0.67 [0.49, 0.81] (0.67 said) | 1.3 |" in table
    assert table.endswith("| 1.00 [0.80, 1.00] (0.67 said) | 1.3 |")
