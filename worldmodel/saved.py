"""World models as checkpoints hold them: what is said of one in the meta data, and a model made of that."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from configs import from_dict
from worldmodel import checkpoint
from worldmodel.calibration import Calibration
from worldmodel.context import ContextSpec
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.nets import compute_in

NAME = "world-model"


def described(model: WorldModel) -> dict[str, Any]:
    """All of a model but its weights."""
    return {
        "model": asdict(model.config),
        "spaces": asdict(model.spaces),
        "context": asdict(model.context),
        "ensemble": model.ensemble.members if model.ensemble else 0,
        "calibration": asdict(model.calibration) if model.calibration else None,
        "widening": list(model.widening) if model.widening else None,
    }


def build_model(meta: dict[str, Any]) -> WorldModel:
    """An untrained world model of the shape that a checkpoint's meta data state."""
    model = WorldModel(config_of(meta), Spaces(**meta["spaces"]), context_of(meta))
    model.add_ensemble(meta.get("ensemble", 0))  # a checkpoint of 0.1 has neither
    model.calibration = calibration_of(meta)
    model.widening = widening_of(meta)
    return model


def config_of(meta: dict[str, Any]) -> ModelConfig:
    shape = {name: value for name, value in meta["model"].items() if name != "carry_noise"}  # the trainer's since 0.2
    return from_dict(ModelConfig, shape, "checkpoint")


def context_of(meta: dict[str, Any]) -> ContextSpec:
    return ContextSpec(**{name: tuple(value) for name, value in meta["context"].items()})


def widening_of(meta: dict[str, Any]) -> tuple[float, ...] | None:
    return tuple(meta["widening"]) if meta.get("widening") else None


def calibration_of(meta: dict[str, Any]) -> Calibration | None:
    made = meta.get("calibration")
    return from_dict(Calibration, made, "checkpoint") if made else None


def load_model(folder: Path) -> tuple[WorldModel, dict[str, Any]]:
    """The newest world model of a checkpoint folder, ready to use, and its meta data."""
    state, meta, _ = checkpoint.load(folder, NAME)
    model = build_model(meta)
    model.load_state_dict(state["model"])
    return model.eval(), meta


def place(model: WorldModel, device: torch.device, compute: Literal["auto", "float32", "bfloat16"] = "auto") -> None:
    """Move a model, and round there as TrainerConfig's `compute` says."""
    model.to(device)
    if compute == "auto":
        compute = "float32"  # an H200 dreamt 5 to 18% more slowly in bfloat16 at size 1m, and no faster at 12m
    compute_in(getattr(torch, compute), model.rssm)
