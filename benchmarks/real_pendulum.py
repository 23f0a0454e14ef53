"""Log, simulator and world model of one machine: DFKI's double pendulum, on held-out trajectories, by horizon.

    python benchmarks/real_pendulum.py --out runs/real-pendulum

The simulator is the machine's own URDF in PyBullet, thrice: as it is shipped; with its inertias read about the joints,
as the identified parameters mean them; and with friction besides, found on the first minute of logs. World models learn
from 1, 3 and 8 minutes of logs of one design; from rollouts of that simulator; from both at once; or from the simulator
first and then from the logs, as `train-world-model --init-from` does, which rehearses the former. Every model has the
same processor time, the last one divided between its two parts.

Whatever is done is kept in --out; the same command goes on from there. Models of 1 minute have seen no more: the
simulator is started in states of that minute, and driven by its commands.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from configs import UserError, from_dict, packaged
from dreaming.statistics import stratified_bootstrap
from envs.machine import JointFriction, Machine
from worldmodel import checkpoint
from worldmodel.checkpoint import write_atomically
from worldmodel.context import ContextSpec
from worldmodel.episode import Episode
from worldmodel.evaluation import imagined
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.replay import Replay
from worldmodel.saved import NAME, load_model
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader, LogWriter, make_schema
from worldmodel.trainer import Trainer, TrainerConfig

NAMES, ACTIONS = ["q1_rad", "q2_rad", "dq1_rad_s", "dq2_rad_s"], ["tau1_Nm", "tau2_Nm"]
DT_S = 0.01
HORIZONS = (1, 5, 10, 25, 50)
WARMUP = 10
ROLLOUT = 200  # steps of a simulated episode
SAVE_EVERY_S = 10.0  # of processor time
SHIPPED, IDENTIFIED, RUBBING = "simulator, URDF as shipped", "simulator, identified", "simulator, friction fitted"


@dataclass
class Pendulum:
    """The double pendulum's logs beside its simulator beside world models."""

    out: Path
    """Folder for logs, models and parts; an earlier one is gone on with."""
    data: Path = Path("../shared/data/double_pendulum")
    design: str = "C.1"
    urdf: Path = Path("original/data/system_identification/identified_parameters/design_C.1/model_1.1/pendubot.urdf")
    """Within --data."""
    minutes: list[float] = field(default_factory=lambda: [1.0, 3.0, 8.0])
    """Of real logs, each with those before; the simulator is driven by the first."""
    simulated: float = 8.0
    """Minutes of the simulator's rollouts."""
    seeds: int = 3
    seconds: float = 60.0
    """Processor time of every model."""
    size: str = "laptop"
    starts: int = 300
    """Held-out moments to foretell from."""


@dataclass
class Trajectory:
    kind: str
    split: str
    observed: np.ndarray  # (T + 1, 4)
    torque: np.ndarray  # (T, 2)


def trajectories(options: Pendulum) -> list[Trajectory]:
    path = options.data / "double_pendulum_real.npz"
    if not path.exists():
        raise UserError(f"{path} is missing; give --data, the folder of the double pendulum's logs")
    held = np.load(path)
    found = []
    for i in np.flatnonzero(held["context"] == options.design):
        rows = slice(held["ep_start"][i], held["ep_start"][i] + held["ep_len"][i])
        kind, split = str(held["kind"][i]), str(held["split"][i])
        found.append(Trajectory(kind, split, held["obs"][rows], held["action"][rows][:-1]))
    return found


def first_minutes(every: list[Trajectory], minutes: float, seed: int) -> list[Trajectory]:
    """Training trajectories until there are so many minutes, the last one cut; kinds take turns. More hold fewer."""
    rng = np.random.default_rng(seed)
    by_kind: dict[str, list[Trajectory]] = {}
    train = [one for one in every if one.split == "train"]
    for i in rng.permutation(len(train)):
        by_kind.setdefault(train[i].kind, []).append(train[i])
    turns = [one for turn in range(len(train)) for kind in sorted(by_kind) for one in by_kind[kind][turn : turn + 1]]
    left, chosen = round(minutes * 60 / DT_S), []
    for one in turns:
        steps = min(left, len(one.torque))
        if steps >= 2:
            chosen.append(Trajectory(one.kind, one.split, one.observed[: steps + 1], one.torque[:steps]))
        left -= steps
    return chosen


def friction(urdf: Path, logs: list[Trajectory], std: np.ndarray, seed: int) -> list[JointFriction]:
    """Coulomb friction of each joint, and viscous of both: those that foretell these logs best, 250 ms ahead.

    Found by trying one after another, twice. Inverse dynamics would be quicker, but speeds are so noisy at 100 Hz that
    they hide it.
    """
    rng = np.random.default_rng([seed, 2])
    ahead = HORIZONS[3]
    long = [one for one in logs if len(one.torque) > ahead]
    moments = []
    while len(moments) < 150:
        one = long[int(rng.integers(len(long)))]
        start = int(rng.integers(0, len(one.torque) - ahead))
        if moves(one.observed[start]):
            moments.append(
                (one.observed[start : start + ahead + 1].astype(np.float64), one.torque[start : start + ahead])
            )

    def error(tried: list[float]) -> float:
        machine = Machine(urdf, DT_S, rubbing(tried), inertia_about="joint", substeps=10)
        off = [machine.rollout(o[0, :2], o[0, 2:], u)[-1] - o[-1] for o, u in moments]
        return float(np.median(np.sqrt(np.mean((np.stack(off) / std) ** 2, -1))))

    best = [0.1, 0.1, 0.0]  # Nm, Nm, Nm s/rad
    for _ in range(2):
        for k, choices in enumerate([(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)] * 2 + [(0.0, 0.005, 0.01, 0.02, 0.04)]):
            best[k] = min(choices, key=lambda x: error([*best[:k], x, *best[k + 1 :]]))  # noqa: B023 (used at once)
    return rubbing(best)


def rubbing(found: list[float]) -> list[JointFriction]:
    return [JointFriction(found[2], coulomb) for coulomb in found[:2]]


def moves(observed: np.ndarray) -> np.ndarray:
    """Whether the machine is in motion (..., 4): a joint turns at 1 rad/s or more. A third of the logs only balance."""
    return np.abs(observed[..., 2:]).max(-1) >= 1.0


def simulated(machine: Machine, logs: list[Trajectory], minutes: float, seed: int) -> list[Trajectory]:
    """Rollouts from logged states in motion, half of them under that moment's commands, half under another's."""
    rng = np.random.default_rng([seed, 1])
    long = [o for o in logs if len(o.torque) > ROLLOUT and moves(o.observed[: len(o.torque) - ROLLOUT]).any()]
    share = np.array([len(one.torque) for one in long], np.float64)
    made = []
    for n in range(round(minutes * 60 / DT_S / ROLLOUT)):
        one, other = (long[i] for i in rng.choice(len(long), 2, p=share / share.sum()))
        start = int(rng.choice(np.flatnonzero(moves(one.observed[: len(one.torque) - ROLLOUT]))))
        if n % 2:
            torque = one.torque[start : start + ROLLOUT]
        else:
            begin = int(rng.integers(0, len(other.torque) - ROLLOUT))
            torque = other.torque[begin : begin + ROLLOUT]
        state = one.observed[start].astype(np.float64)
        rows = machine.rollout(state[:2], state[2:], torque)
        made.append(Trajectory("simulator", "test" if n % 10 == 9 else "train", rows.astype(np.float32), torque))
    return made


def logged(folder: Path, parts: list[Trajectory], bound: float) -> LogReader:
    """A log folder of these trajectories, made once. All have the same bound on torques, Nm."""
    if not (folder / "done").exists():
        schema = make_schema("double-pendulum", 1 / DT_S, NAMES, ACTIONS, [-bound] * 2, [bound] * 2)
        with LogWriter(folder, schema, sync=False) as writer:
            for one in parts[len(writer) :]:
                nothing = np.zeros(len(one.torque), np.float32)
                info = {"split": one.split, "kind": one.kind, "reward": "none"}
                observation = {"vector": one.observed}
                episode = Episode(observation, one.torque, one.torque, nothing, nothing, False, True, info=info)
                writer.append(episode)
        (folder / "done").touch()
    return LogReader(folder)


# -- models ----------------------------------------------------------------------------------------------------------


def learnt(folder: Path, logs: Path, seconds: float, seed: int, size: str, start: tuple[Path, Path] | None = None,
           rehearsal: float = TrainerConfig.rehearsal) -> Path:  # fmt: skip
    """Checkpoints of a model that learnt for so long.

    Args:
        start: checkpoints and logs of the model that it begins as.
    """
    if (folder / "done").exists():
        return folder
    shape = from_dict(ModelConfig, packaged("sizes", size), f"size {size}")
    trainer = Trainer(LogReader(logs), shape, TrainerConfig(ensemble=0, rehearsal=rehearsal), seed)
    spent, note = 0.0, folder / "spent.json"
    if note.exists() and checkpoint.exists(folder, NAME):
        trainer.restore(folder)
        spent = float(json.loads(note.read_text()))
    elif start:
        trainer.start_from(start[0], [str(start[1])])
    begun, saved = time.process_time() - spent, spent
    while (spent := time.process_time() - begun) < seconds:
        trainer.update(spent / seconds)
        if spent - saved > SAVE_EVERY_S:
            trainer.save(folder)
            write_atomically(note, json.dumps(spent).encode())
            saved = spent
    trainer.save(folder)
    write_atomically(folder / "done", str(trainer.steps).encode())
    return folder


# -- judging ---------------------------------------------------------------------------------------------------------


class HeldOut:
    """Held-out moments in motion, the same for all that foretell; errors in rad, rad/s, and shares of `std`."""

    def __init__(self, reader: LogReader, std: np.ndarray, starts: int) -> None:
        self.reader, self.std, self.starts = reader, std, starts

    def batch(self, model: WorldModel | None = None):
        replay = Replay(self.reader, model.context if model else ContextSpec((), (), ()))
        rows = np.cumsum(replay.length + 1)
        span = WARMUP + HORIZONS[-1]
        here = replay.reader.rows["vector"]
        within = np.arange(len(here)) + span <= np.repeat(rows, replay.length + 1)
        first = np.flatnonzero(within & np.roll(moves(here), 1 - WARMUP))
        count = min(self.starts, len(first))  # a short log has fewer
        at = np.random.default_rng(0).choice(first, count, replace=False)[:, None] + np.arange(span)
        return replay.gather(at), replay

    def errors(self, guess: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
        """By horizon the median over starts of the root mean square over channels; a mean would be that of a few."""
        off = (guess - truth)[:, [h - 1 for h in HORIZONS]]

        def middle(x: np.ndarray) -> list[float]:
            return np.median(np.sqrt((x**2).mean(-1)), 0).tolist()

        return {"rad": middle(off[..., :2]), "rad/s": middle(off[..., 2:]), "sd": middle(off / self.std)}

    def of_model(self, folder: Path) -> dict[str, list[float]]:
        model, _ = load_model(folder)
        batch, _ = self.batch(model)
        guess, truth = imagined(model, batch, WARMUP, seed=0)
        return self.errors(guess.numpy(), truth.numpy())

    def of_persistence(self) -> dict[str, list[float]]:
        vector = self.batch()[0].vector.numpy()
        return self.errors(np.repeat(vector[:, WARMUP - 1 : WARMUP], HORIZONS[-1], 1), vector[:, WARMUP:])

    def of_machine(self, machine: Machine) -> dict[str, list[float]]:
        batch, replay = self.batch()
        vector: Tensor = batch.vector
        torque = (batch.action * torch.from_numpy(replay.action_scale) + torch.from_numpy(replay.action_centre)).numpy()
        state = vector[:, WARMUP - 1].numpy().astype(np.float64)
        rows = [
            machine.rollout(q[:2], q[2:], commands)[1:] for q, commands in zip(state, torque[:, WARMUP:], strict=True)
        ]
        return self.errors(np.stack(rows), vector[:, WARMUP:].numpy())


def one_seed(options: Pendulum, every: list[Trajectory], seed: int) -> dict[str, Any]:
    """Errors of everything, {"real": {name: ...}, "old": {name: ...}}; as far as done before, read."""
    out = options.out / f"seed-{seed}"
    file = out / "errors.json"
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"real": {}, "old": {}}

    train = [one for one in every if one.split == "train"]
    bound = float(max(np.abs(one.torque).max() for one in train))
    std = np.concatenate([one.observed for one in train]).std(0)
    tests = [one for one in every if one.split == "test"]
    urdf = options.data / options.urdf
    few = first_minutes(every, options.minutes[0], seed)
    bare = Machine(urdf, DT_S, inertia_about="joint")
    if "friction" not in found:
        found["friction"] = [[one.damping, one.coulomb] for one in friction(urdf, few, std, seed)]
    rubs = [JointFriction(*one) for one in found["friction"]]
    machine = Machine(urdf, DT_S, rubs, inertia_about="joint")

    real = HeldOut(logged(out / "logs" / "test", tests, bound), std, options.starts)
    rollouts = simulated(machine, few, options.simulated, seed)
    sim = logged(out / "logs" / "simulator", rollouts, bound).folder
    unseen = [one for one in rollouts if one.split == "test"]
    old = HeldOut(logged(out / "logs" / "simulator-test", unseen, bound), std, options.starts)

    def note(where: str, name: str, make) -> None:
        if name not in found[where]:
            found[where][name] = make()
            write_atomically(file, json.dumps(found).encode())
            print(f"seed {seed}, {where}: {name} {' '.join(f'{x:.3f}' for x in found[where][name]['sd'])}", flush=True)

    note("real", "persistence", real.of_persistence)
    note("real", SHIPPED, lambda: real.of_machine(Machine(urdf, DT_S)))
    note("real", IDENTIFIED, lambda: real.of_machine(bare))
    note("real", RUBBING, lambda: real.of_machine(machine))
    note("old", "persistence", old.of_persistence)

    def judge(name: str, folder: Path) -> None:
        note("real", name, lambda: real.of_model(folder))
        note("old", name, lambda: old.of_model(folder))

    models, whole, half = out / "models", options.seconds, options.seconds / 2
    size = options.size
    base = learnt(models / "simulator-half", sim, half, seed, size)
    judge("simulator alone, half the time", base)
    for minutes in options.minutes:
        some, told = first_minutes(every, minutes, seed), f"{minutes:g} min"
        held_out = [one for one in every if one.split == "val"]
        logs = logged(out / "logs" / f"real-{minutes:g}", [*some, *held_out], bound).folder
        both = logged(out / "logs" / f"both-{minutes:g}", [*some, *held_out, *rollouts], bound).folder
        judge(f"real alone, {told}", learnt(models / f"real-{minutes:g}", logs, whole, seed, size))
        tuned = learnt(models / f"tuned-{minutes:g}", logs, half, seed, size, (base, sim))
        judge(f"simulator, then real, {told}", tuned)
        judge(f"both at once, {told}", learnt(models / f"both-{minutes:g}", both, whole, seed, size))
    judge("simulator alone", learnt(models / "simulator", sim, whole, seed, size))
    middle = options.minutes[len(options.minutes) // 2]
    logs = out / "logs" / f"real-{middle:g}"
    careless = learnt(models / "careless", logs, half, seed, size, (base, sim), rehearsal=0.0)
    judge(f"simulator, then real, {middle:g} min, none rehearsed", careless)
    return found


def markdown(found: list[dict[str, Any]], where: str, unit: str) -> str:
    """Mean over seeds by horizon; at the last horizon with a 95% bootstrap interval over seeds."""
    heads = [f"{h * DT_S * 1000:g} ms" for h in HORIZONS]
    lines = ["| | " + " | ".join(heads) + " | 95% at the last |", "|---" * (2 + len(heads)) + "|"]
    names = [name for name in found[0][where] if all(name in one[where] for one in found)]
    for name in names:
        values = np.array([one[where][name][unit] for one in found])  # (seeds, horizons)
        low, high = stratified_bootstrap([values[:, -1]])
        cells = " | ".join(f"{x:.3f}" for x in values.mean(0))
        lines.append(f"| {name} | {cells} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def main(options: Pendulum) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    setting = {k: str(v) for k, v in vars(options).items() if k not in ("out", "seeds", "data")}
    said = options.out / "setting.json"
    if said.exists() and json.loads(said.read_text()) != setting:
        raise UserError(f"{options.out} holds parts made with {said.read_text()}; give another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(said, json.dumps(setting).encode())
    every = trajectories(options)
    found = [one_seed(options, every, seed) for seed in range(options.seeds)]
    for where, of in (("real", "held-out real trajectories"), ("old", "the simulator's held-out rollouts")):
        for unit in ("sd", "rad", "rad/s"):
            print(f"\n{of}, error in {unit}, mean of {len(found)} seeds\n\n{markdown(found, where, unit)}")
    frictions = [one["friction"] for one in found]
    print(f"\nviscous (Nm s/rad) and Coulomb friction (Nm) of the joints, by seed: {frictions}")


if __name__ == "__main__":
    main(tyro.cli(Pendulum))
