"""The pictures of docs/concepts.md, drawn from a rover's run; nothing in them is chosen by hand.

python benchmarks/survival.py --task rover --seeds 1 --first-seed 2 --arms whole --scenario slippery --dream-s 240
python benchmarks/pictures.py --run runs/survival/rover/seed-2/whole --out docs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreaming.agent import Agent
from dreaming.atlas import dreamt_failures
from dreaming.audit import Dream
from dreaming.clock import allot
from dreaming.evaluate import evaluate
from dreaming.night import SHARES
from dreaming.rehearsal import rehearse
from dreaming.run import BEST, CLONE, RunFolder
from dreaming.scenario import LOGGED, Scenario
from dreaming.selection import AUDIT_SEEDS, SURVIVAL_SEEDS
from dreaming.truth import Truth, simulate
from envs import registry
from envs.tasks.rover import HALF_WIDTH_M
from envs.workers import Workers
from worldmodel.lessons import held_out_of
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

TASK = "rover"
FLOORS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)
DREAMT, TRUE, SOFT, LIMIT = "#c2410c", "#0b68b0", "#c9cdd4", "#1b1d21"


@dataclass
class Options:
    run: Path
    """An arm of `survival.py`, or a night of the rover."""
    out: Path = Path("docs")
    count: int = 48
    """Dreams, and episodes, of each world."""


class Subject:
    """A run's policies and the episodes that its model never saw."""

    def __init__(self, path: Path) -> None:
        run = RunFolder(path)
        self.config = run.config()
        self.clone, self.dreamer = run.load_agent(CLONE), run.load_agent(BEST)
        self.reader = LogReader(run.logs(self.config))
        self.held_out = held_out_of(self.reader, self.dreamer.model.context)
        self.nominal = registry.nominal(TASK)
        self.hz = float(self.reader.schema["control_hz"])

    def dreams(self, agent: Agent, scenario: Scenario, count: int, horizon: int, seed: int, start: bool) -> list[Dream]:
        found: list[Dream] = []
        for number in range(count):
            found += rehearse(
                agent.model, agent.actor, self.config.dream.view, self.held_out, TASK, scenario, self.nominal, self.hz,
                1, horizon, seed + number, start,
            )  # fmt: skip
        return found


def floor(friction: float) -> Scenario:
    return Scenario(f"friction {friction:g}", "One floor.", {TASK: {"floor_friction": friction}})


def figure(width: float, height: float, columns: int):
    made = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made, np.atleast_1d(made.subplots(1, columns))


def path_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres along the lane and to its left."""
    return registry.task_class(TASK).travelled(vectors), vectors[:, 0]


def scenario_picture(subject: Subject, workers: Workers, path: Path) -> None:
    """One start and one policy, floor by floor: dreamt, and what the same commands truly lead to."""
    floors = (0.8, 0.4, 0.25)
    made, panels = figure(11.0, 2.6, len(floors))
    for axes, friction in zip(panels, floors, strict=True):
        (dream,) = subject.dreams(subject.clone, floor(friction), 1, 100, AUDIT_SEEDS + 300_000, True)
        ((truth,),) = simulate([dream], subject.reader, workers)
        for edge in (-HALF_WIDTH_M, HALF_WIDTH_M):
            axes.axhline(edge, color=LIMIT, linewidth=1.2)
        ended = np.flatnonzero(dream.continuation < 0.5)
        dreamt = dream.observation[: int(ended[0]) + 2] if len(ended) else dream.observation
        for vectors, colour, style, label, over in (
            (dreamt, DREAMT, "-", "dreamt", bool(len(ended))),
            (truth.lived, TRUE, "--", "PyBullet", truth.fell),
        ):
            along, left = path_of(vectors)
            axes.plot(along, left, style, color=colour, label=label)
            axes.plot(along[-1], left[-1], "X" if over else ">", color=colour, markersize=7)
        axes.set(title=f"floor friction {friction:g}", xlabel="along the lane, m", ylim=(-0.6, 0.6), xlim=(0, 14))
    panels[0].set_ylabel("left of its middle, m")
    panels[0].legend(frameon=False, loc="lower left", fontsize=8)
    made.savefig(path)


def error(dream: Dream, truth: Truth, std: np.ndarray) -> np.ndarray:
    off = (dream.observation[1 : truth.steps + 1] - truth.observation[1 : truth.steps + 1]) / std
    return np.sqrt(np.mean(off**2, -1))


def trust_picture(subject: Subject, workers: Workers, count: int, path: Path) -> None:
    """How far dreams strayed in PyBullet, how far they said that they might, and where they say to stop believing."""
    model, horizon = subject.clone.model, 40
    std = model.std.cpu().numpy()
    made, panels = figure(11.0, 3.2, 2)
    for axes, scenario, title in zip(panels, (LOGGED, floor(0.2)), ("floors of the logs", "friction 0.2"), strict=True):
        dreams = subject.dreams(subject.clone, scenario, count, horizon, AUDIT_SEEDS + 310_000, False)
        truths = [truth for (truth,) in simulate(dreams, subject.reader, workers)]
        trusted = [dream.trust_horizon or 0 for dream in dreams]
        kept = held = 0
        for dream, truth in zip(dreams, truths, strict=True):
            off = error(dream, truth, std)
            steps = min(dream.trust_horizon or 0, len(off))
            axes.plot(np.arange(1, len(off) + 1), off, color=SOFT, linewidth=0.7)
            axes.plot(np.arange(1, steps + 1), off[:steps], color=TRUE, linewidth=0.9)
            if steps and dream.uncertainty is not None:
                kept, held = kept + 1, held + bool((off[:steps] <= dream.uncertainty[:steps]).all())
        bounds = np.stack([dream.uncertainty for dream in dreams if dream.uncertainty is not None])
        axes.plot(np.arange(1, horizon + 1), np.median(bounds, 0), color=DREAMT, label="stated bound, median")
        axes.axhline(subject.config.dream.trust.tolerance, color=LIMIT, linewidth=1, linestyle=":")
        axes.axvline(float(np.mean(trusted)), color=LIMIT, linewidth=1, label="trust horizon, mean")
        axes.plot([], [], color=TRUE, label="error within the trust horizon")
        axes.plot([], [], color=SOFT, label="error beyond it")
        axes.set(title=f"{title}: {held} of {kept} kept their word", xlabel="steps of 0.05 s", ylim=(0, 1.5))
    panels[0].set_ylabel("error, standard deviations")
    panels[0].legend(frameon=False, loc="upper right", fontsize=8)
    made.savefig(path)


def audit_picture(subject: Subject, workers: Workers, count: int, path: Path) -> None:
    """Failures floor by floor, dreamt and true, of the policy before and after it dreamt."""
    made, panels = figure(11.0, 3.2, 2)
    policies = (subject.clone, "before dreaming"), (subject.dreamer, "after dreaming")
    for axes, (agent, title) in zip(panels, policies, strict=True):
        dreamt, true = [], []
        for number, friction in enumerate(FLOORS):
            world = subject.nominal.replace(floor_friction=friction)
            seed = SURVIVAL_SEEDS + 1_600_000
            args = (agent.model, agent.actor, subject.held_out, TASK, world, count, seed + number)
            dreamt.append(float(dreamt_failures(*args).mean()))
            (cell,) = evaluate(TASK, agent, [("floor", f"{friction:g}", world)], range(seed, seed + count), workers)
            true.append(cell.failure_rate)
        axes.axvspan(0.4, 1.0, color=SOFT, alpha=0.35, linewidth=0)
        axes.text(0.44, 0.9, "in the logs", fontsize=8)
        axes.plot(FLOORS, dreamt, "o-", color=DREAMT, label="in dreams")
        axes.plot(FLOORS, true, "s--", color=TRUE, label="in PyBullet")
        axes.set(title=title, xlabel="floor friction", xlim=(0.1, 0.85), ylim=(-0.03, 1.03))
    panels[0].set_ylabel("share that slides off the lane")
    panels[1].legend(frameon=False, loc="center right", fontsize=8)
    made.savefig(path)


def night_picture(run: Path, path: Path) -> None:
    """What eight hours go to, and how the trials of this run's dream phase fared."""
    made, (bar, curve) = figure(11.0, 2.8, 2)
    given, begun = allot(3600 * 8.0, SHARES), 0.0
    for name in (share.name for share in SHARES):
        bar.barh(name, given[name] / 3600, left=begun / 3600, color=TRUE if name == "dream" else "#9db8d6")
        begun += given[name]
    bar.invert_yaxis()
    bar.set(title="what eight hours go to", xlabel="hours")
    trials = RunFolder(run).progress().selection
    minutes = [trial["seconds"] / 60 for trial in trials]
    for name in trials[0]["scores"] if trials else ():
        within = name == "logged"
        failed = [1 - trial["scores"][name] for trial in trials]
        label = "floors of the logs" if within else f"{name} floors"
        curve.plot(minutes, failed, "o-", color=TRUE if within else DREAMT, label=label)
    kept = [i for i, trial in enumerate(trials) if trial["kept"]]
    if kept:
        curve.axvline(minutes[kept[-1]], color=LIMIT, linewidth=1, linestyle=":", label="the policy that is kept")
    curve.set(title="trials while it dreamt", xlabel="minutes of dreaming", ylabel="share that failed")
    curve.set_ylim(-0.03, 1.03)
    curve.legend(frameon=False, fontsize=8)
    made.savefig(path)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    subject = Subject(options.run)
    with Workers(TASK, 16, processes=0) as workers:
        scenario_picture(subject, workers, options.out / "concept-scenario.png")
        trust_picture(subject, workers, options.count, options.out / "concept-trust.png")
        audit_picture(subject, workers, options.count, options.out / "concept-audit.png")
    night_picture(options.run, options.out / "concept-night.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
