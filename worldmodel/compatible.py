"""Whether a world model of a checkpoint may learn on from logs, by the meta data of the two."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import UserError
from worldmodel.context import ContextSpec
from worldmodel.saved import config_of, context_of

# Settings of a model that shape nothing: a run goes on with those of today.
HOW_IT_LEARNS = ("context_dropout", "vector_scale", "representation_scale")


def same_model(folder: Path, saved: dict[str, Any], given: dict[str, Any], what: tuple[str, ...]) -> ContextSpec:
    """The context of the saved model.

    Args:
        folder: of its checkpoint.
        saved, given: meta data of the two, as `Trainer.meta` has them.
        what: has to be the same in both, of `task`, `spaces`, `model`, `physics` (the names of its factors).

    Raises:
        UserError: something of it is not.
    """
    # A setting that is younger than the checkpoint has its default there.
    then = asdict(config_of(saved))
    then |= {name: given["model"][name] for name in HOW_IT_LEARNS}
    pairs = {
        "task": (saved["task"], given["task"]),
        "spaces": (saved["spaces"], given["spaces"]),
        "model": (then, given["model"]),
        "physics": (saved["context"]["names"], given["context"]["names"]),
    }
    for name in what:
        theirs, ours = pairs[name]
        if plain(theirs) != plain(ours):
            raise UserError(
                f"{folder} holds a model whose {name} is {theirs}, the logs and settings now give {ours}; "
                "use the same --data, --size and task, or a new --run"
            )
    # Logs that have grown may span a wider range of physics; the network keeps the scale that it was trained with.
    return context_of(saved)


def same_channels(folder: Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
    """A command is a share of its bounds to the network, and a channel its place.

    Raises:
        UserError: they have other names, another order, or other bounds.
    """

    def told(meta: dict[str, Any]) -> dict[str, Any]:
        action = meta.get("action") or {}
        bounds = [plain(action.get(key)) for key in ("names", "low", "high")]
        return {"channels": plain(meta.get("observation_names")), "commands": bounds if action else None}

    before = told(saved)
    for what, now in told(given).items():
        if before[what] is not None and before[what] != now:  # checkpoints of 0.1 tell of neither
            raise UserError(
                f"{folder} holds a model of other {what} than these logs have: {before[what]}, not {now}; to learn on "
                "from it, give --init-from this run and a new --run"
            )


def plain(value: Any) -> Any:
    """Tuples to lists, all the way down: what a round through JSON leaves."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
