"""What a log can and cannot teach a world model, said before any training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldmodel.alignment import alignment
from worldmodel.console import clock
from worldmodel.context import INTERFACE_FACTORS
from worldmodel.results import channel_names
from worldmodel.spikes import STILL
from worldmodel.storage import LogReader

ROWS = 50_000  # looked at, at most
FEW_STEPS = 2_000
FEW_EPISODES = 5
SATURATED = 0.05  # share of the rows at one extreme, from which on it looks like a stop
HELD = 0.5  # share of rows that repeat the row before, from which on a sensor is slower than the log
TURN = 0.9 * 2 * np.pi  # rad: a step so large is an angle that starts again
SHIFTED = 1.0  # standard deviations between the mean of the first and the last third of the episodes
SPARSE = 0.4  # share of a factor's range without any episode
LIGHT = ("light_",)  # for images alone
CLOCK_OF_PUSHES = ("push_start_s", "push_every_s")  # which a scenario sets as it likes
FEW_VALUES = 12  # of a label, to count the episodes of each


@dataclass
class Readiness:
    """Plain lines. `facts` and `table` say what there is, `cautions` what stands in the way, `teaches` what follows."""

    facts: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    teaches: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        found = [*self.facts, *self.table]
        for title, lines in (("To look at first", self.cautions), ("What these logs can teach", self.teaches)):
            found += [f"{title}:", *(f"- {line}" for line in lines)] if lines else []
        return found


def readiness(reader: LogReader, learnt_from: Sequence[int] | None = None) -> Readiness:
    """Args: learnt_from: the episodes that train; by default all."""
    report = Readiness()
    episodes = list(range(len(reader))) if learnt_from is None else list(learnt_from)
    numbers, begins = reader.some_rows(episodes, ROWS)
    rows = reader.rows[numbers]
    vector = np.asarray(rows["vector"], np.float64)
    action, commanded = np.asarray(rows["action"], np.float64), ~np.roll(begins, -1)
    names = channel_names(reader.schema, vector.shape[1])
    _amount(report, reader)
    _channels(report, names, vector, begins)
    _commands(report, reader.schema["action"], action[commanded])
    if len(reader.spikes.row):
        spikes = len(reader.spikes.row)
        report.cautions.append(f"{spikes:,} single samples are absurdly far out and count as not measured")
    if (found := alignment(reader)) and (advice := found.advice()):
        report.cautions.append(advice)
    _rewards(report, reader, rows["reward"][commanded])
    _ends(report, reader)
    _physics(report, [reader.episodes[i]["physics"] for i in episodes], reader.images is not None)
    _labels(report, reader)
    return report


def _amount(report: Readiness, reader: LogReader) -> None:
    hz = float(reader.schema["control_hz"])
    lengths = np.array([record["length"] for record in reader.episodes])
    steps = int(lengths.sum())
    spans = f"{len(lengths)} episodes of {lengths.min() / hz:.3g} to {lengths.max() / hz:.3g} s"
    report.facts.append(f"{spans}, {steps:,} steps at {hz:g} Hz ({clock(steps / hz)})")
    for what, count in ((reader.schema.get("source") or {}).get("repairs") or {}).items():
        report.facts.append(f"mended: {count:,} {what}")
    if len(lengths) < 2:
        report.cautions.append("one episode alone cannot be split into training and held-out: cut it, or log another")
    elif len(lengths) < FEW_EPISODES or steps < FEW_STEPS:
        report.cautions.append(
            f"{steps:,} steps in {len(lengths)} episodes are few: expect a model of what was logged and little beside; "
            f"{FEW_STEPS:,} steps in {FEW_EPISODES} episodes are the least that gave anything here"
        )
    if short := int((lengths < 20).sum()):
        report.cautions.append(f"{short} episodes are shorter than 20 steps, less than one segment of training")


def _channels(report: Readiness, names: list[str], vector: np.ndarray, begins: np.ndarray) -> None:
    low, high, std = vector.min(axis=0), vector.max(axis=0), vector.std(axis=0)
    within = ~begins[1:]
    step = np.diff(vector, axis=0)[within]
    width = max(len(name) for name in names)
    report.table.append(f"{'channel':<{width}}  {'lowest':>10} {'mean':>10} {'highest':>10} {'std':>9} {'step':>9}")
    for i, name in enumerate(names):
        moved = step[:, i].std() if len(step) else 0.0
        cells = f"{low[i]:>10.4g} {vector[:, i].mean():>10.4g} {high[i]:>10.4g} {std[i]:>9.3g} {moved:>9.3g}"
        report.table.append(f"{name:<{width}}  {cells}")
    still = [name for name, spread in zip(names, high - low, strict=True) if spread <= STILL]
    if still:
        report.cautions.append(
            f"nothing to learn in {', '.join(still)}: never changes in the logs by more than {STILL:g} of its unit"
        )
    for i, name in enumerate(names):
        if name in still:
            continue
        _saturated(report, name, vector[:, i], "its sensor may end there")
        turns = int((np.abs(step[:, i]) > TURN).sum())
        if turns and high[i] - low[i] < 1.2 * 2 * np.pi:
            report.cautions.append(
                f"{name} jumps by a turn {turns:,} times: give `angle: sin_cos` in the mapping, or the model has to "
                "learn the jump"
            )
    moving = [i for i, name in enumerate(names) if name not in still]
    held = float((step[:, moving] == 0).all(axis=1).mean()) if len(step) and moving else 0.0
    if held > HELD:
        report.cautions.append(
            f"{held:.0%} of the rows repeat the row before: the sensors are slower than the log; a control_hz about "
            f"{1 / (1 - held + 1e-9):.0f} times lower loses nothing"
        )
    _drift(report, names, vector, begins, moving)


def _saturated(report: Readiness, name: str, values: np.ndarray, advice: str) -> None:
    if len(np.unique(values[:1000])) <= 3:
        return  # a switch is meant to be at its ends
    for where, extreme in (("lowest", values.min()), ("highest", values.max())):
        share = float((values == extreme).mean())
        if share > SATURATED:
            report.cautions.append(f"{name} is at its {where}, {extreme:.4g}, in {share:.0%} of the rows: {advice}")


def _drift(report: Readiness, names: list[str], vector: np.ndarray, begins: np.ndarray, moving: list[int]) -> None:
    """Means of episodes, those of the first against those of the last third."""
    starts = np.flatnonzero(begins)
    if len(starts) < 3 * FEW_EPISODES:
        return
    means = np.add.reduceat(vector, starts, axis=0) / np.diff(np.append(starts, len(vector)))[:, None]
    third = len(starts) // 3
    spread = np.maximum(vector.std(axis=0), STILL)
    moved = (means[-third:].mean(axis=0) - means[:third].mean(axis=0)) / spread
    for i in moving:
        if abs(moved[i]) > SHIFTED:
            where = "higher" if moved[i] > 0 else "lower"
            report.cautions.append(
                f"{names[i]} lies {abs(moved[i]):.1f} standard deviations {where} in the last third of the episodes "
                "than in the first: the machine or its task changed; label what did"
            )


def _commands(report: Readiness, schema: Mapping[str, Any], action: np.ndarray) -> None:
    names = schema["names"]
    low, high = action.min(axis=0), action.max(axis=0)
    ranges = ", ".join(f"{name} {a:.3g} to {b:.3g}" for name, a, b in zip(names, low, high, strict=True))
    report.facts.append(f"commands: {ranges}")
    still = [name for name, spread in zip(names, high - low, strict=True) if spread <= STILL]
    if still:
        report.cautions.append(
            f"the command {', '.join(still)} never changes in the logs: the model cannot learn what it does"
        )
    for i, name in enumerate(names):
        if name not in still:
            _saturated(report, f"the command {name}", action[:, i], "beyond it nothing is known")


def _rewards(report: Readiness, reader: LogReader, reward: np.ndarray) -> None:
    if all(record["info"].get("reward") == "none" for record in reader.episodes):
        report.teaches.append("no reward: a world model only; to train a policy give the mapping a `reward`")
    elif np.ptp(reward) <= STILL:
        report.cautions.append(f"the reward is {reward[0]:g} in every row: a policy has nothing to learn from it")
    else:
        report.facts.append(f"reward: {reward.min():.3g} to {reward.max():.3g} a step, mean {reward.mean():.3g}")


def _ends(report: Readiness, reader: LogReader) -> None:
    falls = sum(record["terminated"] for record in reader.episodes)
    if not falls:
        report.teaches.append("no episode ends in a fall (terminated): dreams from these logs will never fall")
    else:
        report.facts.append(f"{falls} of {len(reader)} episodes end the task (terminated)")
        if falls < FEW_EPISODES:
            report.teaches.append(f"{falls} falls are few: how a fall begins will hardly be learnt")


def _physics(report: Readiness, physics: Sequence[Mapping[str, float]], images: bool) -> None:
    """What each factor covers, and where dreams would leave it."""
    apart = (*INTERFACE_FACTORS, *CLOCK_OF_PUSHES, *(() if images else LIGHT))
    factors = sorted({name for labels in physics for name in labels if not name.startswith(apart)})
    if not factors:
        report.teaches.append(
            "no physics is labelled: what-ifs by friction, payload and so on cannot be told to the model"
        )
    constant = []
    for name in factors:
        values = np.sort([labels[name] for labels in physics if name in labels])
        of = "" if len(values) == len(physics) else f", known in {len(values)} of {len(physics)} episodes"
        if values[-1] - values[0] <= 1e-9:
            constant.append(f"{name} {values[0]:g}" + (f" ({of[2:]})" if of else ""))
            continue
        low, high = values[0], values[-1]
        gaps = np.diff(values)
        hole = int(gaps.argmax())
        distinct = len(np.unique(values))
        inside = ""
        if gaps[hole] > SPARSE * (high - low) and distinct > 2:
            inside = f", none between {values[hole]:.3g} and {values[hole + 1]:.3g}"
        report.teaches.append(
            f"{name} {low:.3g} to {high:.3g} ({distinct} values{of}{inside}): no log below {low:.3g} or above "
            f"{high:.3g}, dreams of that would be extrapolation"
        )
    if constant:
        report.teaches.append(f"the same in all logs, so that no change of it can be dreamt: {', '.join(constant)}")
    report.teaches.append(
        f"{', '.join(INTERFACE_FACTORS)} can be dreamt whatever the logs hold: they act on commands and readings alone"
    )


def _labels(report: Readiness, reader: LogReader) -> None:
    """Labels of few values, by how many episodes have each."""
    ours = {"task", "source", "source_episode", "source_part", "policy", "reward", "split", "seed"}
    keys = dict.fromkeys(key for record in reader.episodes for key in record["info"] if key not in ours)
    for key in keys:
        values = [record["info"].get(key) for record in reader.episodes]
        if all(value is None or isinstance(value, str | bool | int) for value in values):
            counts = Counter(str(value) for value in values)
            if 1 < len(counts) <= FEW_VALUES:
                told = ", ".join(f"{value} {count}" for value, count in counts.most_common())
                report.facts.append(f"{key}: {told} episodes")
