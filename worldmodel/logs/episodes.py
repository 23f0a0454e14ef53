"""Raw episodes and a mapping to Episodes: cut where they end, named, labelled, with a reward."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, suggest
from worldmodel.episode import Episode
from worldmodel.logs import channels
from worldmodel.logs.cutting import parts
from worldmodel.logs.expression import Expression
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.mapping import SPLITS, Column, LogMapping, PythonReward, as_column
from worldmodel.logs.python_reward import RewardFunction
from worldmodel.logs.rows import Rows, Wanted, even_rows

EMPTY = "recordings left out that have no rows"


class Converter:
    """Makes Episodes of raw ones, in order; counts repairs.

    What the first episode settles (names, rate), the others must agree with.
    """

    def __init__(self, mapping: LogMapping) -> None:
        self.mapping = mapping
        self.hz = 0.0
        self.observation: list[str] = []
        self.action: list[str] = []
        self._given: list[tuple[float | None, float | None]] = []  # bounds of each command
        self._low = self._high = np.array([])  # the extremes seen
        self.repairs: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()  # raw episodes by file
        self._reward: Expression | RewardFunction | None = None
        try:
            self._path = re.compile(mapping.path) if mapping.path else None
        except re.error as error:
            raise UserError(f"the mapping's path {mapping.path!r} is no regular expression: {error}") from None

    def convert(self, raw: RawEpisode) -> Iterator[Episode]:
        number = self._seen[raw.source]
        self._seen[raw.source] += 1
        self.repairs.update(raw.repairs)
        if not any(len(value) for value in raw.columns.values()):
            self.repairs[EMPTY] += 1
            return
        if self._path and (match := self._path.search(raw.source)):
            found = {key: text for key, text in match.groupdict().items() if text is not None}
            raw = replace(raw, labels={**found, **raw.labels})
        self._settle_rate(raw)
        for at, (part, terminated) in enumerate(parts(raw, self.mapping, self.repairs)):
            wanted = Wanted.of(part, self.mapping)
            self._settle_names(part, wanted)
            info = {"task": self.mapping.task, "source": raw.source, "source_episode": number, "policy": "log"}
            info |= {"source_part": at, **self._labels(part)}  # pieces of a part are held out together (lessons.py)
            if self.mapping.reward is None:
                info["reward"] = "none"
            physics = self._physics(part)
            for rows in even_rows(part, wanted, self.mapping, self.hz, self.repairs):
                yield self._episode(part, rows, terminated and rows.is_end, info, physics)

    def check_reward(self, data: Path) -> None:
        """After all episodes: a function that earned the same everywhere is refused."""
        if isinstance(self._reward, RewardFunction):
            self._reward.check_varies(data)

    def _settle_rate(self, raw: RawEpisode) -> None:
        mapping = self.mapping
        if (mapping.control_hz is None) == (mapping.dt_s is None):
            raise UserError(f"the mapping of {raw.where} must give control_hz or dt_s, and not both")
        if mapping.control_hz is not None:
            self.hz = mapping.control_hz
            if not (self.hz > 0 and np.isfinite(self.hz)):
                raise UserError(f"the mapping of {raw.where}: control_hz is {self.hz:g}, expected above 0")
            return
        dt_s = channels.one_value(raw, mapping.dt_s) if isinstance(mapping.dt_s, str) else mapping.dt_s
        if not isinstance(dt_s, int | float) or not (dt_s > 0 and np.isfinite(dt_s)):
            raise UserError(f"{raw.where}: dt_s must be one number above 0, not {dt_s}")
        if self.hz and abs(self.hz * dt_s - 1) > 1e-6:
            raise UserError(f"{raw.where}: its dt_s is {dt_s:g}, others have {1 / self.hz:g}; give control_hz")
        self.hz = self.hz or 1 / float(dt_s)

    def _settle_names(self, raw: RawEpisode, wanted: Wanted) -> None:
        for kind, of in (("observation", wanted.observation), ("action", wanted.action)):
            names = [name for one in of for name in one.names]
            settled = getattr(self, kind) or names
            setattr(self, kind, settled)
            if names != settled:
                raise UserError(f"{raw.where}: its {kind} has {len(names)} channels, others have {len(settled)}")
            if len(set(names)) != len(names):
                raise UserError(f"the mapping's {kind} names a channel twice: {', '.join(names)}")
        if not self._given:
            self._given = [pair for one in wanted.action for pair in zip(one.low, one.high, strict=True)]
            self._low, self._high = np.full((2, len(self.action)), [[np.inf], [-np.inf]])
        for at, column in enumerate(column for one in wanted.action for column in one.value.T):
            if column.dtype.kind in "fiu" and len(finite := column[np.isfinite(column)]):
                self._low[at] = min(self._low[at], finite.min())
                self._high[at] = max(self._high[at], finite.max())

    def bounds(self) -> tuple[list[float], list[float]]:
        """Of each command: as given, else the extremes seen; a constant command still has room.

        Raises:
            UserError: the lower one is not below the upper one.
        """
        constant = self._low >= self._high
        seen = np.where(constant, self._low - 1, self._low), np.where(constant, self._high + 1, self._high)
        bounds = [
            [float(extreme if own is None else own) for own, extreme in zip(given, extremes, strict=True)]
            for given, extremes in zip(self._given, zip(*seen, strict=True), strict=True)
        ]
        for name, given, (low, high) in zip(self.action, self._given, bounds, strict=True):
            if low >= high:
                least, most = (
                    f"{b:g}{', as seen' if g is None else ''}" for b, g in zip((low, high), given, strict=True)
                )
                raise UserError(f"the mapping's command {name}: its low ({least}) is not below its high ({most})")
        return [low for low, _ in bounds], [high for _, high in bounds]

    def _labels(self, raw: RawEpisode) -> dict[str, Any]:
        wanted = {**self.mapping.info, **({"split": self.mapping.split} if self.mapping.split else {})}
        found = {key: channels.one_value(raw, name) for key, name in wanted.items()}
        if "split" in found:
            word = str(found["split"]).strip()
            if word.lower() not in SPLITS:  # else it would be trained on
                raise UserError(f"{raw.where}: {wanted['split']} says {word}, expected a split: {', '.join(SPLITS)}")
            found["split"] = SPLITS[word.lower()]
        return found

    def _physics(self, raw: RawEpisode) -> dict[str, float]:
        found = {}
        for factor, given in self.mapping.physics.items():
            if isinstance(given, int | float):
                found[factor] = float(given)
                continue
            spec: Column = as_column(given)
            name = next((name for name in spec.names if name in raw.labels or channels.has(raw, name)), spec.names[0])
            value = channels.one_value(raw, name)
            if isinstance(value, list | tuple | dict | np.ndarray):
                raise UserError(f"{raw.where}: {name} is {str(value)[:80]}, expected one value for the episode")
            number = channels.numbers(np.array([value]), f"{raw.where}: {name}", spec.values)[0]
            found[factor] = float(number * spec.factor)
        return found

    def _episode(
        self, raw: RawEpisode, rows: Rows, terminated: bool, info: dict[str, Any], physics: dict[str, float]
    ) -> Episode:
        steps = len(rows.action)
        episode = Episode(
            observation={"vector": rows.vector} | ({} if rows.image is None else {"image": rows.image}),
            action=rows.action,
            applied_action=rows.action,
            reward=np.zeros(steps, np.float32) if rows.reward is None else rows.reward,
            push=np.zeros(steps, np.float32),
            terminated=terminated,
            truncated=not terminated,
            physics=dict(physics),
            info=dict(info),
        ).check(raw.where, {"observation vector": self.observation, "action": self.action})
        if self.mapping.reward is not None and rows.reward is None:
            episode.reward = self._earned(episode, raw.where)
        return episode

    def _earned(self, episode: Episode, where: str) -> np.ndarray:
        """What the mapping's reward gives, from the observation after each step and the command that led there."""
        given, names = self.mapping.reward, [*self.observation, *self.action]
        assert given is not None
        if self._reward is None:
            of_python = isinstance(given, PythonReward)
            self._reward = RewardFunction(Path(given.python)) if of_python else Expression.parse(given, names)
        after = episode.observation["vector"][1:]
        if isinstance(self._reward, RewardFunction):
            seen, sent = (
                dict(zip(channels, rows.T, strict=True))
                for channels, rows in ((self.observation, after), (self.action, episode.action))
            )
            return self._reward(seen, sent, where)
        values = np.concatenate([after, episode.action], axis=1)
        reward = self._reward(dict(zip(names, values.T, strict=True)))
        if not np.isfinite(reward).all():
            row = int(np.flatnonzero(~np.isfinite(reward))[0])
            held = ", ".join(f"{name} {values[row, names.index(name)]:g}" for name in self._reward.channels)
            raise UserError(f"{where}: the reward {self._reward.text!r} is {reward[row]} in step {row} ({held})")
        return reward


def mapped_names(names: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The channels to show, if there are such."""
    for name in asked:
        if name not in names:
            raise UserError(f"the mapping's show: {suggest(name, names)}")
    return list(asked)
