"""The command `train-world-model`: parse and call. Torch is imported when it runs, so that `--help` answers at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs import UserError, parse_arguments, run_command


@dataclass
class TrainWorldModel:
    """Learn a world model from a robot's logs.

    Shows as it goes how well the model foretells logs that it never saw, and plots that. Ctrl-C saves and ends; the
    same command with the same --run goes on from there.

    Example: train-world-model --data logs/ --run runs/mine
    Logs never seen before: train-world-model --data logs/ --describe > mine.yaml
    A short burst of real logs: train-world-model --init-from runs/simulated --data real/ --run runs/real
    """

    run: Path | None = None
    """Run folder, new or to go on with."""
    data: Path | None = None
    """Logs: a folder that record-rollouts wrote, or files of another format. Needed for a new run only."""
    init_from: Path | None = None
    """Begin a new run as the world model of this one, and do not forget: its logs are rehearsed, as far as they are
    found, and the error on them is told before and after."""
    describe: bool = False
    """Instead of training: say what --data holds, draft a mapping for it, and what it can and cannot teach."""
    formats: bool = False
    """Instead of training: list the formats of logs that are read."""
    estimate: Path | None = None
    """Instead of training: write to this CSV what the run's model makes of the physics (friction, payload, ...) along
    --data, or the run's own logs, step by step and with its uncertainty; a plot beside it."""
    size: str | None = None
    """debug, laptop (default), 1m, 12m, 25m, 50m, 100m, 200m or 400m."""
    minutes: float | None = None
    """Train for so long (default: 10), and on top of what the run has learnt before."""
    steps: int | None = None
    """Instead of --minutes: train until the run has made so many steps in all."""
    seed: int | None = None
    """Decides every random draw. Default: 0."""
    mapping: str | None = None
    """What the columns of the logs mean: a YAML file, or the name of a packaged one. Default: the file of the same name
    beside the logs, or mapping.yaml in their folder."""
    reward: str | None = None
    """What --data's steps earned, instead of the mapping's `reward`: a column, an expression over its channels, or a
    Python file (.py) of your own that defines reward(observation, action)."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases: online if you are logged in, else offline (auto), or off."""
    batch: int | None = None
    """Segments a step. Default: 40."""
    length: int | None = None
    """Rows a segment. Default: 20."""
    lr: float | None = None
    """Learning rate. Default: 1.5e-3."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, or cuda:1 for the second of several. A run may change it."""


def train(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(TrainWorldModel, arguments, prog="train-world-model")
    if options.formats or options.describe:
        _say(options)
        return
    if options.estimate is not None:
        from worldmodel.estimating import write_estimate

        write_estimate(options)
        return
    from worldmodel.opening import train_world_model

    train_world_model(options)


def _say(options: TrainWorldModel) -> None:
    """What needs no model and no torch."""
    if options.formats:
        from worldmodel.logs.formats import formats

        for one in formats():
            print(f"{one.name:<12} {one.what}")
        return
    if options.data is None:
        raise UserError("--data is missing: give the logs to describe")
    from worldmodel.logs.describe import describe

    for line in describe(options.data, options.mapping, options.reward):
        print(line)


def main() -> None:
    run_command(train)
