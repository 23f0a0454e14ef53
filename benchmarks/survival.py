"""Who survives worlds that no log holds: demonstrator, clone, nominal dreams, what-if dreams; equal logs, equal time.

    python benchmarks/survival.py --task push-box --seeds 3 --out runs/survival

Each seed records logs, learns one world model and one clone; the two dreaming arms start from that clone and get the
same time. Nothing but the logs is learnt from, and no policy is selected in the simulator: what is played there for the
table is counted as `survival`. Finished parts are kept in --out, so an interrupted run goes on. With `--view estimate`
the policies also see what the model makes of their physics; logs and model are those of the blind run in that --out.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from configs import from_dict, packaged
from dreaming.agent import View
from dreaming.evaluate import CellResult, evaluate
from dreaming.learning import DreamLearner
from dreaming.run import NightConfig
from dreaming.scenario import Scenario, load_scenarios
from dreaming.selection import SURVIVAL_SEEDS
from dreaming.statistics import wilson
from envs import registry
from envs.physics import PhysicsRange
from envs.record import ExpertPolicy, Policy, demonstrator, record
from envs.workers import Workers
from worldmodel.checkpoint import write_atomically
from worldmodel.model import ModelConfig
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader, LogWriter
from worldmodel.trainer import Trainer, TrainerConfig, train

ARMS = ("demonstrator", "clone", "nominal dreams", "what-if dreams")


@dataclass
class Survival:
    """Failure rates in PyBullet by scenario, of four policies over several seeds."""

    task: str = "push-box"
    seeds: int = 3
    first_seed: int = 0
    out: Path = Path("runs/survival")
    episodes: int = 1200
    learn_s: float = 200.0
    clone_s: float = 90.0
    dream_s: float = 150.0
    trials: int = 50
    view: View = "blind"
    scenario: str = "slippery"
    """What the fourth arm dreams."""
    table: str = "nominal,edge-cases"
    """The worlds that are tried."""


def logs(task: str, episodes: int, seed: int, folder: Path, ranges: PhysicsRange | None = None) -> LogReader:
    """What the demonstrator does there, with its usual noise and play; recorded if it has not been."""
    policy = demonstrator(task, seed)
    with LogWriter(folder, registry.schema(task)) as writer:
        if len(writer) < episodes:
            for episode in record(task, policy, episodes - len(writer), seed + 1000 * len(writer), ranges, processes=0):
                writer.append(episode)
    return LogReader(folder)


def learn(options: Survival, reader: LogReader, seed: int, folder: Path) -> Trainer:
    size = from_dict(ModelConfig, packaged("sizes", "laptop"), "size laptop")
    trainer = Trainer(reader, size, TrainerConfig(), seed)
    if list(folder.glob("world-model-*.pt")):
        trainer.restore(folder)
        return trainer
    begun = time.process_time()
    train(trainer, lambda: (time.process_time() - begun) / options.learn_s)
    trainer.save(folder)
    return trainer


def dreamable(name: str, options: Survival, trainer: Trainer) -> list[Scenario]:
    context = trainer.model.context
    return [s for s in load_scenarios(name, options.task) if all(context.covers(f) for f in s.factors(options.task))]


def dreamer(options: Survival, trainer: Trainer, scenarios: list[Scenario], seed: int) -> DreamLearner:
    nominal, hz = registry.nominal(options.task), float(trainer.reader.schema["control_hz"])
    config = replace(NightConfig.for_task(options.task).dream, view=options.view)
    torch.manual_seed(seed)
    return DreamLearner(trainer.model, trainer.replay, options.task, nominal, scenarios, hz, config, seed)


def tried(options: Survival, policy: Policy) -> list[CellResult]:
    cells = [
        (s.name, label, physics)
        for s in load_scenarios(options.table, options.task)
        for label, physics in s.levels(options.task)
    ]
    with Workers(options.task, 25, processes=0) as workers:
        return evaluate(options.task, policy, cells, range(SURVIVAL_SEEDS, SURVIVAL_SEEDS + options.trials), workers)


def one_seed(options: Survival, seed: int) -> dict[str, list[dict]]:
    folder = options.out / options.task / f"seed-{seed}"
    file = folder / ("results.json" if options.view == "blind" else f"results-{options.view}.json")
    results = json.loads(file.read_text()) if file.exists() else {}

    def keep(arm: str, policy: Policy) -> None:
        results[arm] = [cell.to_dict() for cell in tried(options, policy)]
        write_atomically(file, json.dumps(results).encode())
        print(f"seed {seed}: {arm} done", flush=True)

    if set(ARMS) <= set(results):
        return results
    reader = logs(options.task, options.episodes, seed, folder / "episodes")
    trainer = learn(options, reader, seed, folder / "checkpoints")
    start = dreamer(options, trainer, [], seed)
    begun = time.process_time()
    while (share := (time.process_time() - begun) / options.clone_s) < 1:
        start.clone(share)
    keep("demonstrator", ExpertPolicy(options.task, seed))
    keep("clone", start.agent())
    cloned = start.state_dict()
    for arm, scenarios in (("nominal dreams", []), ("what-if dreams", dreamable(options.scenario, options, trainer))):
        learner = dreamer(options, trainer, scenarios, seed)
        learner.load_state_dict(cloned)
        begun = time.process_time()
        while (share := (time.process_time() - begun) / options.dream_s) < 1:
            learner.dream(share)
        print(f"seed {seed}: {arm}: {learner.updates} updates, {learner.imagined_steps:,} steps dreamt", flush=True)
        keep(arm, learner.agent())
    return results


def markdown(found: list[dict[str, list[dict]]]) -> str:
    """Failure rate (lost over the edge or fallen), pooled over seeds with its 95% Wilson interval."""
    lines = ["| world | " + " | ".join(ARMS) + " |", "|---" * (1 + len(ARMS)) + "|"]
    for i, first in enumerate(found[0][ARMS[0]]):
        row = [f"{first['scenario']} {first['label']}"]
        for arm in ARMS:
            cells = [CellResult.from_dict(results[arm][i]) for results in found]
            n, failed, lost = (sum(getattr(c, key) for c in cells) for key in ("episodes", "failures", "lost"))
            low, high = wilson(failed, n)
            row.append(f"{failed / n:.2f} [{low:.2f}, {high:.2f}] ({lost / n:.2f})")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(options: Survival) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    found = [one_seed(options, seed) for seed in range(options.first_seed, options.first_seed + options.seeds)]
    logged = [json.loads(line)["length"] for line in _index(options)]
    played = sum(int(np.sum(cell["lengths"])) for results in found for cells in results.values() for cell in cells)
    print(f"\n{options.task}, view {options.view}, {options.seeds} seeds, {options.trials} trials a cell\n")
    print(f"{markdown(found)}\n")
    print(f"simulator steps: logs {sum(logged):,}, learning elsewhere 0, selection 0, survival {played:,}")


def _index(options: Survival) -> list[str]:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    files = (options.out / options.task / f"seed-{seed}" / "episodes" / "episodes.jsonl" for seed in seeds)
    return [line for file in files for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main(tyro.cli(Survival))
