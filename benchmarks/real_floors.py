"""A floor that hardly any log shows: a real robot on ice, foretold by models that learnt on other floors.

    python benchmarks/real_floors.py --data ../shared/data/warthog_floors/warthog_floors.npz --out runs/floors

Warthog on asphalt, grass, gravel and sand, with 0, 1, 4 or 14 episodes of ice among 665 others. From the first second
of each 2-s window of the ice test episodes the second second is foretold under the commands given: wheel speeds and yaw
rate, 0.25, 0.5 and 1 s ahead. Windows are episodes of their own, so that nothing reaches over the logs' joins. Everyone
sees the same second before and learns from the same episodes for the same processor time on one thread.

No floor has a label. What stands in for one is a hidden factor (worldmodel/hidden.py) of the recording sessions, found
from the training episodes' motion. Our model is told nothing of it; what the second before lets it infer, in three
ways; or the value that the added ice training episodes gave; or, instead of one number, a line that corrects what the
model gets wrong on them (`floors/correction.py`; rivals are shown with it as well). Finished parts are kept in --out,
so an interrupted run goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import tyro
import yaml
from floors.arms import FLOOR, Foreteller, Imagining, Name, by_head, by_likelihood, first_second, make, telling
from floors.correction import Correction
from floors.tables import markdown
from floors.windows import RARE, WINDOW, Logs
from foretelling.moments import PAST

from configs import UserError
from worldmodel.checkpoint import write_atomically
from worldmodel.context import ContextSpec
from worldmodel.hidden import HiddenFactors
from worldmodel.replay import Batch, Replay
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

CHANNELS = 3  # that are judged, the first of the logs
HORIZONS = (5, 10, 20)  # rows ahead
LEARNS: tuple[Name, ...] = ("lstm", "dreamer", "ours")
Cases = Callable[[Imagining, Batch], tuple[dict[str, Batch], dict[str, list[float]]]]
SETTING = ("data", "seconds", "open_loop", "judge")


@dataclass
class RealFloors:
    """Open-loop errors on ice, by how much ice was in the logs."""

    data: Path = Path("../shared/data/warthog_floors/warthog_floors.npz")
    out: Path = Path("runs/floors")
    ice: tuple[int, ...] = (4, 0, 14, 1)
    seeds: int = 3
    first_seed: int = 0
    seconds: float = 40.0
    """Of processor time to learn, for each model."""
    open_loop: int = 20
    """Rows that our model learns to foretell unseen (TrainerConfig)."""
    judge: Literal["test", "val"] = "test"
    """Which ice episodes are foretold; choices are made on val."""
    arms: tuple[Name, ...] = get_args(Name)


def main(options: RealFloors) -> None:
    prepare_cpu()
    torch.set_num_threads(1)
    logs = Logs.load(options.data)
    check_setting(options)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for ice in options.ice:
            one_part(options, logs, seed, ice)
    print(markdown(options.out, scales(logs)))


def check_setting(options: RealFloors) -> None:
    """What is kept in --out was made as is asked now."""
    setting = {name: str(value) for name, value in asdict(options).items() if name in SETTING}
    file = options.out / "setting.yaml"
    if not file.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(file, yaml.safe_dump(setting, sort_keys=False).encode())
    elif (before := yaml.safe_load(file.read_text())) != setting:
        raise UserError(f"{options.out} was made with {before}, not {setting}; give another --out")


def scales(logs: Logs) -> np.ndarray:
    """(3,) each channel's standard deviation over the other floors' training episodes: what an error counts by."""
    rows = logs.vector[(logs.split == "train") & (logs.floor != RARE)]
    return rows.reshape(-1, rows.shape[-1]).std(0)[:CHANNELS]


def hidden_factor(logs: Logs, train: np.ndarray) -> HiddenFactors:
    """Of the training episodes' sessions: whoever recorded knows that a session had one floor, and no more."""
    vector, action = logs.vector[train][..., :CHANNELS], logs.action[train]
    sessions = np.repeat(logs.session[train], vector.shape[1])
    return HiddenFactors.find(vector.reshape(-1, *vector.shape[2:]), action.reshape(-1, *action.shape[2:]), sessions)


def one_part(options: RealFloors, logs: Logs, seed: int, ice: int) -> None:
    """All arms on one draw of ice episodes; each arm's errors go to a file."""
    folder = options.out / f"seed-{seed}" / f"ice-{ice}"
    missing: list[Name] = [arm for arm in options.arms if not (folder / f"{arm}.json").exists()]
    if not missing:
        return
    train = logs.training(ice, seed)
    judged = np.flatnonzero((logs.split == options.judge) & (logs.floor == RARE))
    hidden = hidden_factor(logs, train)
    floor = {e: float(hidden.values[str(logs.session[e])][0]) for e in train}
    untold = logs.write(folder / "untold", train, judged, lambda _: {})
    told = logs.write(folder / "told", train, judged, lambda e: {FLOOR: floor[e]} if e in floor else {})
    given = next((value for e, value in floor.items() if logs.floor[e] == RARE), None)
    for arm in missing:
        torch.manual_seed(seed)
        foreteller = make(arm, untold, told, seed, options.open_loop)
        updates = learn(foreteller.update, options.seconds) if arm in LEARNS else 0
        cases = partial(conditions, hidden=hidden, given=given) if arm == "ours" else None
        errors, values = judge(arm, foreteller, told if arm == "ours" else untold, cases)
        found = {"updates": updates, "values": values, "errors": errors, "sessions": hidden_values(hidden)}
        write_atomically(folder / f"{arm}.json", json.dumps(found).encode())
        print(f"seed {seed}, {ice} of ice: {arm} done, {updates} updates", flush=True)


def judge(arm: Name, foreteller: Foreteller, reader: LogReader, cases: Cases | None) -> tuple[dict, dict]:
    """Errors by condition, without and with the correction that the added ice gave; and the values told."""
    context = foreteller.model.context if isinstance(foreteller, Imagining) else ContextSpec((), (), ())

    infos = [e["info"] for e in reader.episodes]

    def windows(split: str, *floors: str) -> tuple[Replay, Batch]:
        chosen = [i for i, e in enumerate(infos) if e["split"] == split and (not floors or e["floor"] in floors)]
        replay = Replay(reader, context, chosen)
        return replay, replay.whole(range(len(chosen)), WINDOW)

    def told_as(batch: Batch) -> tuple[dict[str, Batch], dict[str, list[float]]]:
        if cases is None or not isinstance(foreteller, Imagining):
            return {arm: batch}, {}
        return cases(foreteller, batch)

    _, batch = windows("test")
    here, values = told_as(batch)
    foretold = {name: foreteller.foretell(case) for name, case in here.items()}
    vectors = {name: one.vector for name, one in foretold.items()}
    if any(e["split"] == "train" and e["floor"] == RARE for e in infos):
        replay, usual = windows("train")
        _, few = windows("train", RARE)
        few = replace(few, labelled=torch.zeros_like(few.labelled))  # told of as little as what is judged
        for name, case in told_as(few)[0].items():
            correction = Correction(foreteller.foretell(case), few, usual, replay.statistics())
            values[f"{name} ridge"] = [correction.ridge]
            vectors[f"{name} corrected"] = correction(foretold[name], batch)
    return {name: errors_of(vector, batch) for name, vector in vectors.items()}, values


def hidden_values(hidden: HiddenFactors) -> dict[str, float]:
    return {name: round(float(value[0]), 3) for name, value in hidden.values.items()}


def conditions(
    ours: Imagining, batch: Batch, hidden: HiddenFactors, given: float | None
) -> tuple[dict[str, Batch], dict[str, list[float]]]:
    """What our model may be told of the floor, and the values so told."""
    past, context = first_second(batch), ours.model.context
    seen = past.vector[..., :CHANNELS].numpy(), commands(past, ours)
    values = {
        "motion": hidden.infer(*seen)[0][:, 0],
        "likelihood": by_likelihood(ours.model, past).numpy(),
        "head": by_head(ours.model, past).numpy(),
    }
    if given is not None:
        values["given"] = np.full(len(batch.vector), given)
    cases = {"unknown": batch} | {name: telling(context, batch, value) for name, value in values.items()}
    return cases, {name: [round(float(v), 3) for v in value] for name, value in values.items()}


def commands(past: Batch, ours: Imagining) -> np.ndarray:
    """(N, PAST, A) in the log's units and order, each beside the row that it follows; the last is not yet told."""
    replay = ours.trainer.replay
    led = past.action.numpy() * replay.action_scale + replay.action_centre
    return np.concatenate([led[:, 1:], led[:, -1:]], 1)


def errors_of(foretold: torch.Tensor, batch: Batch) -> list:
    """(N, horizons, channels) what is foretold less what came, in the channel's own units."""
    off = (foretold - batch.vector[:, PAST:])[:, [h - 1 for h in HORIZONS], :CHANNELS]
    return off.double().numpy().round(5).tolist()


def learn(update, seconds: float) -> int:
    began, updates = time.process_time(), 0
    while (progress := (time.process_time() - began) / seconds) < 1:
        update(progress)
        updates += 1
    return updates


if __name__ == "__main__":
    main(tyro.cli(RealFloors))
