import numpy as np
import pytest

from dreaming.statistics import interquartile_mean, ranks, spearman, stratified_bootstrap, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3, and 5 of 10 worked by hand
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    + [(5, 10, 0.2366, 0.7634)],
)
def test_wilson_agrees_with_published_values(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_holds_its_rate_and_is_symmetric():
    for n in (1, 7, 48):
        for hits in range(n + 1):
            low, high = wilson(hits, n)
            assert 0 <= low <= hits / n <= high <= 1
            assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_without_episodes_and_with_nonsense():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(4.5)
    # of five values the second and the fourth lie inside by three quarters
    assert interquartile_mean([0, 10, 20, 40, 1000]) == pytest.approx((0.75 * 10 + 20 + 0.75 * 40) / 2.5)
    assert interquartile_mean([3.0]) == 3.0


def test_interquartile_mean_bears_outliers():
    values = np.arange(20.0)
    assert interquartile_mean(values) == interquartile_mean([*values[:-1], 1e9])


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(100):
        low, high = stratified_bootstrap(rng.normal(1.0, 1.0, (3, 20)), draws=200, seed=trial)
        inside += low <= 1.0 <= high
    assert 88 <= inside <= 100


def test_bootstrap_draws_within_strata():
    # Drawn from both together, the spread between strata would show; within each there is none.
    assert stratified_bootstrap([[0.0, 0.0], [1.0, 1.0]]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one value"):
        stratified_bootstrap([[1.0], []])


def test_ranks_and_rank_correlation_worked_by_hand():
    assert ranks([0.3, 0.1, 0.3, 0.9]).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert spearman([1, 2, 3, 4, 5], [10, 20, 40, 30, 50]) == pytest.approx(1 - 6 * 2 / (5 * 24))  # no ties: 1 - 6 d2
    # Ranks 1.5 1.5 3 against 1 2 3, from their middle: (-.5)(-1) + (-.5)(0) + 1 = 1.5 over sqrt(1.5 * 2).
    assert spearman([0, 0, 7], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)
    assert spearman([1, 2, 3], [9.0, 4.0, -1.0]) == pytest.approx(-1.0)


def test_without_an_order_there_is_no_rank_correlation():
    assert spearman([0.5, 0.5, 0.5], [1, 2, 3]) is None
    assert spearman([], []) is None
    with pytest.raises(ValueError, match="3 values have no order in common with 2"):
        spearman([1, 2, 3], [1, 2])


def test_rank_correlation_agrees_with_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for levels in (3, 10, 1000):  # many ties, some, hardly any
        first = rng.integers(0, levels, 40)
        second = first + rng.integers(0, levels, 40)
        expected = scipy_stats.spearmanr(first, second).statistic
        assert spearman(first, second) == pytest.approx(expected, abs=1e-12)
