"""Does the machine answer late in the logs as it did early?

What it senses may differ with the task (`worldmodel.readiness` looks at that); here the same observation and command
are asked to lead to the same change. A straight line through all episodes is the yardstick, and each episode's
departure from it is what may drift.
"""

from collections.abc import Sequence

import numpy as np

from worldmodel.context import ContextSpec
from worldmodel.results import channel_names
from worldmodel.spikes import STILL
from worldmodel.storage import LogReader

ROWS = 50_000
EPISODES = 15  # fewer show no trend
LARGE = 1.0  # standard deviations between episodes
ORDERS = 400  # random orders of the episodes, of which the logs' own must lie beyond 99%


def drift(reader: LogReader, context: ContextSpec, episodes: Sequence[int]) -> list[str]:
    """Plain sentences, the clearest change first, three at most; none for fewer than 15 episodes.

    What the logs label is allowed for, as the model is told it.
    """
    numbers, begins = reader.some_rows(episodes, ROWS)
    starts = np.flatnonzero(begins)
    if len(starts) < EPISODES:
        return []
    rows = reader.rows  # a field at a time: rows of older logs hold their pictures
    vector = reader.spikes.mend(rows["vector"][numbers], numbers).astype(np.float64)
    action = np.asarray(rows["applied_action"][numbers], np.float64)
    which = np.cumsum(begins) - 1
    step = ~begins[1:]
    change, of = np.diff(vector, axis=0)[step], which[1:][step]
    seen, sent = vector[:-1][step], action[:-1][step]
    # Which episodes these are: `some_rows` leaves out whole ones.
    first = {record["start"]: i for i, record in enumerate(reader.episodes)}
    told = np.stack(
        [np.concatenate(context.encode(reader.episodes[first[int(n)]]["physics"])) for n in numbers[starts]]
    )
    moving = change.std(0) > STILL
    if not moving.any():
        return []
    gain, offset = _departures(seen, sent, change[:, moving], of, len(starts))
    gain, offset = (_allowed_for(x, told) for x in (gain, offset))
    statistic = np.concatenate([gain, offset], 1)
    names = [name for name, moves in zip(channel_names(reader.schema, vector.shape[1]), moving, strict=True) if moves]
    third = len(starts) // 3
    effect = _effect(statistic, third)
    rng = np.random.default_rng(0)
    orders = [np.abs(_effect(statistic[rng.permutation(len(statistic))], third)).max() for _ in range(ORDERS)]
    least = max(LARGE, float(np.quantile(orders, 0.99)))
    found = []
    for at in np.argsort(-np.abs(effect)):
        if abs(effect[at]) <= least or len(found) == 3:
            break
        name, more = names[at % len(names)], "more" if effect[at] > 0 else "less"
        what = f"{name} answers commands {more}" if at < len(names) else f"{name} drifts {more} by itself"
        if at < len(names):
            early, late = (1 + statistic[part, at].mean() for part in (slice(third), slice(-third, None)))
            what += f" ({late / early:.2f} times as much)" if early > 0.1 else ""
        found.append(f"in the last third of the episodes {what} than in the first")
    return found


def _departures(
    seen: np.ndarray, sent: np.ndarray, change: np.ndarray, of: np.ndarray, episodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """By episode (E, D): how strongly commands act beside the mean of 1, less that, and the mean residual."""
    seen = (seen - seen.mean(0)) / np.maximum(seen.std(0), STILL)
    sent = (sent - sent.mean(0)) / np.maximum(sent.std(0), STILL)
    change = (change - change.mean(0)) / change.std(0)
    given = np.concatenate([seen, sent], 1)
    fit = np.linalg.solve(given.T @ given + 1e-3 * len(given) * np.eye(given.shape[1]), given.T @ change)
    by_command = sent @ fit[seen.shape[1] :]
    residual = change - given @ fit
    count = np.bincount(of, minlength=episodes)[:, None].clip(1)
    power, product = (
        np.stack([np.bincount(of, column, episodes) for column in x.T], 1) / count
        for x in (by_command**2, by_command * residual)
    )
    acts = (by_command**2).mean(0) > 0.05  # else no command of it could answer less
    # A ridge on each episode's own slope: where it commanded little, it says little.
    gain = np.where(acts, product / (power + 0.1 * power.mean(0) + 1e-9), 0.0)
    offset = np.stack([np.bincount(of, column, episodes) for column in residual.T], 1) / count
    return gain, offset


def _allowed_for(statistic: np.ndarray, told: np.ndarray) -> np.ndarray:
    """(E, S) less what a parabola in the labelled factors (E, 2C) explains."""
    given = np.concatenate([np.ones((len(told), 1)), told, told**2], 1)
    if given.shape[1] >= len(statistic) / 2:
        return statistic
    return statistic - given @ np.linalg.lstsq(given, statistic, rcond=None)[0]


def _effect(statistic: np.ndarray, third: int) -> np.ndarray:
    """(S,) the last third's mean less the first's, over the deviation within them."""
    early, late = statistic[:third], statistic[-third:]
    within = np.sqrt((early.var(0) + late.var(0)) / 2)
    return np.where(within > 1e-9, (late.mean(0) - early.mean(0)) / np.maximum(within, 1e-9), 0.0)
