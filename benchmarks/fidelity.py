"""How far do rollouts stray from what then happens? Ours, DreamerV3, PETS, RWM and standing still, on equal logs.

    python benchmarks/fidelity.py --task push-box --seeds 3

Each foreteller learns from the same logs for the same processor time, on one thread, and then foretells held-out
episodes under their own commands, from moments all over them. The floor is the simulator itself, its start kicked by a
hundredth of each channel's standard deviation. Then the same in worlds that no log holds, told the truth of them,
nothing, or that they were nominal. Finished parts are kept in --out, so an interrupted run goes on.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from foretelling.moments import Foretold, Moments, Told
from foretelling.rivals import Ensemble, Persistence, Recurrent
from foretelling.tables import HORIZONS, report
from foretelling.world_models import Ours, Published
from survival import logs

from configs import UserError, to_dict
from dreaming.comparison import Comparison
from dreaming.run import NightConfig
from dreaming.scenario import load_scenarios
from dreaming.truth import Truth, from_log, simulate
from envs import registry
from envs.physics import PhysicsRange
from envs.workers import Workers
from worldmodel.checkpoint import write_atomically
from worldmodel.context import PUSH
from worldmodel.replay import Replay
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

KICK, REPLICAS = 1e-2, 2
TOLD: tuple[Told, ...] = ("the truth", "nothing", "nominal")
SETTING = ("episodes", "learn_s", "moments", "outside_episodes")  # with which results can be gone on with
OUTSIDE_SEED = 40_000  # of recordings in worlds that no log holds


@dataclass
class Fidelity:
    """Held-out open-loop error by horizon, of five ways to foretell, within the logs and beyond."""

    task: str = "push-box"
    contenders: str = "ours,published,ensemble,recurrent,persistence"
    seeds: int = 1
    first_seed: int = 0
    episodes: int | None = None
    """Logs; as many as a night records, unless told otherwise."""
    learn_s: float = 200.0
    moments: int = 400
    outside_episodes: int = 40
    """Recorded in each world that no log holds; never learnt from."""
    out: Path = Path("runs/fidelity")


def contender(name: str, reader: LogReader, base: Ours, seed: int) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: base,
        "published": lambda: Published(reader, seed),
        "ensemble": lambda: Ensemble(base.trainer),
        "recurrent": lambda: Recurrent(base.trainer),
        "persistence": Persistence,
    }
    return makers[name]()


def learnt(name: str, foreteller: Any, options: Fidelity, folder: Path) -> None:
    """Trains it for the time given, or takes what was trained before."""
    if name == "persistence":
        return
    done = folder / "done.json"
    if done.exists():
        foreteller.restore(folder)
        return
    updates, begun = 0, time.process_time()
    while (share := (time.process_time() - begun) / options.learn_s) < 1:
        foreteller.update(share)
        updates += 1
    foreteller.save(folder)
    write_atomically(done, json.dumps({"updates": updates}).encode())
    print(f"{options.task}: {name} made {updates} updates", flush=True)


def worlds(task: str, replay: Replay) -> list[tuple[str, PhysicsRange]]:
    """Levels of the packaged edge cases that lie beyond the logs and that the model can be told."""
    context, found = replay.context, []
    for scenario in load_scenarios("edge-cases", task):
        if not all((PUSH if f.startswith("push_") else f) in context.names for f in scenario.factors(task)):
            continue
        for label, physics in scenario.levels(task):
            changed = {k: (v, v) for k, v in physics.to_dict().items() if v != getattr(registry.nominal(task), k)}
            found.append((f"{scenario.name} {label}", changed))
    return found


def judged(moments: Moments, foretold: Foretold, truths: list[list[Truth]], std: np.ndarray, names: Sequence[str]):
    """The audit's figures, and those it has not: rewards and contacts by horizon."""
    comparison = Comparison(moments.dreams(foretold, "logged"), [t[0] for t in truths], [t[1:] for t in truths], std)
    lived = torch.from_numpy(moments.steps[:, None] >= np.arange(1, moments.horizon + 1))
    truth = moments.batch.vector[:, -moments.horizon :]
    paid = moments.batch.reward[:, -moments.horizon :]
    more: dict[str, list[float | None]] = {"reward": []}
    contacts = [c for c, name in enumerate(names) if "contact" in name]
    for h in range(moments.horizon):
        here = lived[:, h]
        off = (foretold.reward - paid)[here, h]
        more["reward"].append(float(off.square().mean().sqrt()) if here.any() else None)
        for kind in ("precision", "recall"):
            said, so = (x[here, h][:, contacts] > 0.5 for x in (foretold.vector, truth))
            among = said if kind == "precision" else so
            share = float((said & so).sum() / among.sum()) if among.any() else None
            more.setdefault(f"contact {kind}", []).append(share)
    return {"audit": to_dict(comparison.judge("logged", names)), **more}


def one_seed(options: Fidelity, seed: int) -> dict[str, Any]:
    task, folder = options.task, options.out / options.task / f"seed-{seed}"
    file, setting = folder / "results.json", {key: getattr(options, key) for key in SETTING}
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"setting": setting}
    if results["setting"] != setting:
        raise UserError(f"{file} was made with {results['setting']}, not {setting}; give another --out")
    asked = options.contenders.split(",")
    if set(asked) <= set(results.get("within", {})) and set(asked) <= set(results.get("beyond", {})):
        return results
    episodes = options.episodes or NightConfig.for_task(task).episodes
    reader = logs(task, episodes, seed, folder / "episodes")
    base = Ours(reader, seed)
    std, nominal = base.model.std.numpy(), registry.nominal(task).to_dict()
    names = list(registry.task_class(task).observation_names)
    horizon = min(HORIZONS[-1], registry.task_class(task).max_steps - 10)
    held_out = base.trainer.held_out
    within = Moments(held_out, options.moments, horizon, seed)
    beyond: dict[str, Moments] = {}
    for name, ranges in worlds(task, held_out):
        there = logs(task, options.outside_episodes, OUTSIDE_SEED + seed, folder / "beyond" / name, ranges)
        beyond[name] = Moments(Replay(there, held_out.context), options.moments, horizon, seed)
    with Workers(task, 25, processes=0) as workers:
        dreams = within.dreams(Persistence().foretell(within.batch), "logged")
        truths = simulate(dreams, reader, workers, KICK * std, REPLICAS)
    if failed := [truth.detail for runs in truths for truth in runs if truth.unknown]:
        raise UserError(f"{len(failed)} moments cannot be repeated in the simulator: {failed[0]}")
    for name in asked:
        foreteller = contender(name, reader, base, seed)
        learnt(name, foreteller, options, folder / name)
        torch.manual_seed(seed)
        results.setdefault("within", {})[name] = judged(within, foreteller.foretell(within.batch), truths, std, names)
        there = results.setdefault("beyond", {}).setdefault(name, {})
        for world, moments in beyond.items():
            unkicked = [
                [from_log(d, moments.replay.reader)] for d in moments.dreams(Persistence().foretell(moments.batch), "")
            ]
            there[world] = {
                told: judged(moments, foreteller.foretell(moments.told(told, nominal)), unkicked, std, names)
                for told in (TOLD if name != "persistence" else TOLD[:1])
            }
        write_atomically(file, json.dumps(results).encode())
    return results


def main(options: Fidelity) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    found = [one_seed(options, seed) for seed in range(options.first_seed, options.first_seed + options.seeds)]
    print(f"\n{options.task}, {options.seeds} seeds, {options.learn_s:g} s of learning, {options.moments} moments")
    report(found, options.contenders.split(","))


if __name__ == "__main__":
    main(tyro.cli(Fidelity))
