"""Are imagined falls the true ones? Recall, precision and F1 against PyBullet by scenario, of several ways to call one.

    python benchmarks/falls.py --runs runs/survival/rover/seed-0/whole --policies clone,best

Of each run, a night's or an arm's of `survival.py`, each policy dreams from held-out states, in its logs' worlds and in
what-ifs, and every dream is repeated in PyBullet. A dream falls, by

 - `half`: where the continuation drops below a half;
 - `level`: where it drops below the level that was best on dreams of held-out logs' own commands;
 - `adds up`: where the chance of having gone on so far, the product of continuations, drops below a half;
 - `rule`: where the dreamt observation is one at which the task ends;
 - `either`: by `half` or by `rule`, as an audit calls it.

Beside them stands `kicked`: PyBullet itself under the same commands, its start kicked by a hundredth of each channel's
standard deviation. Commands that were given in a dream are given blindly, and where those of a kicked simulator fall
apart from its own, no dream can do better.

Nothing is learnt from the simulator: its steps here are an audit's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from atlas import POLICIES

from dreaming.audit_report import Falls
from dreaming.auditing import Auditor
from dreaming.comparison import FALL_HORIZONS, Comparison
from dreaming.rehearsal import replayed_logs
from dreaming.run import RunFolder
from dreaming.scenario import LOGGED, load_scenarios
from dreaming.selection import AUDIT_SEEDS
from dreaming.truth import Dream, Truth, from_log, simulate
from envs import registry
from envs.workers import Workers
from worldmodel.lessons import held_out_of
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

SEED, KICK = AUDIT_SEEDS + 700_000, 1e-2
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
Call = Callable[[Dream], np.ndarray]  # at which steps (H,) a dream is over


@dataclass
class Options:
    """F1 of imagined falls, within 15, 50 and 100 steps and within the trust horizon."""

    runs: list[Path]
    policies: str = "clone,best"
    scenarios: str = "edge-cases"
    dreams: int = 40
    """In each scenario."""
    horizon: int = 100
    logged: int = 200
    """Dreams of held-out logs' own commands, on which `level` is settled."""


def calls(task: str, level: float) -> dict[str, Call]:
    rule = registry.task_class(task).ended
    return {
        "half": lambda dream: dream.continuation < 0.5,
        "level": lambda dream: dream.continuation < level,
        "adds up": lambda dream: np.cumprod(dream.continuation) < 0.5,
        "rule": lambda dream: rule(dream.observation[1:]),
        "either": lambda dream: (dream.continuation < 0.5) | rule(dream.observation[1:]),
    }


def called(dream: Dream, over: np.ndarray) -> Dream:
    """The dream with a continuation that says nothing but where it is over, (H,) of bool."""
    return replace(dream, continuation=np.where(over, 0.0, 1.0))


def falls_at(truth: Truth) -> np.ndarray:
    """(H,): the step at which it truly fell."""
    return truth.fell & (np.arange(1, len(truth.reward) + 1) == truth.steps)


def counted(dreams: Sequence[Dream], truths: Sequence[Truth]) -> dict[str, Falls | None]:
    """By horizon, in words; of dreams that are over where their continuation says so."""
    known = [i for i, truth in enumerate(truths) if not truth.unknown]
    if not known:
        return {}
    std = np.ones(dreams[0].observation.shape[1])
    told = Comparison([dreams[i] for i in known], [truths[i] for i in known], [[] for _ in known], std)
    found = told.judge("", [])
    by = {str(falls.horizon): falls for falls in found.falls if falls.horizon in FALL_HORIZONS}
    return {**by, "trusted": found.falls_within_trust}


def best_level(dreams: Sequence[Dream], truths: Sequence[Truth]) -> float:
    """Of LEVELS, the one with the highest F1 over the whole of these dreams; of equals the nearest to a half."""

    def worth(level: float) -> tuple[float, float]:
        std = np.ones(dreams[0].observation.shape[1])
        told = [called(dream, dream.continuation < level) for dream in dreams]
        falls = Comparison(told, truths, [[] for _ in told], std).judge("", []).falls[-1]
        return falls.f1 or 0.0, -abs(level - 0.5)

    return max(LEVELS, key=worth)


def one_policy(folder: Path, policy: str, options: Options) -> None:
    run = RunFolder(folder)
    config, agent = run.config(), run.load_agent(POLICIES[policy])
    task, reader = config.task, LogReader(run.logs(config))
    held_out = held_out_of(reader, agent.model.context)
    hz, nominal = float(reader.schema["control_hz"]), registry.nominal(task)
    horizon = min(options.horizon, registry.task_class(task).max_steps)
    logged = replayed_logs(agent.model, held_out, hz, options.logged, min(50, horizon // 2), SEED)
    level = best_level(logged, [from_log(dream, reader) for dream in logged])
    scenarios = [s for s in load_scenarios(options.scenarios, task)
                 if all(agent.model.context.covers(f) for f in s.factors(task))]  # fmt: skip
    auditor = Auditor(task, agent.model, agent.actor, agent.actor.view, held_out, nominal, hz)
    dreams = auditor.dreams([LOGGED, *scenarios], options.dreams, horizon, SEED)
    with Workers(task, 16, processes=0) as workers:
        runs = simulate(dreams, reader, workers, KICK * agent.model.std.numpy(), replicas=1)
        steps = workers.steps
    truths = [truth for truth, _ in runs]
    ways = {w: [called(d, call(d)) for d in dreams] for w, call in calls(task, level).items()}
    ways["kicked"] = [called(dream, falls_at(kicked)) for dream, (_, kicked) in zip(dreams, runs, strict=True)]
    lost = sum(bool(truth.unknown) for truth in truths)
    print(f"\n{folder}: {policy}, {len(dreams)} dreams of {horizon} steps, level {level}, {steps:,} simulator steps "
          f"(audit), {lost} dreams not repeated\n")  # fmt: skip
    print(markdown(ways, truths), flush=True)


def markdown(ways: dict[str, list[Dream]], truths: Sequence[Truth]) -> str:
    """Of each way the dreams as it calls them."""
    dreams = next(iter(ways.values()))
    names = list(dict.fromkeys(dream.scenario for dream in dreams))
    lines = ["| scenario | within | true falls | " + " | ".join(ways) + " |", "|---" * (3 + len(ways)) + "|"]
    for name in ["all", *names]:
        mine = [i for i, dream in enumerate(dreams) if name in ("all", dream.scenario)]
        found = {way: counted([told[i] for i in mine], [truths[i] for i in mine]) for way, told in ways.items()}
        for horizon, falls in next(iter(found.values())).items():
            if falls is None:
                continue
            true = f"{falls.hits + falls.missed} of {falls.hits + falls.missed + falls.false_alarms + falls.neither}"
            scores = " | ".join(_text(by[horizon]) for by in found.values())
            lines.append(f"| {name} | {horizon} | {true} | {scores} |")
    return "\n".join(lines)


def _text(falls: Falls | None) -> str:
    """F1 (precision, recall)."""
    numbers = (falls.f1, falls.precision, falls.recall) if falls else (None,) * 3
    f1, precision, recall = ("–" if number is None else f"{number:.2f}" for number in numbers)
    return f"{f1} ({precision}, {recall})"


def main(options: Options) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    for folder in options.runs:
        for policy in options.policies.split(","):
            one_policy(folder, policy, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
