"""Small raw logs, described here in full."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs import UserError
from worldmodel.logs.formats import Format, RawEpisode
from worldmodel.logs.importing import as_log_folder
from worldmodel.storage import LogReader

CART = {
    "task": "cart",
    "control_hz": 10,
    "time": "time",
    "observation": {"columns": {"x_m": "x", "v_m_s": "v"}},
    "action": {"columns": {"force_N": "force"}},
}


def cart(rows: int = 21, dt: float = 0.1, seed: int = 0, **more: Any) -> dict[str, np.ndarray]:
    """A mass of 1 kg on rails, pushed at random; the command of a row leads to the next."""
    rng = np.random.default_rng(seed)
    time, force = dt * np.arange(rows), rng.uniform(-1, 1, rows)
    v = np.concatenate([[0.0], np.cumsum(force[:-1] * dt)])
    x = np.concatenate([[0.0], np.cumsum(v[:-1] * dt)])
    return {"time": time, "x": x, "v": v, "force": force, **more}


def write_csv(path: Path, columns: Mapping[str, Any], separator: str = ",") -> Path:
    """Numbers with all their digits, everything else as its text."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def text(one: Any) -> str:
        return repr(float(one)) if isinstance(one, float) else str(one)

    rows = zip(*columns.values(), strict=True)
    lines = [separator.join(columns), *(separator.join(text(one) for one in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def imported(data: Path, into: Path, mapping: Mapping[str, Any] = CART, **changes: Any) -> LogReader:
    path = into.parent / f"{into.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**mapping, **changes}, sort_keys=False))
    return LogReader(as_log_folder(data, into, path))


def read_raw(format: Format, path: Path) -> list[RawEpisode]:
    assert format.detects(path)
    return list(format.read(path, None).episodes())


def refused(format: Format, path: Path, *words: str) -> None:
    """Reading it, or else drafting a mapping, fails with these words."""
    with pytest.raises(UserError) as error:
        read_raw(format, path)
        format.draft(path)
    for word in words:
        assert word in str(error.value)
