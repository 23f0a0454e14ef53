"""Plots of a training run, as PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MODEL, PERSISTENCE, LOG = "#0b68b0", "#8a8f99", "#1b1d21"


@dataclass
class Trace:
    """One held-out stretch: what was logged, and what was foretold from its start and the actions alone.

    Arrays are (T, C) in the channels' own units, C as in `open_loop_plot`'s `channel_names`.
    """

    title: str
    seconds: np.ndarray  # (T,) since the model last saw an observation
    log: np.ndarray
    open_loop: np.ndarray
    persistence: np.ndarray


@dataclass
class ChannelErrors:
    """Root mean square error by horizon, (H, C) in the channels' own units, C as in `Trace`."""

    seconds: np.ndarray  # (H,)
    model: np.ndarray
    persistence: np.ndarray


def open_loop_plot(
    path: Path,
    horizon: Sequence[int],
    model: Sequence[float],
    persistence: Sequence[float],
    channel_names: Sequence[str] = (),
    examples: Sequence[Trace] = (),
    channel_errors: ChannelErrors | None = None,
    bound: Sequence[float] | None = None,
    audit: str = "",
) -> Path:
    """Error by horizon beside persistence, then a row for each channel: its error and example traces.

    The file is complete or not there at all.

    Args:
        horizon: control steps ahead.
        model: RMSE over all channels, each divided by its standard deviation in the logs.
        channel_names: the channels (with units) that the examples show.
        bound: below which 90% of rollouts should stay.
        audit: a line on whether they do, below the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(channel_names) if examples else 0
    before = int(channel_errors is not None)
    columns = max(1, before + len(examples))
    figure = Figure(figsize=(max(7.5, 3.4 * columns), 3.6 + 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.6] + [1.0] * rows)

    axes = figure.add_subplot(grid[0, :])
    axes.plot(horizon, persistence, "--", color=PERSISTENCE, label="persistence: nothing moves")
    axes.plot(horizon, model, "-", color=MODEL, lw=2, marker="o", ms=3.5, label="world model, open loop (median)")
    axes.set(xlabel="control steps ahead", ylabel="error, in standard\ndeviations of each channel")
    if bound is not None:
        axes.plot(horizon[: len(bound)], bound, ":", color=MODEL, lw=1.5, label="stated bound: 90% should stay below")
    title = "Held-out logs: the model sees the start and the actions only"
    axes.set_title(f"{title}\n{audit}" if audit else title, loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    _finish(axes)
    axes.legend(frameon=False, fontsize=9)

    for c, name in enumerate(channel_names[:rows]):
        if channel_errors is not None:
            axes = figure.add_subplot(grid[1 + c, 0])
            axes.plot(channel_errors.seconds, channel_errors.persistence[:, c], "--", color=PERSISTENCE)
            axes.plot(channel_errors.seconds, channel_errors.model[:, c], "-", color=MODEL, lw=2)
            axes.set_ylim(bottom=0)
            _finish(axes)
            axes.set_ylabel(name, fontsize=9)
            if c == 0:
                axes.set_title("root mean square error", fontsize=9, loc="left")
            if c == rows - 1:
                axes.set_xlabel("seconds ahead", fontsize=9)
        first = None
        for e, example in enumerate(examples):
            axes = figure.add_subplot(grid[1 + c, before + e], sharey=first)
            first = first or axes
            axes.plot(example.seconds, example.persistence[:, c], "--", color=PERSISTENCE, lw=1.2)
            axes.plot(example.seconds, example.log[:, c], color=LOG, lw=1.6, label="log")
            axes.plot(example.seconds, example.open_loop[:, c], color=MODEL, lw=1.8, label="open loop")
            _finish(axes)
            if e == 0 and not before:
                axes.set_ylabel(name, fontsize=9)
            if c == 0:
                axes.set_title(example.title, fontsize=9, loc="left")
            if c == 0 and e == 0:
                axes.legend(frameon=False, fontsize=8)
            if c == rows - 1:
                axes.set_xlabel("seconds", fontsize=9)

    return _save(figure, path)


@dataclass
class Change:
    """Error by horizon on one set of logs, of a model before it learnt on and now."""

    title: str
    before: Sequence[float]
    now: Sequence[float]
    persistence: Sequence[float]


def before_and_after_plot(path: Path, hz: float, changes: Sequence[Change]) -> Path:
    """A panel for each set of logs; the file is complete or not there at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * max(1, len(changes)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for i, change in enumerate(changes):
        axes = figure.add_subplot(1, len(changes), i + 1)
        seconds = [(h + 1) / hz for h in range(len(change.now))]
        axes.plot(seconds, change.persistence, "--", color=PERSISTENCE, label="persistence")
        before = change.before[: len(seconds)]  # logs of longer or shorter episodes are followed for longer or shorter
        axes.plot(seconds[: len(before)], before, ":", color=LOG, label="before")
        axes.plot(seconds, change.now, "-", color=MODEL, lw=2, label="now")
        axes.set(xlabel="seconds ahead", ylabel="error, in standard deviations")
        axes.set_title(change.title if len(change.title) <= 44 else f"...{change.title[-41:]}", loc="left", fontsize=9)
        axes.set_ylim(bottom=0)
        _finish(axes)
        axes.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _finish(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.margins(x=0.01)
    axes.tick_params(labelsize=8)


@dataclass
class EstimateTrace:
    """What was made of the physics along one episode. Arrays are (T, C) in SI, C the factors."""

    title: str
    seconds: np.ndarray  # (T,)
    mean: np.ndarray
    std: np.ndarray
    label: np.ndarray  # NaN where the log does not say


def estimate_plot(
    path: Path,
    factors: Sequence[str],
    examples: Sequence[EstimateTrace],
    control_hz: float,
    errors: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """A row for each factor: its error by time in an episode beside that of the logs' mean, and example episodes.

    Args:
        errors: (T, C) root mean squares by step, of the estimate and of the mean; without labels there are none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    before = int(errors is not None)
    columns = max(1, before + len(examples))
    figure = Figure(figsize=(max(7.5, 3.4 * columns), 0.6 + 2.3 * len(factors)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Physics as the robot makes it out; no label is read", x=0.01, ha="left", fontsize=11)
    grid = figure.add_gridspec(len(factors), columns)
    for c, factor in enumerate(factors):
        if errors is not None:
            axes = figure.add_subplot(grid[c, 0])
            seconds = np.arange(len(errors[0])) / control_hz
            axes.plot(seconds, errors[1][:, c], "--", color=PERSISTENCE, label="the logs' mean")
            axes.plot(seconds, errors[0][:, c], color=MODEL, lw=2, label="estimate")
            axes.set_ylim(bottom=0)
            axes.set_ylabel(factor, fontsize=9)
            _finish(axes)
            if c == 0:
                axes.set_title("error in held-out episodes", fontsize=9, loc="left")
                axes.legend(frameon=False, fontsize=8)
        first = None
        for e, one in enumerate(examples):
            axes = figure.add_subplot(grid[c, before + e], sharey=first)
            first = first or axes
            low, high = (one.mean[:, c] + side * 1.645 * one.std[:, c] for side in (-1, 1))
            axes.fill_between(one.seconds, low, high, color=MODEL, alpha=0.2, lw=0, label="90%")
            axes.plot(one.seconds, one.mean[:, c], color=MODEL, lw=1.8, label="estimate")
            axes.plot(one.seconds, one.label[:, c], color=LOG, lw=1.6, label="label")
            _finish(axes)
            if not before and e == 0:
                axes.set_ylabel(factor, fontsize=9)
            if c == 0:
                axes.set_title(one.title, fontsize=9, loc="left")
            if c == 0 and e == 0:
                axes.legend(frameon=False, fontsize=8)
    for axes in figure.axes[-columns:]:
        axes.set_xlabel("seconds", fontsize=9)
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    figure.savefig(aside, format="png", dpi=110)
    os.replace(aside, path)
    return path
