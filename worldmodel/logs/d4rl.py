"""D4RL's HDF5: flat arrays, cut where `terminals` or `timeouts` say. https://github.com/Farama-Foundation/D4RL"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from configs import UserError
from worldmodel.logs import drafts
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.hdf5_file import Series, find, series, where
from worldmodel.logs.mapping import LogMapping

if TYPE_CHECKING:
    import h5py

_ARRAYS = ("observations", "actions", "rewards", "terminals")


def recognises(file: "h5py.File") -> bool:
    return all(find(file, key) is not None for key in _ARRAYS)


def episodes(file: "h5py.File", source: str, mapping: LogMapping | None) -> Iterator[RawEpisode]:
    found = _found(file)
    terminals = found["terminals"].rows().astype(bool)
    ends = terminals | found["timeouts"].rows().astype(bool) if "timeouts" in found else terminals
    cuts = np.flatnonzero(ends) + 1
    cuts = np.unique(np.concatenate([cuts, [len(terminals)]]))
    start, repairs = 0, Counter[str]()
    for number, stop in enumerate(cuts.tolist()):
        columns = {key: found[key].rows(start, stop) for key in ("observations", "actions", "rewards")}
        if "next_observations" in found:  # the one that the last action led to is nowhere else
            after = found["next_observations"].rows(stop - 1, stop)
            columns["observations"] = np.concatenate([columns["observations"], after])
        if len(columns["observations"]) > 1:
            raw = RawEpisode(
                where=f"{where(file)}: episode {number} (rows {start} to {stop})",
                source=source,
                columns=columns,
                terminated=bool(terminals[stop - 1]),
                repairs=repairs,
            )
            yield drafts.note_rate(raw, mapping)
            repairs = Counter()
        else:
            repairs["episodes of a single row left out"] += 1
        start = stop


def draft(file: "h5py.File", task: str) -> LogMapping:
    found = _found(file)
    return LogMapping(
        task=task,
        control_hz=drafts.UNSTATED_HZ,
        observation=drafts.observation(["observations"]),
        action=drafts.action("actions", found["actions"].data.shape[1]),
        reward="rewards",
    )


def _found(file: "h5py.File") -> dict[str, Series]:
    found: dict[str, Series] = {}
    for key in (*_ARRAYS, "timeouts", "next_observations"):
        node = find(file, key)
        if node is not None:
            found |= series(node, key)[0]
    for key in _ARRAYS:
        if key not in found:
            raise UserError(f"{where(file)}: {key} is not an array of numbers")
        if len(found[key]) != len(found["observations"]) or not len(found[key]):
            raise UserError(
                f"{where(file)}: {key} has {len(found[key])} rows, observations has {len(found['observations'])}"
            )
    if len(found["actions"].data.shape) != 2:
        raise UserError(f"{where(file)}: actions has shape {found['actions'].data.shape}, expected rows of numbers")
    return found
