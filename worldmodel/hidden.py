"""Factors that no log labels, found from the motion itself: numbers by which recordings differ from each other.

Nobody measures the friction of a floor. But whoever records knows which episodes were recorded on the same one, and a
group's motion tells how far it deviates from the rest. The change of the observation over `AHEAD` rows is explained by
features x of what is seen and commanded, and by a few numbers z of the group,

    change = x B0 + z1 (x B1) + z2 (x B2) + noise,

fitted in turns, B for given z and z for given B, each of them least squares. The values, standardised over the groups,
can stand in an episode's physics as any factor does; those of a new machine, floor or second follow in closed form.

Shapes: N windows of T rows, D channels, A commands, P features, K factors, G groups.
"""

from dataclasses import dataclass

import numpy as np

from configs import UserError

AHEAD = 10  # rows; the change in one is mostly noise
BACK = 5  # rows, as motors answer late
ROUNDS = 15
RIDGE = 1e-3  # share of the features' own variance


@dataclass(frozen=True)
class HiddenFactors:
    """What was found, and the laws by which it is found again."""

    values: dict[str, np.ndarray]
    """(K,) of each group, standardised over the groups."""
    laws: np.ndarray  # (1 + K, P, D) without and for each factor
    noise: np.ndarray  # (D,) standard deviation that is left of the change
    centre: np.ndarray  # (D + A,)
    scale: np.ndarray  # (D + A,)

    @classmethod
    def find(
        cls, vector: np.ndarray, action: np.ndarray, groups: np.ndarray, factors: int = 1, seed: int = 0
    ) -> "HiddenFactors":
        """From windows (N, T, D) of the channels that count, commands (N, T, A), and each window's group (N,).

        Raises:
            UserError: windows too short, or no more groups than factors.
        """
        names, group = np.unique(groups, return_inverse=True)
        if len(names) <= factors:
            raise UserError(f"{len(names)} groups cannot tell {factors} hidden factors apart; give more groups")
        both = np.concatenate([vector, action], -1).astype(np.float64)
        centre, scale = both.mean((0, 1)), both.std((0, 1))
        scale = np.where(scale > 0, scale, 1.0)
        x, y = _equations((both - centre) / scale, vector.shape[-1])
        each = np.repeat(group, x.shape[1])
        flat, change = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        # All that the fit needs to know of a group is its second moments.
        moments = np.stack([flat[each == g].T @ flat[each == g] for g in range(len(names))])  # (G, P, P)
        cross = np.stack([flat[each == g].T @ change[each == g] for g in range(len(names))])  # (G, P, D)
        rows, power = np.bincount(each), (change**2).sum(0)
        z = np.random.default_rng(seed).normal(size=(len(names), factors))
        laws, noise = np.zeros(0), np.ones(y.shape[-1])
        for _ in range(ROUNDS):
            z = (z - z.mean(0)) / np.maximum(z.std(0), 1e-9)
            one = np.concatenate([np.ones((len(z), 1)), z], 1)
            laws = _laws(one, moments, cross, len(flat))
            noise = np.sqrt(np.maximum(power - np.einsum("gk,kpd,gpd->d", one, laws, cross), 1e-9) / rows.sum())
            z = _values(moments, cross, laws, noise)[0]
        z = (z - z.mean(0)) / np.maximum(z.std(0), 1e-9)
        one = np.concatenate([np.ones((len(z), 1)), z], 1)
        laws = _laws(one, moments, cross, len(flat))
        return cls({str(name): value for name, value in zip(names, z, strict=True)}, laws, noise, centre, scale)

    def infer(self, vector: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (N, K) and their standard deviations (N, K) from each window (N, T, ·) by itself.

        Before anything is seen they are 0 with a deviation of 1, as among the groups.
        """
        both = np.concatenate([vector, action], -1)
        x, y = _equations((both - self.centre) / self.scale, vector.shape[-1])
        moments, cross = np.einsum("ntp,ntq->npq", x, x), np.einsum("ntp,ntd->npd", x, y)
        return _values(moments, cross, self.laws, self.noise)


def _equations(scaled: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, t, P) and changes (N, t, D) of every row that has `BACK` rows before it and `AHEAD` after."""
    rows = scaled.shape[1]
    if rows <= BACK + AHEAD:
        raise UserError(f"windows of {rows} rows tell nothing of a hidden factor; they must have {BACK + AHEAD + 1}")
    at = np.arange(BACK, rows - AHEAD)
    vector, action = scaled[..., :channels], scaled[..., channels:]
    seen = np.concatenate([vector[:, at], action[:, at], action[:, at - BACK]], -1)
    i, j = np.triu_indices(seen.shape[-1])
    x = np.concatenate([np.ones((*seen.shape[:2], 1)), seen, seen[..., i] * seen[..., j]], -1)
    return x, vector[:, at + AHEAD] - vector[:, at]


def _laws(one: np.ndarray, moments: np.ndarray, cross: np.ndarray, rows: int) -> np.ndarray:
    """(1 + K, P, D) for given values, a column of ones before them (G, 1 + K)."""
    k, p = one.shape[1], moments.shape[-1]
    normal = np.einsum("gk,gl,gpq->kplq", one, one, moments).reshape(k * p, k * p)
    right = np.einsum("gk,gpd->kpd", one, cross).reshape(k * p, -1)
    return np.linalg.solve(normal + RIDGE * rows * np.eye(k * p), right).reshape(k, p, -1)


def _values(
    moments: np.ndarray, cross: np.ndarray, laws: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (G, K) of the values for given laws, if they are standard normal before.

    Changes over `AHEAD` rows that begin a row apart share nearly all of their noise, so that they count as one.
    """
    weighted = laws[1:] / noise**2
    precision = np.einsum("kpd,gpq,lqd->gkl", weighted, moments, laws[1:]) / AHEAD + np.eye(len(laws) - 1)
    left = np.einsum("kpd,gpd->gk", weighted, cross - moments @ laws[0]) / AHEAD
    covariance = np.linalg.inv(precision)
    return np.einsum("gkl,gl->gk", covariance, left), np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
