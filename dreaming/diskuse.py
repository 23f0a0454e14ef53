"""What a night may take of the disk, said before it begins: bounds by kind, from sizes of networks, logs and curves."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from configs import from_dict, packaged
from dreaming.actor_critic import ActorCritic
from dreaming.run import NightConfig
from envs import registry
from worldmodel.checkpoint import KEEP
from worldmodel.context import PUSH, ContextSpec
from worldmodel.log_format import row_dtypes
from worldmodel.model import ModelConfig, Spaces, WorldModel

MOST_ROWS = 3000  # of metrics a night, and one a minute of what is measured on held-out logs
ROW = 2500  # bytes of a row of metrics; some hundred were measured, scenarios add to them
EPISODE = 4000  # bytes of an episode beside its rows
PAGE, FILM = 8_000_000, 2_000_000  # bytes of the report with its figures, and of each film
MANIFEST = 20_000


def most_bytes(config: NightConfig, schema: Mapping[str, Any], hours: float, scenarios: int, new_logs: bool) -> dict:
    """By kind, at most. Checkpoints take the place of older ones: one night or ten, they take the same.

    Args:
        schema: of the logs.
        new_logs: whether they are still to be recorded.
    """
    files = list(row_dtypes(schema).values())
    columns = {name: file[name] for file in files for name in file.names or ()}
    vector, action, image = columns["vector"].shape[0], columns["action"].shape[0], "image" in columns
    # Networks without numbers cost no memory. Logs vary no more factors than the task may.
    names = (*registry.log_ranges(config.task), PUSH) if registry.simulated(config.task) else ()
    with torch.device("meta"):
        size = from_dict(ModelConfig, packaged("sizes", config.size), f"size {config.size}")
        spaces = Spaces(vector, action, image)
        world = WorldModel(size, spaces, ContextSpec(names, (0.0,) * len(names), (1.0,) * len(names)))
        world.add_ensemble(config.trainer.ensemble)
        learner = ActorCritic(config.dream.actor_critic, world, config.dream.view)
    model, policy = _bytes(world), _bytes(learner)
    dreams = config.dream.dreams * 4 * (2 * world.feat_size + 3 * vector + 8 * action + 200)
    # The model with its optimisers' two averages, and the last good one; four policies at most, with the one before a
    # wake, and the model that each filters with, two with optimisers and dreams that go on, and one with a policy that
    # is being tried.
    each = 4 * model + 4 * (model + policy) + 2 * (2 * policy + dreams) + policy + 5 * MANIFEST
    steps = registry.task_class(config.task).max_steps if registry.simulated(config.task) else 0
    row = sum(file.itemsize for file in files)
    logs = config.episodes * (EPISODE + (steps + 1) * row) if new_logs else 0
    # Episodes of a wake may be of one step each, and the last batch is kept whole.
    woken = config.wake * (EPISODE + 2 * row) + 16 * (EPISODE + steps * row) if config.wake else 0
    numbers = 4 * (config.audit_horizon + 1) * (vector + action + 3)
    metrics = ROW * int(min(MOST_ROWS, 1800 * hours) + 120 * hours + 100)
    return {
        "checkpoints": (KEEP + 1) * each,  # one more while it is written
        "logs": logs + woken,
        "metrics": metrics,
        "audit": 24 * (scenarios + 1) * numbers + 1_000_000,
        "report": PAGE + 3 * FILM,
    }


def stated(most: Mapping[str, int], folder: Path) -> tuple[str, bool]:
    """A sentence for the user, and whether there is room."""
    where = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free, total = shutil.disk_usage(where).free, sum(most.values())
    parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in most.items() if size)
    text = f"It takes at most {_megabytes(total)} of the disk ({parts}; W&B's own files aside)"
    return f"{text}; {_megabytes(free)} are free", free > total


def _bytes(module: torch.nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


def _megabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6)):,} MB"
