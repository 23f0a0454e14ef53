"""Markdown tables of what `fidelity.py` found: each figure the mean over seeds, and least and greatest of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs import from_dict
from dreaming.audit_report import Curve, Falls, ScenarioAudit

HORIZONS = (1, 5, 15, 50, 100)
BY_CHANNEL = 15  # steps ahead
Results = dict[str, Any]  # of a seed


def cell(found: Sequence[float | None]) -> str:
    given = [x for x in found if x is not None]
    if not given:
        return "–"
    spread = f" [{min(given):.3g}, {max(given):.3g}]" if len(given) > 1 else ""
    return f"{np.mean(given):.3g}{spread}"


def table(title: str, columns: Sequence[object], rows: Mapping[str, Sequence[str]]) -> None:
    print(f"\n| {title} | " + " | ".join(map(str, columns)) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells) + " |")


def falls_cell(found: Sequence[Falls]) -> str:
    """Precision and recall, and how many falls there were in all seeds."""
    truly = sum(falls.hits + falls.missed for falls in found)
    return f"{cell([f.precision for f in found])} / {cell([f.recall for f in found])} of {truly}"


def report(found: Sequence[Results], names: Sequence[str]) -> None:
    audits = {
        name: [from_dict(ScenarioAudit, results["within"][name]["audit"], "results") for results in found]
        for name in names
    }
    first = audits[names[0]]
    horizons = [h for h in HORIZONS if h <= len(first[0].horizon)]

    def at_horizons(curves: Sequence[Curve]) -> list[str]:
        return [cell([curve[h - 1] for curve in curves]) for h in horizons]

    for statistic in ("median", "mean"):
        rows = {name: at_horizons([getattr(a.error, statistic) for a in audits[name]]) for name in names}
        kicked = [getattr(a.sensitivity, statistic) for a in first if a.sensitivity]
        rows["*PyBullet, kicked*"] = at_horizons(kicked)
        table(f"error in standard deviations, {statistic}, steps ahead", horizons, rows)
    channels = {
        channel.name: [cell([a.channels[c].dream[BY_CHANNEL - 1] for a in audits[name]]) for name in names]
        for c, channel in enumerate(first[0].channels)
    }
    table(f"channel, root mean square {BY_CHANNEL} steps ahead", names, channels)
    for what in ("reward", "contact precision", "contact recall"):
        rows = {name: at_horizons([results["within"][name][what] for results in found]) for name in names}
        table(f"{what}, steps ahead", horizons, rows)
    ends = [falls.horizon for falls in first[0].falls]
    falls = {name: [falls_cell([a.falls[i] for a in audits[name]]) for i in range(len(ends))] for name in names}
    table("falls within so many steps: precision / recall of how many", ends, falls)
    for world in found[0]["beyond"][names[0]]:
        worlds = {name: [results["beyond"][name][world] for results in found] for name in names}
        rows = {
            f"{name}, told {told}": at_horizons([w[told]["audit"]["error"]["median"] for w in worlds[name]])
            for name in names
            for told in worlds[name][0]
        }
        table(f"{world}: median error, steps ahead", horizons, rows)
