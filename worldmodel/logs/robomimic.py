"""robomimic's HDF5: demo_0, demo_1, ... under `data`, a row an action. https://robomimic.github.io/docs/datasets"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from configs import UserError
from worldmodel.logs import drafts
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.guards import parse_json
from worldmodel.logs.hdf5_file import Series, datasets, find, group_in, numbered, series, text, texts, where
from worldmodel.logs.hdf5_file import columns as read_columns
from worldmodel.logs.mapping import SPLITS, LogMapping

if TYPE_CHECKING:
    import h5py

_NAME = re.compile(r"demo_(\d+)")


def recognises(file: "h5py.File") -> bool:
    data = group_in(file, "data")
    return data is not None and bool(numbered(data, _NAME))


def episodes(file: "h5py.File", source: str, mapping: LogMapping | None) -> Iterator[RawEpisode]:
    data, splits = _data(file), _splits(file)
    hz = _control_hz(data)
    for name in numbered(data, _NAME):
        demo = group_in(data, name)
        if demo is None:
            raise UserError(f"{where(data)}: {name} is not a group; it is damaged")
        found, left_out = _found(demo)
        columns = read_columns(found)
        following = {key.removeprefix("next_"): columns.pop(key) for key in list(columns) if key.startswith("next_")}
        for key, after in following.items():
            if key in columns:  # the observation that the last action led to
                columns[key] = np.concatenate([columns[key], after[-1:]])
        dones = columns.pop("dones", np.zeros(0))
        repairs = Counter({f"arrays left out (text, or images that are not 64 x 64): {key}": 1 for key in left_out})
        raw = RawEpisode(
            where=where(demo),
            source=source,
            columns=columns,
            time_s=_clock_s(columns, hz) if hz is not None and drafts.asks_other_rate(mapping, hz) else None,
            # With done_mode 1 and 2 `dones` also marks where a recording merely stops; success is what earns reward.
            terminated=bool(dones[-1:].any() and columns.get("rewards", np.zeros(1))[-1] > 0),
            labels={"split": splits[name]} if splits else {},
            repairs=repairs,
        )
        yield drafts.note_rate(raw, mapping) if hz is None else raw


def draft(file: "h5py.File", task: str) -> LogMapping:
    data = _data(file)
    demo = group_in(data, numbered(data, _NAME)[0])
    if demo is None:
        raise UserError(f"{where(data)}: its first demo is not a group; it is damaged")
    found, _ = _found(demo)
    seen = [key for key in found if key.startswith("obs/")] or ["states"]
    images = [key for key in seen if len(found[key].data.shape) == 4]
    return LogMapping(
        task=str(_env_args(data).get("env_name") or task),
        control_hz=_control_hz(data) or drafts.UNSTATED_HZ,
        observation=drafts.observation([key for key in seen if key not in images], "obs/"),
        action=drafts.action("actions", found["actions"].data.shape[1]),
        reward="rewards" if "rewards" in found else None,
        image=images[0] if images else None,
        split="split" if _splits(file) else None,
    )


def _found(demo: "h5py.Group") -> tuple[dict[str, Series], list[str]]:
    found: dict[str, Series] = {}
    left_out: list[str] = []
    for key in ("obs", "next_obs", "states", "actions", "rewards", "dones"):
        node = find(demo, key)
        if node is not None and not (key == "states" and found):  # simulator states serve where nothing is observed
            below, unusable = series(node, key)
            found |= below
            left_out += unusable
    if "actions" not in found or len(found["actions"].data.shape) != 2:
        raise UserError(f"{where(demo)} lacks actions as rows of numbers")
    if not any(key == "states" or key.startswith("obs/") for key in found):
        raise UserError(f"{where(demo)} lacks obs and states; robomimic's dataset_states_to_obs.py extracts them")
    return found, left_out


def _data(file: "h5py.File") -> "h5py.Group":
    data = group_in(file, "data")
    if data is None:
        raise UserError(f"{where(file)} lacks the group data")
    return data


def _env_args(data: "h5py.Group") -> dict:
    written = text(data.attrs.get("env_args"))
    return parse_json(written, f"{where(data)}: env_args") if written else {}


def _control_hz(data: "h5py.Group") -> float | None:
    arguments = _env_args(data).get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else None


def _clock_s(columns: dict[str, np.ndarray], hz: float) -> np.ndarray:
    return np.arange(max(len(value) for value in columns.values())) / hz


def _splits(file: "h5py.File") -> dict[str, str]:
    """train, val or test for each demo, from the masks; {} unless they cover all."""
    mask = group_in(file, "mask")
    lists = datasets(mask) if mask is not None else {}
    splits = {name: ours for theirs, ours in SPLITS.items() if theirs in lists for name in texts(lists[theirs])}
    return splits if all(name in splits for name in numbered(_data(file), _NAME)) else {}
