"""A mapping for recordings that were looked at, as plain YAML would hold it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from configs import UserError, to_dict
from worldmodel.logs import guessing, npz
from worldmodel.logs.guessing import Seen
from worldmodel.logs.mapping import LogMapping

MISSING = "MISSING:"  # begins what the user has to fill in


@dataclass
class Header:
    """Recordings that have the same columns."""

    columns: dict[str, Seen]
    recordings: list[str] = field(default_factory=list)
    rows: int = 0
    step: list[float] = field(default_factory=list)
    """Usual step of each recording's clock, as it stands in the file."""
    longest: float = 0.0
    uneven: Counter[str] = field(default_factory=Counter)


def merged(before: Seen | None, here: Seen) -> Seen:
    if before is None:
        return here
    return Seen(
        float(np.fmin(before.low, here.low)),
        float(np.fmax(before.high, here.high)),
        here.width,
        before.is_text or here.is_text,
        before.constant_in_each and here.constant_in_each,
        before.turns + here.turns,
    )


def drafted(data: Path, headers: list[Header]) -> dict[str, Any]:
    """Strings that begin with MISSING are for the user to fill."""
    variants = [header.columns for header in headers]
    every: dict[str, Seen] = {}
    for columns in variants:
        every |= {name: merged(every.get(name), seen) for name, seen in columns.items()}
    content: dict[str, Any] = {"task": data.stem.replace("_", "-").lower() or "robot"}
    clocks = guessing.alternatives(variants, "time")
    steps = [step for header in headers for step in header.step]
    seconds = None
    if clocks and steps:
        names = next(iter(clocks.values()))
        unit = guessing.time_unit(names[0], float(np.median(steps)))
        content["time"] = _column(names, unit, None)
        seconds = np.array(steps) * (guessing.factor(unit) if unit else 1.0)
    elif steps:
        seconds = np.array(steps)
    hz = guessing.rate(1 / float(np.median(seconds))) if seconds is not None else None
    content["control_hz"] = hz if hz is not None else f"{MISSING} rows a second"
    if seconds is not None and hz and seconds.max() * hz > 3:
        content["gap_steps"] = float(math.ceil(2 * seconds.max() * hz))
    for kind in ("observation", "action"):
        content[kind] = {"columns": _channels(guessing.alternatives(variants, kind), every, kind)}
    for kind, key in (("reward", "reward"), ("terminated", "terminated"), ("episode", "episode")):
        if found := guessing.alternatives(variants, kind):
            content[key] = next(iter(found.values()))[0]
    labels = {names[0]: names[0] for names in guessing.alternatives(variants, "label").values()}
    if "split" in labels:
        content["split"] = labels.pop("split")
    if labels:
        content["info"] = labels
    if data.is_file() and npz.detects(data):
        content |= _archive(data, content)
    return content


def _channels(found: Mapping[str, list[str]], every: Mapping[str, Seen], kind: str) -> dict[str, Any]:
    channels = {}
    for key, names in found.items():
        seen = every[names[0]]
        if kind == "observation" and seen.low == seen.high:
            continue  # nothing to learn
        unit = guessing.unit_of(names[0])
        try:
            guessing.factor(unit or "1")
        except UserError:
            unit = None
        turn = "sin_cos" if kind == "observation" and any(every[name].turns for name in names) else None
        if turn and not unit and seen.high - seen.low > 7:
            unit = "deg"
        channels[guessing.si_name(key, unit)] = _column(names, unit, turn)
    return channels or {f"{MISSING} our name": f"{MISSING} a column"}


def _column(names: list[str], unit: str | None, angle: str | None) -> Any:
    column = names[0] if len(names) == 1 else names
    extra = {key: value for key, value in (("unit", unit), ("angle", angle)) if value and value not in ("rad", "s")}
    return {"column": column, **extra} if extra or len(names) > 1 else column


def _archive(data: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Where the episodes of flat arrays lie, and their rate."""
    whole = npz.Archive(data).all()
    extra: dict[str, Any] = {}
    rows = max((len(array) for array in whole.values() if array.ndim), default=0)
    if slices := npz.likely_slices(whole, rows):
        extra["episodes"] = to_dict(slices)
    if "time" not in content and (name := next((n for n in ("dt", "dt_s") if n in whole and whole[n].size == 1), None)):
        extra |= {"dt_s": name, "control_hz": None}
    labels = {name for name, array in whole.items() if array.ndim == 1 and array.dtype.kind == "U"}
    if "split" in labels:
        extra["split"] = "split"
    return extra


def complete(content: Any) -> bool:
    if isinstance(content, Mapping):
        return all(complete(key) and complete(value) for key, value in content.items())
    return not (isinstance(content, str) and content.startswith(MISSING))


def without_defaults(mapping: LogMapping) -> dict[str, Any]:
    """Without what is left at its default."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inner for key, one in value.items() if (inner := pruned(one)) not in (None, {}, [])}
        return value

    return pruned(to_dict(mapping))


class _Dumper(yaml.SafeDumper):
    """A column on one line, the rest in blocks."""

    def represent_dict(self, data: Any) -> yaml.MappingNode:
        node = super().represent_dict(data)
        node.flow_style = "column" in data
        return node

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        node = super().represent_list(data)
        node.flow_style = True
        return node


_Dumper.add_representer(dict, _Dumper.represent_dict)
_Dumper.add_representer(list, _Dumper.represent_list)


def as_yaml(content: Mapping[str, Any]) -> list[str]:
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110).splitlines()
