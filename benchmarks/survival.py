"""The headline: who survives worlds that no log holds, and which part of the system does it; equal logs, equal time.

    python benchmarks/survival.py --task rover --seeds 5 --out runs/survival

Each seed records logs, learns one world model and one clone. From that clone every arm that dreams has the same hours
ahead, as the dream phase of a night less one part; the clone alone goes on cloning for as long. Time is processor time
on one thread, trials and audits included, so that what else the machine does matters little. Nothing but the logs is
learnt from. Steps that select or audit are counted as such, on seeds of their own; those of the tables are on seeds
used for nothing else. Finished parts are kept in --out, so an interrupted run goes on. Policies that
`simulator_ppo.py` trained with the same --out stand beside the others.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
import yaml

from configs import UserError, run_command
from dreaming.agent import View
from dreaming.clock import Budget, Place, Share
from dreaming.dreamphase import dream
from dreaming.evaluate import CellResult, evaluate
from dreaming.evening import clone, learn
from dreaming.night import Night
from dreaming.run import BEST, CLONE, NightConfig, RunFolder
from dreaming.scenario import load_scenarios
from dreaming.selection import SURVIVAL_SEEDS
from dreaming.statistics import interquartile_mean, stratified_bootstrap
from envs import registry
from envs.physics import PhysicsRange
from envs.record import ExpertPolicy, Policy, demonstrator, record
from envs.workers import Workers
from worldmodel.checkpoint import write_atomically
from worldmodel.lock import locked
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader, LogWriter

DEMONSTRATOR, CLONED = "demonstrator", "clone"
# What each arm that dreams does otherwise than a night; keys of NightConfig, with dots between.
OTHERWISE: dict[str, dict[str, Any]] = {
    "nominal": {"scenario": "nominal"},
    "untold": {"dream.told": False},
    "ungated": {"gate": False},
    "unselected": {"select": False},
    "fresh": {"dream.go_on": 0.0},
    "cut": {"dream.trust.cut": True},
    "penalised": {"dream.trust.penalty": 0.01},
    "searching": {"scenario": "search"},
    "whole": {},
}
SETTING = ("episodes", "learn_s", "clone_s", "dream_s", "trials", "view", "scenario", "table")
TITLES = {
    "nominal": "nominal dreams",
    "untold": "what-ifs untold",
    "ungated": "no trust gate",
    "unselected": "no selection",
    "fresh": "no dreams that go on",
    "cut": "whole, but cut where trust ends",
    "penalised": "whole, but disagreement costs",
    "searching": "whole, but finds its what-ifs",
}


@dataclass
class Survival:
    """Failure rates in PyBullet by world, of several policies over several seeds."""

    task: str = "push-box"
    seeds: int = 3
    first_seed: int = 0
    out: Path = Path("runs/survival")
    arms: str = ",".join((DEMONSTRATOR, CLONED, *OTHERWISE))
    episodes: int | None = None
    """Logs; as many as a night records, unless told otherwise."""
    learn_s: float = 200.0
    clone_s: float = 60.0
    dream_s: float = 150.0
    trials: int = 50
    view: View = "blind"
    scenario: str = "edge-cases"
    """What is dreamt."""
    table: str = "nominal,edge-cases"
    """The worlds that are tried."""

    def __post_init__(self) -> None:
        known = (DEMONSTRATOR, CLONED, *OTHERWISE)
        if unknown := set(self.arms.split(",")) - set(known):
            raise ValueError(f"unknown arms {', '.join(unknown)}; known: {', '.join(known)}")


class InOneProcess(Night):
    """All its work is this process's, whose time is counted."""

    one_process = True

    def _place(self, name: str) -> Place | None:
        """An arm goes on from where it was; one that only begins with the shared checkpoints is at its beginning."""
        return super()._place(name) if name in self.state.seconds else None


class Quiet:
    """Nobody watches these nights."""

    def phase(self, name: str, seconds: float) -> None: ...
    def progress(self, share: float, text: str) -> None: ...
    def metrics(self, phase: str, step: int, seconds: float, values: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


def logs(task: str, episodes: int, seed: int, folder: Path, ranges: PhysicsRange | None = None) -> LogReader:
    """What the demonstrator does there, with its usual noise and play; recorded if it has not been."""
    policy = demonstrator(task, seed)
    with LogWriter(folder, registry.schema(task)) as writer:
        if len(writer) < episodes:
            for episode in record(task, policy, episodes - len(writer), seed + 1000 * len(writer), ranges, processes=0):
                writer.append(episode)
    return LogReader(folder)


def changed(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of nested dataclasses with other values, as {"dream.told": False}."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        config = replace(config, **{first: changed(getattr(config, first), {rest: value}) if rest else value})
    return config


def night(config: NightConfig, folder: Path, phase: str, seconds: float) -> Night:
    """One phase of a night in that folder, or what is left of it."""
    run = RunFolder(folder)
    if not run.exists:
        run.create(config)
    budget = Budget(seconds - run.progress().seconds.get(phase, 0.0), [Share(phase, 1.0)], now=time.process_time)
    found = InOneProcess(config, run, budget, Quiet())
    work = {"learn": learn, "clone": clone, "dream": dream}
    found.phase(phase, work[phase])
    return found


def tried(options: Survival, policy: Policy) -> list[CellResult]:
    cells = [
        (s.name, label, physics)
        for s in load_scenarios(options.table, options.task)
        for label, physics in s.levels(options.task)
    ]
    with Workers(options.task, 25, processes=0) as workers:
        return evaluate(options.task, policy, cells, range(SURVIVAL_SEEDS, SURVIVAL_SEEDS + options.trials), workers)


def one_seed(options: Survival, seed: int) -> dict[str, list[dict]]:
    """Results by arm.

    Raises:
        UserError: another process is at work on this seed in --out.
    """
    folder = options.out / options.task / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _one_seed(options, seed, folder)


def _one_seed(options: Survival, seed: int, folder: Path) -> dict[str, list[dict]]:
    base = NightConfig.for_task(options.task)
    episodes = folder / "episodes"
    check_setting(options, folder / "setting.yaml")
    settings = changed(base, {"seed": seed, "scenario": options.scenario, "dream.view": options.view})
    settings = replace(settings, data=str(episodes.resolve()))
    logs(options.task, options.episodes or base.episodes, seed, episodes)
    night(settings, folder / "shared", "learn", options.learn_s)
    night(settings, folder / "shared", "clone", options.clone_s)
    results: dict[str, list[dict]] = {}
    for arm in options.arms.split(","):
        file = folder / f"{arm}.json"
        if not file.exists():
            cells = [cell.to_dict() for cell in tried(options, policy_of(arm, options, settings, folder))]
            write_atomically(file, json.dumps(cells).encode())
            print(f"seed {seed}: {arm} done", flush=True)
    for file in sorted(folder.glob("*.json")):
        results[file.stem] = json.loads(file.read_text())
    return results


def check_setting(options: Survival, file: Path) -> None:
    """What is kept in a seed's folder was made as is asked now."""
    setting = {name: value for name, value in asdict(options).items() if name in SETTING}
    if not file.exists():
        write_atomically(file, yaml.safe_dump(setting, sort_keys=False).encode())
    elif (before := yaml.safe_load(file.read_text())) != setting:
        raise UserError(f"{file.parent} was made with {before}, not {setting}; give another --out")


def policy_of(arm: str, options: Survival, settings: NightConfig, folder: Path) -> Policy:
    if arm == DEMONSTRATOR:
        return ExpertPolicy(options.task, settings.seed)
    run = folder / arm
    if not run.exists():
        aside = run.with_name(f"{arm}.copying")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(folder / "shared" / "checkpoints", aside / "checkpoints")
        aside.rename(run)
    if arm == CLONED:
        night(settings, run, "clone", options.dream_s)  # on top of the shared one
        return RunFolder(run).load_agent(CLONE)
    done = night(changed(settings, OTHERWISE[arm]), run, "dream", options.dream_s)
    state = done.state
    print(
        f"seed {settings.seed}: {arm}: {state.updates} updates, {state.imagined_steps:,} steps dreamt, "
        f"simulator steps {state.simulator_steps}, refused {sorted(state.refused)}",
        flush=True,
    )
    return RunFolder(run).load_agent(BEST)


# -- tables ------------------------------------------------------------------------------------------------------------


def interval(cells: Sequence[Sequence[float]], digits: int = 2) -> str:
    """Interquartile mean over cells and seeds with its 95% bootstrap interval; `cells` are values by seed."""
    low, high = stratified_bootstrap(cells)
    return f"{interquartile_mean(np.concatenate(cells)):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(found: list[dict[str, list[dict]]]) -> str:
    """By world and arm: the share of episodes that failed, its interval over seeds, and the mean return."""
    arms = [arm for arm in (DEMONSTRATOR, CLONED, *OTHERWISE) if all(arm in results for results in found)]
    arms += sorted(set.intersection(*(set(results) for results in found)) - set(arms))
    lines = ["| world | " + " | ".join(TITLES.get(arm, arm) for arm in arms) + " |", "|---" * (1 + len(arms)) + "|"]
    worlds = [CellResult.from_dict(cell) for cell in found[0][arms[0]]]
    cells = {arm: [[CellResult.from_dict(results[arm][i]) for results in found] for i in range(len(worlds))]
             for arm in arms}  # fmt: skip

    def row(title: str, which: Sequence[int]) -> None:
        texts = []
        for arm in arms:
            rates = interval([[cell.failure_rate for cell in cells[arm][i]] for i in which])
            returns = np.mean([cell.return_mean for i in which for cell in cells[arm][i]])
            texts.append(f"{rates} ({returns:,.0f})")
        lines.append(f"| {title} | " + " | ".join(texts) + " |")

    for i, world in enumerate(worlds):
        row(f"{world.scenario} {world.label}", [i])
    logged = [i for i, world in enumerate(worlds) if world.scenario == "nominal"]
    beyond = [i for i in range(len(worlds)) if i not in logged]
    hard = [i for i in beyond if np.mean([cell.failure_rate for cell in cells[arms[0]][i]]) > 0.5]
    for title, which in (("within the logs", logged), ("beyond them", beyond), (f"where {arms[0]} mostly fails", hard)):
        if which:
            row(f"*{title}*", which)
    return "\n".join(lines)


def main(options: Survival) -> None:
    prepare_cpu()
    torch.set_num_threads(1)
    found = [one_seed(options, seed) for seed in range(options.first_seed, options.first_seed + options.seeds)]
    played = sum(int(np.sum(cell["lengths"])) for results in found for cells in results.values() for cell in cells)
    print(f"\n{options.task}, view {options.view}, {options.seeds} seeds, {options.trials} trials a world\n")
    print(f"{markdown(found)}\n")
    print(f"simulator steps: logs {_logged(options):,}, learning elsewhere 0, for this table {played:,}")


def _logged(options: Survival) -> int:
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    readers = (LogReader(options.out / options.task / f"seed-{seed}" / "episodes") for seed in seeds)
    return sum(episode["length"] for reader in readers for episode in reader.episodes)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(Survival)))
