"""The rows of one recording to arrays on an even grid: as they are where they have no clock, else resampled."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from configs import UserError
from worldmodel.logs import channels, resampling
from worldmodel.logs.channels import Channel
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.guards import check_size
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.resampling import Series

SLOW, BETWEEN = 1.5, "recordings slower than control_hz, whose rows between are interpolated"


@dataclass(frozen=True)
class Rows:
    """An episode's arrays: T + 1 observations and images, T of the rest."""

    vector: np.ndarray
    action: np.ndarray
    reward: np.ndarray | None  # None: the log has no such column
    image: np.ndarray | None
    is_end: bool
    """These are the last of the recording's rows."""


@dataclass(frozen=True)
class Wanted:
    """What the mapping asks of one recording."""

    observation: list[Channel]
    action: list[Channel]
    reward: np.ndarray | None
    image: np.ndarray | None
    reward_s: np.ndarray | None = None  # their own clocks, where columns have such
    image_s: np.ndarray | None = None

    @classmethod
    def of(cls, raw: RawEpisode, mapping: LogMapping) -> "Wanted":
        reward = image = reward_s = image_s = None
        if isinstance(mapping.reward, str) and channels.has(raw, mapping.reward):
            name, value = channels.find(raw, [mapping.reward])
            reward, reward_s = channels.numbers(value, f"{raw.where}: {name}"), raw.clocks.get(name)
            if reward.ndim != 1:
                raise UserError(f"{raw.where}: {name} has shape {reward.shape}, expected (T,)")
        if mapping.image is not None:
            name, image = channels.find(raw, [mapping.image])
            image_s = raw.clocks.get(name)
            if image.ndim != 4 or image.shape[1:] != (64, 64, 3) or image.dtype != np.uint8:
                raise UserError(f"{raw.where}: {name} is {image.dtype}{image.shape}, expected uint8 (T, 64, 64, 3)")
        action = channels.channels(raw, mapping.action)
        if turned := next((one for one in action if one.angle), None):
            raise UserError(f"the mapping's action {turned.names[0]}: `angle` is for observations; leave it out")
        return cls(channels.channels(raw, mapping.observation), action, reward, image, reward_s, image_s)


def even_rows(raw: RawEpisode, wanted: Wanted, mapping: LogMapping, hz: float, repairs: Counter[str]) -> Iterator[Rows]:
    """Pieces of the recording without gaps, at `hz`; counts repairs."""
    time = raw.time_s
    if time is None and mapping.time is not None:
        time = channels.clock(raw, mapping.time)
    if time is None and not raw.clocks:
        yield _as_they_are(raw, wanted)
        return
    gap_s = mapping.gap_steps / hz
    spans = [slice(None)] if time is None or raw.clocks else resampling.runs(time, gap_s)
    repairs[resampling.RESTART] += max(0, len(spans) - 1)
    for span in spans:
        for rows in _resampled(_Clocks(raw, time, span), wanted, 1 / hz, gap_s, repairs):
            yield rows if span is spans[-1] else _not_the_end(rows)


def _not_the_end(rows: Rows) -> Rows:
    return Rows(rows.vector, rows.action, rows.reward, rows.image, False)


def _as_they_are(raw: RawEpisode, wanted: Wanted) -> Rows:
    length = len(wanted.observation[0].value)
    if length < 2:
        raise UserError(f"{raw.where} has {length} samples; a step needs two")

    def check(name: str, value: np.ndarray, of_steps: bool = True) -> None:
        if len(value) != length and not (of_steps and len(value) == length - 1):
            raise UserError(f"{raw.where}: {name} has {len(value)} samples, the observation has {length}")

    for one in wanted.observation:
        check(one.names[0], one.value, of_steps=False)
    for one in wanted.action:
        check(one.names[0], one.value)
    if wanted.reward is not None:
        check("the reward", wanted.reward)
    if wanted.image is not None:
        check("the image", wanted.image, of_steps=False)
    vector = [_turned(np.unwrap(one.value, axis=0), one) if one.angle else one.value for one in wanted.observation]
    steps, reward = length - 1, wanted.reward
    return Rows(
        _joined(vector),
        _joined([one.value[:steps] for one in wanted.action]),
        None if reward is None else reward[:steps],
        wanted.image,
        True,
    )


@dataclass(frozen=True)
class _Clocks:
    """Which clock a column runs on, within one run of the recording's own clock."""

    raw: RawEpisode
    time_s: np.ndarray | None
    span: slice

    def series(self, name: str, value: np.ndarray, own_s: np.ndarray | None, counted: Counter[str]) -> Series:
        clock_s = self.time_s if own_s is None else own_s
        if clock_s is None or len(value) not in (len(clock_s), len(clock_s) - 1):
            clock = "there is no clock" if clock_s is None else f"its clock {len(clock_s)}"
            raise UserError(f"{self.raw.where}: {name} has {len(value)} rows, {clock}")
        clock_s, value = clock_s[: len(value)][self.span], value[self.span]
        if value.dtype.kind == "f":
            counted[resampling.MISSING] += int((~np.isfinite(value)).any(axis=1).sum())
        here: Counter[str] = Counter()
        cleaned = resampling.clean(clock_s, value, here)
        for what, count in here.items():
            counted[what] = max(counted[what], count)  # of rows, which many columns share
        return cleaned


def _resampled(clocks: _Clocks, wanted: Wanted, step_s: float, gap_s: float, repairs: Counter[str]) -> Iterator[Rows]:
    counted: Counter[str] = Counter()
    seen = [clocks.series(one.names[0], one.value, one.clock_s, counted) for one in wanted.observation]
    sent = [clocks.series(one.names[0], one.value, one.clock_s, counted) for one in wanted.action]
    earned = pictures = None
    if wanted.reward is not None:
        earned = clocks.series("the reward", wanted.reward[:, None], wanted.reward_s, counted)
    if wanted.image is not None:
        pictures = clocks.series("the image", wanted.image, wanted.image_s, counted)
    repairs.update(counted)
    if len(seen[0].time_s) > 1 and np.median(np.diff(seen[0].time_s)) > SLOW * step_s:
        repairs[BETWEEN] += 1
    if not all(len(one.time_s) for one in [*seen, *sent, *([pictures] if pictures else [])]):
        repairs[resampling.SHORT] += 1
        return
    found = resampling.pieces(seen, max(one.time_s[0] for one in sent), step_s, gap_s)
    if not found:  # no command before the observation ends
        repairs[resampling.SHORT] += 1
        return
    repairs[resampling.GAP] += len(found) - 1
    for k, (start_s, count) in enumerate(found):
        if count < 2:
            repairs[resampling.SHORT] += 1
            continue
        width = sum(one.value[0].nbytes for one in [*seen, *sent, *([pictures] if pictures else [])])
        check_size(count * width, f"{clocks.raw.where}: {count:,} steps without a gap")
        grid_s = start_s + step_s * np.arange(count)
        old = np.any([resampling.age(one, grid_s[:-1]) > gap_s for one in sent], axis=0)
        repairs[resampling.HELD] += int(old.sum())
        yield Rows(
            _joined([_on_grid(series, one, grid_s) for series, one in zip(seen, wanted.observation, strict=True)]),
            _joined([resampling.held_mean(series, grid_s) for series in sent]),
            None if earned is None else resampling.summed(earned, grid_s, gap_s)[:, 0],
            None if pictures is None else resampling.nearest(pictures, grid_s),
            k == len(found) - 1,
        )


def _on_grid(series: Series, channel: Channel, grid_s: np.ndarray) -> np.ndarray:
    if channel.angle is None:
        return resampling.interpolate(series, grid_s)
    unwrapped = Series(series.time_s, np.unwrap(series.value, axis=0))
    return _turned(resampling.interpolate(unwrapped, grid_s), channel)


def _turned(angle: np.ndarray, channel: Channel) -> np.ndarray:
    """Unwrapped angles (T, k) in the form that the mapping asks for; sine and cosine stand side by side."""
    if channel.angle == "sin_cos":
        return np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(angle), -1)
    return np.pi - (np.pi - angle) % (2 * np.pi) if channel.angle == "wrapped" else angle


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
