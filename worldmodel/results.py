"""What a training run leaves for people to look at: lines of text, `results.json`, and `plots/` with their figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.audited import Audit
from worldmodel.checkpoint import write_atomically
from worldmodel.plots import ChannelErrors, EstimateTrace, Trace, estimate_plot, open_loop_plot

if TYPE_CHECKING:
    from worldmodel.diagnosis import Finding
    from worldmodel.estimate import FactorJudged, Series
    from worldmodel.evaluation import OpenLoop
    from worldmodel.model import WorldModel

FEW = 6  # channels that are shown one by one without being asked for
EXAMPLES = 3
TRACES = 3  # episodes whose estimate of the physics is plotted


def channel_names(schema: Mapping[str, Any], channels: int) -> list[str]:
    return schema["observation"]["vector"].get("names") or [f"channel {i}" for i in range(channels)]


def shown_channels(schema: Mapping[str, Any], result: OpenLoop) -> list[int]:
    """Those the logs' mapping asks for; else all where they are few, or the ones in which standing still errs most."""
    channels = result.channels.shape[1]
    names = channel_names(schema, channels)
    if asked := schema.get("show"):
        return [names.index(name) for name in asked]
    if channels <= FEW:
        return list(range(channels))
    moves = result.channels_persistence[-1] / result.std
    return sorted(np.argsort(-moves, kind="stable")[:FEW].tolist())


def milestones(result: OpenLoop) -> list[int]:
    """Horizons worth naming: 1, 10 and the last."""
    last = len(result.model)
    return sorted({h for h in (1, 10) if h < last} | {last})


def held_out_line(result: OpenLoop) -> str:
    at = milestones(result)
    model = " / ".join(f"{result.model[h - 1]:.2f}" for h in at)
    still = " / ".join(f"{result.persistence[h - 1]:.2f}" for h in at)
    steps = " / ".join(str(h) for h in at)
    return f"held-out error {model} after {steps} steps; standing still {still}"


def channel_lines(schema: Mapping[str, Any], result: OpenLoop) -> list[str]:
    """The error of each shown channel in its own unit, beside standing still."""
    names = channel_names(schema, result.channels.shape[1])
    shown, at = shown_channels(schema, result), milestones(result)
    hz = float(schema["control_hz"])
    width = max(len(names[c]) for c in shown)
    heads = [f"{h / hz:.2f} s" for h in at]
    lines = [f"{'error after':<{width}}  " + "  ".join(f"{head:>17}" for head in heads) + "   (standing still)"]
    for c in shown:
        cells = [f"{result.channels[h - 1, c]:>8.3g} ({result.channels_persistence[h - 1, c]:.3g})" for h in at]
        lines.append(f"{names[c]:<{width}}  " + "  ".join(f"{cell:>17}" for cell in cells))
    return lines


def scalars(result: OpenLoop) -> dict[str, float]:
    values = {"error_mean": float(result.model.mean()), "standing_still_mean": float(result.persistence.mean())}
    for h in milestones(result):
        values[f"error_{h}"] = float(result.model[h - 1])
        values[f"standing_still_{h}"] = float(result.persistence[h - 1])
    return values


def save_plot(folder: Path, schema: Mapping[str, Any], result: OpenLoop, step: int, audit: Audit | None = None) -> Path:
    """`open_loop.png` and, for other programs, the curves in `open_loop.json`."""
    names, shown = channel_names(schema, result.channels.shape[1]), shown_channels(schema, result)
    hz = float(schema["control_hz"])
    curves = {
        "step": step,
        "starts": result.starts,
        "control_hz": hz,
        "model": result.model.tolist(),
        "persistence": result.persistence.tolist(),
        "channels": [
            {
                "name": name,
                "model": result.channels[:, c].tolist(),
                "persistence": result.channels_persistence[:, c].tolist(),
            }
            for c, name in enumerate(names)
        ],
    }
    if audit is not None:
        curves["audit"] = {
            "bound": [float(one) if np.isfinite(one) else None for one in audit.bound],
            "held": audit.held.tolist(),
            "rollouts": audit.rollouts,
            "recordings": audit.recordings,
            "held_out_bound": audit.held_out_bound,
        }
    write_atomically(folder / "open_loop.json", json.dumps(curves).encode())
    seconds = np.arange(1, len(result.model) + 1) / hz
    errors = ChannelErrors(seconds, result.channels[:, shown], result.channels_persistence[:, shown])
    return open_loop_plot(
        folder / "open_loop.png",
        range(1, len(result.model) + 1),
        result.model.tolist(),
        result.persistence.tolist(),
        [names[c] for c in shown],
        _examples(result, shown, hz),
        channel_errors=errors,
        bound=None if audit is None else audit.bound[: len(result.model)].tolist(),
        audit="" if audit is None else audit.lines(milestones(result))[0],
    )


def _examples(result: OpenLoop, shown: Sequence[int], hz: float) -> list[Trace]:
    """The first starts, which were drawn at random: no choosing of pretty ones."""
    traces = []
    for i, (episode, step) in enumerate(result.where[:EXAMPLES]):
        log, foretold = result.traces[:, i][..., shown]
        still = np.broadcast_to(log[:1], log.shape)
        title = f"held-out episode {episode}, from {step / hz:.1f} s"
        traces.append(Trace(title, np.arange(len(log)) / hz, log, foretold, still))
    return traces


def save_results(
    folder: Path, step: int, result: OpenLoop, judged: Sequence[FactorJudged], findings: Sequence[Finding]
) -> None:
    """`results.json`: the figures that the run ends with, and what looks wrong."""
    held = {
        "step": step,
        "held_out": scalars(result),
        "estimate": [asdict(factor) for factor in judged],
        "diagnosis": [asdict(finding) for finding in findings],
    }
    write_atomically(folder / "results.json", (json.dumps(held, indent=2) + "\n").encode())


def save_estimate_plot(
    path: Path,
    model: WorldModel,
    found: Sequence[Series],
    hz: float,
    errors: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """The first few series; where there are `errors` (T, C) by step, of the estimate and of the mean, those as well."""
    traces = [
        EstimateTrace(f"episode {one.episode}", np.arange(len(one.label)) / hz, *one.estimate, one.label)
        for one in found[:TRACES]
    ]
    return estimate_plot(path, model.context.names, traces, hz, errors)
