"""Does the uncertainty know where the world model errs? Bounds and ranks against PyBullet, by scenario.

    python benchmarks/trust.py --runs runs/survival/hopper/seed-0/shared runs/survival/hopper/seed-1/shared

Of each run, a night's or one that `survival.py` left, the clone dreams from states of episodes recorded anew, under the
logs' physics and under what-ifs, and every dream is repeated in PyBullet. Beside the ensemble stands its foil, members
with a trunk in common, which learnt from as many transitions. Nothing is learnt from the simulator: its steps here are
an audit's. A table that was made is kept in the run folder, as trust.json.

Ranks are within a step ahead and a scenario, so that nothing is gained by knowing that later steps are worse. An error
is large if it is among a tenth of those at that step; AUROC is how often a large one has the greater bound of the two.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from survival import logs
from torch import nn

from configs import UserError
from dreaming.agent import Actor
from dreaming.rehearsal import rehearse
from dreaming.run import CLONE, RunFolder
from dreaming.scenario import LOGGED, Scenario, load_scenarios
from dreaming.statistics import wilson
from dreaming.trust import covered, recalibrated, restated
from dreaming.truth import Dream, Truth, simulate
from envs import registry
from envs.workers import Workers
from worldmodel import checkpoint
from worldmodel.calibration import Calibration
from worldmodel.checkpoint import write_atomically
from worldmodel.ensemble import Ensemble
from worldmodel.replay import Replay
from worldmodel.saved import NAME, config_of
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

AUDIT_SEED = 60_000  # of recordings whose states are dreamt from
BEFORE_A_FALL = 10
JUDGES = ("independent", "shared trunk")
AUDITED = "independent, level by audit"


@dataclass
class Trust:
    """Coverage of the stated bounds, and AUROC of the uncertainty for large errors."""

    runs: list[Path]
    dreams: int = 150
    """In each scenario."""
    horizon: int = 50
    episodes: int = 60
    """Recorded anew, to dream from."""
    coverage: float = 0.9
    tolerance: float = 0.5


def share_trunk(ensemble: Ensemble) -> None:
    """All layers but the last become one, the first member's."""
    for parts in (ensemble.weights, ensemble.biases):
        for layer in range(len(parts) - 1):
            parts[layer] = nn.Parameter(parts[layer][:1].detach().clone())
    for layer, scale in enumerate(ensemble.scales):
        ensemble.scales[layer] = nn.Parameter(scale[:1].detach().clone())


def judges(reader: LogReader, folder: Path, kind: str, options: Trust) -> Trainer:
    """The run's world model under judges of that kind; those that it has not are trained for as many updates as it."""
    _, meta, updates = checkpoint.load(folder, NAME)
    config = TrainerConfig(ensemble=meta.get("ensemble") or TrainerConfig.ensemble)
    trainer = Trainer(reader, config_of(meta), config, seed=0)
    trainer.restore(folder)
    ensemble, step = trainer.model.ensemble, trainer.ensemble_step
    if ensemble is None or step is None:
        raise UserError(f"the world model in {folder} carries no observation; there is nothing to judge")
    if kind != JUDGES[0] or not meta.get("ensemble"):
        trainer.model.add_ensemble(ensemble.members)
        if kind != JUDGES[0] and trainer.model.ensemble:
            share_trunk(trainer.model.ensemble)
        trainer.optimise()
        for trainer.steps in range(updates):
            trainer.learn_ensemble(trainer.steps / updates)
    trainer.model.eval().requires_grad_(False)
    trainer.calibrate(options.coverage, options.tolerance)
    return trainer


def dreamt(trainer: Trainer, actor: Actor, there: LogReader, task: str, scenario: Scenario, options: Trust):
    hz, replay = float(there.schema["control_hz"]), Replay(there, trainer.model.context)
    nominal = registry.nominal(task)
    return rehearse(
        trainer.model, actor, actor.view, replay, task, scenario, nominal, hz, options.dreams, options.horizon, seed=1
    )


def auroc(score: np.ndarray, large: np.ndarray) -> float | None:
    """Share of pairs of a large (bool) and another in which the large one has the greater score; ties count half."""
    _, rank, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - (count - 1) / 2)[rank]
    hits = int(large.sum())
    pairs = hits * (len(large) - hits)
    return float((middle[large].sum() - hits * (hits + 1) / 2) / pairs) if pairs else None


def ranked(error: np.ndarray, bound: np.ndarray, lived: np.ndarray, fewest: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(N, H) shares of the bounds at that step that are smaller, NaN where fewer than 20 live, and what is large."""
    rank, large = np.full(error.shape, np.nan), np.zeros(error.shape, bool)
    for h in np.flatnonzero(lived.sum(0) >= fewest):
        here = lived[:, h]
        rank[here, h] = np.argsort(np.argsort(bound[here, h])) / here.sum()
        large[here, h] = error[here, h] >= np.quantile(error[here, h], 0.9)
    return rank, large


def by_audit(made: Calibration, dreams: list[Dream], truths: list[Truth], std: np.ndarray) -> dict[str, Any]:
    """The bounds at the level that half of the episodes ask for, judged by the dreams of the other half."""
    even = [dream.episode % 2 == 0 for dream in dreams]
    asked, rest = ([i for i, one in enumerate(even) if one == half] for half in (True, False))
    anew = recalibrated(made, [dreams[i] for i in asked], [truths[i] for i in asked], std)
    tested = [restated(dreams[i], made, anew) for i in rest]
    kept, said = covered(tested, [truths[i] for i in rest], std)
    return {"dreams": len(rest), "kept": kept, "said": said, "trusted": [dream.trust_horizon for dream in tested]}


def judged(dreams: list[Dream], truths: list[Truth], std: np.ndarray) -> dict[str, Any]:
    """What of one scenario goes into the table; ranks are kept, to be pooled."""
    off = np.stack([(d.observation[1:] - t.observation[1:]) / std for d, t in zip(dreams, truths, strict=True)])
    error = np.sqrt(np.mean(off**2, -1))
    bound = np.stack([d.uncertainty for d in dreams if d.uncertainty is not None])
    steps = np.array([t.steps for t in truths])
    ahead = np.arange(1, error.shape[1] + 1)
    lived = ahead <= steps[:, None]
    rank, large = ranked(error, bound, lived)
    counted = ~np.isnan(rank)
    falling = counted & (steps[:, None] - ahead < BEFORE_A_FALL) & np.array([[t.fell] for t in truths])
    kept, said = covered(dreams, truths, std)
    return {
        "dreams": len(dreams),
        "kept": kept,
        "said": said,
        "trusted": [d.trust_horizon for d in dreams],
        "fell": int(sum(t.fell for t in truths)),
        "rank": rank[counted].tolist(),
        "large": large[counted].tolist(),
        "falling rank": rank[falling].tolist(),
        "falling large": large[falling].tolist(),
    }


def one_run(options: Trust, run: Path) -> dict[str, Any]:
    file, setting = run / "trust.json", {k: v for k, v in asdict(options).items() if k != "runs"}
    if file.exists() and (found := json.loads(file.read_text()))["setting"] == setting:
        return found
    folder = RunFolder(run)
    reader = LogReader(folder.logs(folder.config()))
    task = reader.schema["task"]
    there = logs(task, options.episodes, AUDIT_SEED, run / "trust-episodes")
    trainers = {kind: judges(reader, folder.checkpoints, kind, options) for kind in JUDGES}
    first = trainers[JUDGES[0]]
    actor, std = folder.load_agent(CLONE).actor, first.model.std.numpy()
    context = first.model.context
    what_ifs = [s for s in load_scenarios("edge-cases", task) if all(context.covers(f) for f in s.factors(task))]
    found: dict[str, Any] = {"setting": setting, "task": task, "scenarios": {}}
    with Workers(task, 25, processes=0) as workers:
        for scenario in [LOGGED, *what_ifs]:
            dreams = dreamt(first, actor, there, task, scenario, options)
            truths = [runs[0] for runs in simulate(dreams, there, workers)]
            if failed := [truth.detail for truth in truths if truth.unknown]:
                raise UserError(f"{len(failed)} dreams cannot be repeated in the simulator: {failed[0]}")
            results = {JUDGES[0]: judged(dreams, truths, std)}
            if first.model.calibration:
                results[AUDITED] = by_audit(first.model.calibration, dreams, truths, std)
            # The foil judges the very same dreams: they are drawn from the same seed by the same model.
            again = dreamt(trainers[JUDGES[1]], actor, there, task, scenario, options)
            if any(not np.array_equal(a.observation, b.observation) for a, b in zip(dreams, again, strict=True)):
                raise RuntimeError("the foil was to judge the same dreams")
            results[JUDGES[1]] = judged(again, truths, std)
            found["scenarios"][scenario.name] = results
            print(f"{run}: {scenario.name} done", flush=True)
        found["steps"] = workers.steps
    write_atomically(file, json.dumps(found).encode())
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Pooled over runs: of each kind of judges the coverage with its Wilson interval, mean trust horizon, and AUROCs.

    The coverage stated is of all dreams; one that trusts no step of its own breaks no word. `said` is the share that
    trusted at least one. Figures behind AUROCs are how many steps they rest on.
    """
    all_columns = ["coverage", "horizon", "AUROC", "before a fall"]
    kinds = {**dict.fromkeys(JUDGES, all_columns), AUDITED: all_columns[:2]}
    heads = [f"{kind}: {what}" for kind, columns in kinds.items() for what in columns]
    lines = ["| scenario | dreams (falls) | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for name in found[0]["scenarios"]:
        row: list[str] = []
        for kind, columns in kinds.items():
            parts = [run["scenarios"][name][kind] for run in found]
            kept, said, all_of_them = (sum(part[key] for part in parts) for key in ("kept", "said", "dreams"))
            unbroken = all_of_them - said + kept
            low, high = wilson(unbroken, all_of_them)
            row.append(f"{unbroken / all_of_them:.2f} [{low:.2f}, {high:.2f}] ({said / all_of_them:.2f} said)")
            row.append(f"{np.mean(_pooled(parts, 'trusted')):.1f}")
            for when in ("", "falling ")[: len(columns) - 2]:
                large = _pooled(parts, f"{when}large").astype(bool)
                value = auroc(_pooled(parts, f"{when}rank"), large)
                row.append("-" if value is None else f"{value:.2f} ({len(large)})")
        parts = [run["scenarios"][name][JUDGES[0]] for run in found]
        row.insert(0, f"{sum(p['dreams'] for p in parts)} ({sum(p['fell'] for p in parts)})")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _pooled(parts: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.concatenate([part[key] for part in parts])


def main(options: Trust) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    found = [one_run(options, run) for run in options.runs]
    print(f"\n{found[0]['task']}, {len(found)} runs, coverage stated {options.coverage:g}, {options.horizon} steps\n")
    print(f"{markdown(found)}\n")
    print(f"simulator steps: learning 0, audit {sum(run['steps'] for run in found):,}")


if __name__ == "__main__":
    main(tyro.cli(Trust))
