"""`train-world-model --estimate`: what a run's model makes of the physics along any log, as a CSV and a plot."""

import csv
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, load_yaml
from worldmodel import checkpoint
from worldmodel.cli import TrainWorldModel
from worldmodel.estimate import COVERAGE, Series, estimated, judge
from worldmodel.lessons import split_episodes
from worldmodel.log_format import SCHEMA, read_schema
from worldmodel.logs.importing import as_log_folder
from worldmodel.model import WorldModel
from worldmodel.replay import Replay
from worldmodel.results import TRACES, save_estimate_plot
from worldmodel.saved import NAME, load_model
from worldmodel.storage import LogReader


def write_estimate(options: TrainWorldModel) -> None:
    """Raises: UserError: no model, none of a factor, or logs of another robot than it learnt from."""
    run, out = options.run, options.estimate
    assert out is not None
    if run is None or not checkpoint.exists(run / "checkpoints", NAME):
        raise UserError(
            f"{run or '--run'} holds no world model; give a run that has learnt: --run RUN --estimate {out}"
        )
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the CSV file to write")
    model, meta = load_model(run / "checkpoints")
    if not len(model.context):
        raise UserError(
            f"{run} learnt from logs that label no physics that varies, so that it has nothing to estimate; label some "
            "(`physics` in the mapping) and train again"
        )
    before = load_yaml(run / "config.yaml") if (run / "config.yaml").exists() else {}
    learnt = before.get("data") or run / "episodes"
    with tempfile.TemporaryDirectory() as aside:
        logs = learnt
        if options.data is not None:
            logs = as_log_folder(options.data, Path(aside) / "logs", options.mapping, options.reward)
        reader = LogReader(logs)
        _check_alike(reader, model, meta)
        # Commands as the model knows them: in shares of its own logs' bounds, not of these logs'.
        bounds = meta.get("action") or read_schema(Path(learnt))["action"]
        reader.schema["action"] |= {key: bounds[key] for key in ("low", "high")}
        if model.widening is None and (Path(learnt) / SCHEMA).is_file():  # a night leaves that to those who ask
            own = LogReader(learnt)
            judge(model, *(Replay(own, model.context, episodes) for episodes in split_episodes(own)))
        shown = write(out, model, reader)
    hz = float(reader.schema["control_hz"])
    plot = save_estimate_plot(out.with_suffix(".png"), model, shown, hz)
    stated = f"{COVERAGE:.0%} of moments lie within 1.645 of it" if model.widening else "not calibrated, as stated"
    print(f"{out}: {', '.join(model.context.names)} in {len(reader)} episodes, with standard deviations ({stated})")
    print(f"{plot}: the first {len(shown)} of them")


def _check_alike(reader: LogReader, model: WorldModel, meta: dict[str, Any]) -> None:
    vector = reader.schema["observation"]["vector"]
    given = {
        "observation": (vector.get("names"), meta["observation_names"]),
        "number of channels": (vector["shape"][0], model.spaces.vector),
        "number of commands": (len(reader.schema["action"]["low"]), model.spaces.action),
        "control_hz": (round(float(reader.schema["control_hz"]), 3), round(float(meta["control_hz"]), 3)),
        "camera": ("image" in reader.schema["observation"], model.spaces.image),
    }
    for what, (here, learnt) in given.items():
        if here != learnt:
            raise UserError(
                f"{reader.folder}: its {what} is {here}, the model learnt {learnt}; give the robot's own logs"
            )


def write(out: Path, model: WorldModel, reader: LogReader) -> list[Series]:
    """Writes the series of every episode; the file is complete or not there. Returns the first few."""
    names, hz = model.context.names, float(reader.schema["control_hz"])
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".part")
    shown: list[Series] = []
    with open(aside, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        parts = [f"{name}{what}" for name in names for what in ("", "_std", "_label")]
        table.writerow(["episode", "step", "time_s", *parts])
        for one in estimated(model, Replay(reader, model.context)):
            columns = np.stack([one.estimate.mean, one.estimate.std, one.label], 2).reshape(len(one.label), -1)
            for t, row in enumerate(columns):
                cells = ["" if np.isnan(value) else f"{value:.6g}" for value in row]
                table.writerow([one.episode, t, f"{t / hz:.6g}", *cells])
            if len(shown) < TRACES:
                shown.append(one)
    os.replace(aside, out)
    return shown
