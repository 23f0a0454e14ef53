"""How sure a few episodes or seeds can make anyone: intervals, for rates and for means over seeds; rank correlation."""

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054


def wilson(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a rate (1927). Unlike the textbook's, it does not collapse at 0 of n or n of n.

    Without episodes anything is possible: (0, 1).
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no rate")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = hits / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At 0 and n the ends are exact; rounding must not push the rate itself outside.
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half. A value that straddles a quartile counts with the share that lies inside.

    It bears outliers as the median does, and wastes less (Agarwal et al. 2021).
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    if not len(ordered):
        raise ValueError("no values to average")
    edges = np.arange(len(ordered) + 1) / len(ordered)
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    return float(weight @ ordered / weight.sum())


def stratified_bootstrap(
    strata: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the interquartile mean over all strata together.

    Args:
        strata: for each stratum (a task, a scenario) the values of its runs. Runs are drawn anew, with replacement,
            within each stratum, so that no draw lacks a scenario.
    """
    rng = np.random.default_rng(seed)
    values = [np.asarray(stratum, np.float64) for stratum in strata]
    if not values or not all(v.ndim == 1 and len(v) for v in values):
        raise ValueError("every stratum needs at least one value")
    drawn = np.concatenate([v[rng.integers(0, len(v), (draws, len(v)))] for v in values], axis=1)  # (draws, runs)
    means = [interquartile_mean(row) for row in drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """From 1 on; equal values share the mean of their places."""
    _, which, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


def spearman(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float | None:
    """Rank correlation with ties: Pearson's of the ranks. None where either is the same throughout."""
    a, b = ranks(first), ranks(second)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values have no order in common with {len(b)}")
    middle = (len(a) + 1) / 2
    a, b = a - middle, b - middle
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else None
