"""Dreams beside their truths, as arrays: errors by horizon, falls, reward, and whether to trust them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreaming.audit_report import ChannelError, Curve, ErrorCurve, Falls, ScenarioAudit
from dreaming.truth import Dream, Truth

FALL_HORIZONS = (15, 50, 100)

Rule = Callable[[np.ndarray], np.ndarray]  # of a task: whether it ends in failure in each of these states (..., D)


class Comparison:
    """N dreams and their truths as arrays, padded to the longest horizon H.

    A dream falls where its continuation drops below a half, or in a state in which the task ends: what a continuation
    has hardly seen in the logs, a box over the edge, the dreamt observation may well show.
    """

    def __init__(
        self,
        dreams: Sequence[Dream],
        truths: Sequence[Truth],
        kicked: Sequence[Sequence[Truth]],
        std: np.ndarray,
        ended: Rule | None = None,
    ) -> None:
        self.horizon = max(dream.horizon for dream in dreams)
        self.std = std
        self.length = np.array([dream.horizon for dream in dreams])
        self.steps = np.array([truth.steps for truth in truths])
        self.fell = np.array([truth.fell for truth in truths])
        trusted = [dream.trust_horizon for dream in dreams]
        # A trust that reaches beyond a dream's end says no more than the dream does; 0: nothing is said.
        self.trusted_for = np.minimum(self.length, [0 if steps is None else steps for steps in trusted])
        start = np.stack([truth.observation[0] for truth in truths]).astype(np.float64)  # (N, D)
        _check_starts(np.stack([dream.observation[0] for dream in dreams]), start, std)
        truth = self._stack([t.observation[1:] for t in truths])  # (N, H, D)
        dreamt = self._stack([dream.observation[1:] for dream in dreams])
        # A dream that is not finite is infinitely wrong, not absent.
        self.off = np.where(np.isfinite(dreamt) | np.isnan(truth), dreamt - truth, np.inf)
        self.off_still = start[:, None] - truth
        self.true_reward = self._stack([t.reward for t in truths], 0.0)  # (N, H)
        self.reward = self._stack([dream.reward for dream in dreams], 0.0)
        self.continuation = self._stack([dream.continuation for dream in dreams], 1.0)
        self.falls = self.continuation < 0.5  # (N, H)
        if ended is not None:
            self.falls |= np.isfinite(dreamt).all(-1) & ended(dreamt)
        self.sensitivity = None
        if all(len(replicas) for replicas in kicked):
            strayed = [self._stack([r[k].observation[1:] for r in kicked]) - truth for k in range(len(kicked[0]))]
            self.sensitivity = _over_first(np.nanmedian, np.stack([self._size(off) for off in strayed]))  # (N, H)

    def _stack(self, rows: Sequence[np.ndarray], fill: float = np.nan) -> np.ndarray:
        stacked = np.full((len(rows), self.horizon, *rows[0].shape[1:]), fill)
        for padded, row in zip(stacked, rows, strict=True):
            padded[: len(row)] = row
        return stacked

    def _size(self, off: np.ndarray) -> np.ndarray:
        """(N, H, D) differences to (N, H) root mean squares; NaN where there is nothing to compare."""
        return np.sqrt(np.mean((off / self.std) ** 2, -1))

    def judge(self, scenario: str, names: Sequence[str], mine: np.ndarray | None = None) -> ScenarioAudit:
        """The dreams marked by `mine` (N,), or all."""
        mine = np.ones(len(self.steps), bool) if mine is None else mine
        horizon = np.arange(1, int(self.length[mine].max()) + 1)
        lived = self.steps[mine][:, None] >= horizon  # (n, H)
        error, persistence = (_curve(self._size(off[mine]), lived) for off in (self.off, self.off_still))
        sensitivity = None
        if self.sensitivity is not None:
            kicked = self.sensitivity[mine]
            sensitivity = _curve(kicked, lived & ~np.isnan(kicked[:, : len(horizon)]))
        compared = lived.sum(0)
        trusted, reason = _trust(error, persistence, sensitivity, compared, int(mine.sum()))
        bias, per_dream, true = self._reward(mine, lived)
        return ScenarioAudit(
            scenario=scenario,
            dreams=int(mine.sum()),
            horizon=horizon.tolist(),
            compared=compared.tolist(),
            error=error,
            persistence=persistence,
            sensitivity=sensitivity,
            channels=[
                ChannelError(name, _rms(self.off[mine, :, c], lived), _rms(self.off_still[mine, :, c], lived))
                for c, name in enumerate(names)
            ],
            falls=[
                self._falls(mine, np.full(len(mine), h))
                for h in sorted({*FALL_HORIZONS, len(horizon)})
                if h <= len(horizon)
            ],
            falls_within_trust=self._falls_within_trust(mine),
            reward_bias_per_step=bias,
            reward_bias_per_dream=per_dream,
            true_reward_per_step=true,
            trusted=trusted,
            reason=reason,
        )

    def _falls_within_trust(self, mine: np.ndarray) -> Falls | None:
        told = mine & (self.trusted_for > 0)
        return self._falls(told, self.trusted_for) if told.any() else None

    def _falls(self, mine: np.ndarray, by: np.ndarray) -> Falls:
        """Falls up to step `by` (N,) of each dream."""
        # A shorter dream says nothing about this horizon; nor does a truth that was cut off before it.
        truly = self.fell & (self.steps <= by)
        known = mine & (self.length >= by) & (truly | (self.steps >= by))
        dreamt = (self.falls & (np.arange(1, self.horizon + 1) <= by[:, None])).any(1)
        hits = int((known & truly & dreamt).sum())
        alarms, missed = int((known & dreamt & ~truly).sum()), int((known & truly & ~dreamt).sum())
        return Falls(
            horizon=int(np.median(by[mine])),
            hits=hits,
            false_alarms=alarms,
            missed=missed,
            neither=int(known.sum()) - hits - alarms - missed,
            precision=_share(hits, hits + alarms),
            recall=_share(hits, hits + missed),
            f1=_share(2 * hits, 2 * hits + alarms + missed),
        )

    def _reward(self, mine: np.ndarray, lived: np.ndarray) -> tuple[float | None, float | None, float | None]:
        """Bias by step, bias by dream, and the true reward a step."""
        h = lived.shape[1]
        dreamt, true = self.reward[mine, :h], self.true_reward[mine, :h]
        going_on = self.continuation[mine, : h - 1]
        reached = np.cumprod(np.concatenate([np.ones((len(dreamt), 1)), going_on], 1), 1)
        # After a true fall nothing more comes in; after a time limit nobody knows what would have.
        counted = lived | self.fell[mine][:, None]
        bias = np.where(counted, reached * dreamt - true, 0.0).sum(1)
        return _mean((dreamt - true)[lived]), _mean(bias), _mean(true[lived])


def _check_starts(dreamt: np.ndarray, true: np.ndarray, std: np.ndarray) -> None:
    wrong = ~(np.abs(dreamt - true) <= 1e-4 * std)
    if wrong.any():
        dream, channel = np.argwhere(wrong)[0]
        raise ValueError(
            f"dream {dream} starts at {dreamt[dream, channel]:g} in channel {channel}, "
            f"the log at {true[dream, channel]:g}: row 0 of a dream is the logged observation of its step"
        )


def _trust(
    error: ErrorCurve, persistence: ErrorCurve, sensitivity: ErrorCurve | None, compared: np.ndarray, dreams: int
) -> tuple[bool, str]:
    """Judged at the last horizon at which it means something.

    That is where at least half of the dreams still are (later ones would judge the survivors only), and where the
    simulator, kicked, still agrees with itself better than with standing still (later ones nobody could pass).
    """
    reached = np.flatnonzero(2 * compared >= dreams)
    if not len(reached):
        return False, f"only {compared[0]} of {dreams} dreams have any truth to be compared with"
    at = int(next((h for h in reached[::-1] if _means_something(h, persistence, sensitivity)), reached[-1]))
    steps = f"{at + 1} step{'s' if at else ''} ahead"
    dreamt, still = error.median[at], persistence.median[at]
    if dreamt is None or still is None:
        return False, f"{steps} the dream is not finite"
    trusted = dreamt < still
    verdict = "below" if trusted else "no better than"
    own = sensitivity.median[at] if sensitivity else None
    floor = "" if own is None else f"; the simulator itself, kicked, strays by {own:.2g}"
    return trusted, (
        f"{steps} the dream's error is {dreamt:.2g}, {verdict} standing still ({still:.2g}){floor} "
        f"({compared[at]} of {dreams} dreams)"
    )


def _means_something(at: int, persistence: ErrorCurve, sensitivity: ErrorCurve | None) -> bool:
    own, still = sensitivity.median[at] if sensitivity else 0.0, persistence.median[at]
    return own is not None and still is not None and own < still


def _curve(size: np.ndarray, lived: np.ndarray) -> ErrorCurve:
    """(n, H) by dream to median and mean over the dreams that live."""
    return ErrorCurve(_by_horizon(np.median, size, lived), _by_horizon(np.mean, size, lived))


def _rms(off: np.ndarray, lived: np.ndarray) -> Curve:
    return _by_horizon(lambda x: np.sqrt(np.mean(x**2)), off, lived)


def _by_horizon(statistic: Callable[[np.ndarray], Any], values: np.ndarray, lived: np.ndarray) -> Curve:
    return [_number(statistic(values[here, h])) if here.any() else None for h, here in enumerate(lived.T)]


def _over_first(statistic: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """A nan-statistic over the first axis, NaN and no warning where there is nothing but NaN."""
    empty = np.isnan(values).all(0)
    return np.where(empty, np.nan, statistic(np.where(empty, 0.0, values), axis=0))


def _mean(values: np.ndarray) -> float | None:
    return _number(np.mean(values)) if values.size else None


def _share(part: int, whole: int) -> float | None:
    return _number(part / whole) if whole else None


def _number(value: Any) -> float | None:
    """JSON's: six digits, None for what is not finite."""
    return float(f"{float(value):.6g}") if np.isfinite(value) else None
