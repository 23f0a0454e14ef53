"""Does a world model forgive mistakes? How far a kicked start is led from the same one unkicked, by it and in truth.

    python benchmarks/kicks.py --runs runs/a/shared runs/b/shared

From the same held-out moments, under the same logged commands, PyBullet and the world model of every run go on twice:
once from the start as it was, once from one that is kicked by a hundredth of each channel's standard deviation (in
PyBullet of those channels that are set and do not follow from others; in a model of the observation, while its memory
stays as it was). The first step finds contacts anew; how the distance grows from there on is compared, which says
little where many channels cannot move, as push-box's goal. Where a model leads back what the simulator lets go, a
policy that practises in it learns no care. The runs are nights', or what `survival.py` left, of one task; moments are
of the first one's logs. No simulator step here is learnt from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from foretelling.moments import PAST, Moments
from foretelling.rivals import Persistence
from torch import Tensor

from configs import UserError, run_command
from dreaming.run import RunFolder
from dreaming.truth import simulate
from envs.workers import Workers
from worldmodel.lessons import held_out_of
from worldmodel.model import WorldModel
from worldmodel.replay import Batch
from worldmodel.saved import load_model
from worldmodel.speed import prepare_cpu
from worldmodel.storage import LogReader

STEPS = (1, 2, 5, 15, 25, 50)
KICK = 1e-2  # standard deviations
SIMULATORS = 25  # at once, in this process


@dataclass
class Kicks:
    """Distances, in units of the kick, between what follows a kicked start and what follows the same one unkicked."""

    runs: list[Path]
    """Run folders of one task."""
    moments: int = 200


@torch.no_grad()
def strayed(model: WorldModel, batch: Batch, past: int, size: float = KICK, seed: int = 0) -> Tensor:
    """(B, T - past) root mean square over channels, in units of the kick; both ways draw the same random numbers."""
    torch.manual_seed(seed)
    start, inputs = model.observe_past(batch, past)
    kick = size * torch.randn_like(start.vector)
    ways = []
    for vector in (start.vector, start.vector + kick):
        torch.manual_seed(seed)
        ways.append(model.imagine(start._replace(vector=vector), inputs).vector)
    return (ways[1] - ways[0]).square().mean(-1).sqrt() / size


def in_truth(moments: Moments, reader: LogReader, task: str, std: np.ndarray) -> np.ndarray:
    """(N, H) the same of the simulator; NaN from where either episode ended, and where it cannot say."""
    dreams = moments.dreams(Persistence().foretell(moments.batch), "logged")
    with Workers(task, SIMULATORS, processes=0) as workers:
        truths = simulate(dreams, reader, workers, KICK * std, replicas=1)
    failed = [runs[0].detail or runs[0].unknown for runs in truths if any(truth.unknown for truth in runs)]
    if len(failed) == len(truths):
        raise UserError(f"no moment can be repeated in the simulator: {failed[0]}")
    if failed:
        print(f"left out, as the simulator cannot repeat them: {len(failed)} of {len(truths)} ({failed[0]})\n")
    apart = np.stack([(kicked.observation[1:] - truth.observation[1:]) / std for truth, kicked in truths])
    return np.sqrt((apart**2).mean(-1)) / KICK


def row(name: str, apart: np.ndarray) -> str:
    """The median after one step, and how many times as far the medians of later steps are."""
    first, *later = (float(np.nanmedian(apart[:, step - 1])) for step in STEPS)
    return f"| {name} | {first:.2f} | " + " | ".join(f"{far / first:.1f}" for far in later) + " |"


def model_of(run: RunFolder, task: str) -> WorldModel:
    """
    Raises:
        UserError: it is of another task, or nothing of it can be kicked.
    """
    if (other := run.config().task) != task:
        raise UserError(f"{run.path} is of {other}, the first of --runs of {task}; give runs of one task")
    model, _ = load_model(run.checkpoints)
    if not model.carried:
        raise UserError(f"the world model of {run.path} carries no observation, so that nothing of it can be kicked")
    return model


def main(options: Kicks) -> None:
    torch.set_num_threads(1)
    prepare_cpu()
    if not options.runs:
        raise UserError("--runs names no folder")
    runs = [RunFolder(path) for path in options.runs]
    config = runs[0].config()
    models = [model_of(run, config.task) for run in runs]
    reader = LogReader(runs[0].logs(config))
    moments = [Moments(held_out_of(reader, m.context), options.moments, STEPS[-1], seed=0) for m in models]
    truth = in_truth(moments[0], reader, config.task, models[0].std.numpy())
    print(f"{config.task}: medians of {options.moments} moments\n")
    print("| | 1 step, kicks | " + " | ".join(f"{step} steps, times that" for step in STEPS[1:]) + " |")
    print("|---" * (1 + len(STEPS)) + "|\n" + row("PyBullet", truth), flush=True)
    for run, model, there in zip(runs, models, moments, strict=True):
        apart = strayed(model, there.batch, PAST).numpy()
        print(row(str(run.path), np.where(np.isnan(truth), np.nan, apart)), flush=True)


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(Kicks)))
