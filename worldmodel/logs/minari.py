"""Minari's HDF5: a group an episode, T + 1 observations and T actions. https://minari.farama.org"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs import UserError
from worldmodel.logs import drafts
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.guards import parse_json, read_json
from worldmodel.logs.hdf5_file import Series, find, group_in, numbered, series, where
from worldmodel.logs.hdf5_file import columns as read_columns
from worldmodel.logs.mapping import LogMapping

if TYPE_CHECKING:
    import h5py

METADATA = "metadata.json"
_NAME = re.compile(r"episode_(\d+)")


def recognises(file: "h5py.File") -> bool:
    return bool(numbered(file, _NAME))


def episodes(file: "h5py.File", source: str, mapping: LogMapping | None) -> Iterator[RawEpisode]:
    for name in numbered(file, _NAME):
        group = group_in(file, name)
        if group is None:
            raise UserError(f"{where(file)}: {name} is not a group; it is damaged")
        found, left_out = _found(group)
        columns = read_columns(found)
        ends = columns.pop("terminations")[-1:]
        seed = group.attrs.get("seed")
        repairs = Counter({f"arrays left out (text, or images that are not 64 x 64): {key}": 1 for key in left_out})
        raw = RawEpisode(
            where=where(group),
            source=source,
            columns=columns,
            terminated=bool(ends.any()),
            labels={"seed": int(seed)} if isinstance(seed, np.integer) else {},
            repairs=repairs,
        )
        yield drafts.note_rate(raw, mapping)


def draft(file: "h5py.File", task: str) -> LogMapping:
    group = group_in(file, numbered(file, _NAME)[0])
    if group is None:
        raise UserError(f"{where(file)}: its first episode is not a group; it is damaged")
    found, _ = _found(group)
    actions = found["actions"].data
    if len(actions.shape) != 2:
        raise UserError(
            f"{where(actions)} has shape {actions.shape}: discrete actions; only vectors of numbers are learnt"
        )
    metadata = _metadata(Path(file.filename))
    space = _space(metadata, file.filename)
    observations = [key for key in found if key.partition("/")[0] == "observations"]
    images = [key for key in observations if len(found[key].data.shape) == 4]
    if observations == images:
        raise UserError(f"{where(group)}: observations holds no numbers; pictures alone are not learnt from")
    return LogMapping(
        task=str(metadata.get("dataset_id") or task),
        control_hz=drafts.UNSTATED_HZ,
        observation=drafts.observation([key for key in observations if key not in images], "observations/"),
        action=drafts.action("actions", actions.shape[1], space.get("low"), space.get("high")),
        reward="rewards",
        image=images[0] if images else None,
    )


def _found(group: "h5py.Group") -> tuple[dict[str, Series], list[str]]:
    found: dict[str, Series] = {}
    left_out: list[str] = []
    for key in ("observations", "actions", "rewards", "terminations"):
        node = find(group, key)
        if node is None:
            raise UserError(f"{where(group)} lacks {key}; Minari's episodes have one")
        below, unusable = series(node, key)
        found |= below
        left_out += unusable
    for key in ("actions", "rewards", "terminations"):
        if key not in found:
            raise UserError(f"{where(group)}: {key} is not an array of numbers; only vectors of numbers are learnt")
    return found, left_out


def _metadata(main: Path) -> dict[str, Any]:
    beside = main.with_name(METADATA)
    return read_json(beside) if beside.is_file() and not beside.is_symlink() else {}


def _space(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """The action space as Minari writes it: JSON in JSON. {} if it has no bounds to give."""
    space = metadata.get("action_space")
    return parse_json(space, f"{METADATA} beside {where}: action_space") if isinstance(space, str) else {}
