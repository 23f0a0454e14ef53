"""Does a world model forgive mistakes? How far a kicked start is led from the same one unkicked, by it and in truth.

    python benchmarks/kicks.py --runs runs/a/shared runs/b/shared

From the same held-out moments, under the same logged commands, PyBullet and the world model of every run go on twice:
once from the start as it was, once with every channel kicked by a hundredth of its standard deviation. Where a model
leads back what the simulator lets go, a policy that practises in it learns no care. The runs are nights', or what
`survival.py` left, of one task; moments are of the first one's logs. No simulator step here is learnt from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from foretelling.moments import PAST, Moments
from foretelling.rivals import Persistence
from torch import Tensor

from configs import UserError
from dreaming.run import RunFolder
from dreaming.truth import simulate
from envs.workers import Workers
from worldmodel.model import WorldModel
from worldmodel.replay import Batch, Replay
from worldmodel.saved import load_model
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader
from worldmodel.trainer import split_episodes

STEPS = (1, 2, 5, 15, 25, 50)
KICK = 1e-2  # standard deviations


@dataclass
class Kicks:
    """Distances, in units of the kick, between what follows a kicked start and what follows the same one unkicked."""

    runs: list[Path]
    """Run folders of one task."""
    moments: int = 200


@torch.no_grad()
def strayed(model: WorldModel, batch: Batch, past: int, size: float = KICK, seed: int = 0) -> Tensor:
    """(B, T - past) root mean square over channels, in units of the kick; both ways draw the same random numbers."""
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    torch.manual_seed(seed)
    seen = batch.vector[:, :past]
    beliefs, *_ = model.filter(seen, None, inputs[:, :past], batch.is_first[:, :past])
    start = beliefs.at(slice(None), -1)
    kick = size * torch.randn_like(start.vector)
    ways = []
    for vector in (start.vector, start.vector + kick):
        torch.manual_seed(seed)
        ways.append(model.imagine(start._replace(vector=vector), inputs[:, past:]).vector)
    return (ways[1] - ways[0]).square().mean(-1).sqrt() / size


def in_truth(moments: Moments, reader: LogReader, task: str, std: np.ndarray) -> np.ndarray:
    """(N, H) the same of the simulator; NaN from where either episode ended."""
    dreams = moments.dreams(Persistence().foretell(moments.batch), "logged")
    with Workers(task, 25, processes=0) as workers:
        truths = simulate(dreams, reader, workers, KICK * std, replicas=1)
    if failed := [truth.detail for runs in truths for truth in runs if truth.unknown]:
        raise UserError(f"{len(failed)} moments cannot be repeated in the simulator: {failed[0]}")
    apart = np.stack([(kicked.observation[1:] - truth.observation[1:]) / std for truth, kicked in truths])
    return np.sqrt((apart**2).mean(-1)) / KICK


def row(name: str, apart: np.ndarray) -> str:
    return f"| {name} | " + " | ".join(f"{np.nanmedian(apart[:, step - 1]):.2f}" for step in STEPS) + " |"


def main(options: Kicks) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    if not options.runs:
        raise UserError("--runs names no folder")
    first = RunFolder(options.runs[0])
    config = first.config()
    reader = LogReader(first.logs(config))
    print(f"{config.task}: medians of {options.moments} moments, in kicks of {KICK:g} standard deviations\n")
    print("| steps after | " + " | ".join(map(str, STEPS)) + " |\n" + "|---" * (1 + len(STEPS)) + "|")
    for number, path in enumerate(options.runs):
        run = RunFolder(path)
        if (other := run.config().task) != config.task:
            raise UserError(f"{path} is of {other}, {options.runs[0]} of {config.task}; give runs of one task")
        model, _ = load_model(run.checkpoints)
        held_out = Replay(reader, model.context, split_episodes(reader)[1])
        moments = Moments(held_out, options.moments, STEPS[-1], seed=0)
        if number == 0:
            print(row("PyBullet", in_truth(moments, reader, config.task, model.std.numpy())), flush=True)
        lived = moments.steps[:, None] >= np.arange(1, STEPS[-1] + 1)
        print(row(str(path), np.where(lived, strayed(model, moments.batch, PAST).numpy(), np.nan)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Kicks))
