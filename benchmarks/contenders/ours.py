"""This project's DreamerV3: `Dreamer`, the world model as published (`carry=False`) with its actor and critic."""

import argparse
from dataclasses import replace

import numpy as np
import torch
from protocol import ACTION, BATCH, LENGTH, OBSERVATION, serve

from configs import from_dict, packaged
from worldmodel.context import ContextSpec
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Batch
from worldmodel.speed import prepare_cpu


def make_batch() -> Batch:
    """Random numbers without physics, an episode a segment."""
    shape = (BATCH, LENGTH)
    action, no, nothing = (
        torch.rand(*shape, ACTION) * 2 - 1,
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(*shape, 0),
    )
    first = no.clone()
    first[:, 0] = True
    return Batch(
        vector=torch.randn(*shape, OBSERVATION),
        image=None,
        action=action,
        applied_action=action,
        context=nothing,
        known=nothing,
        labelled=no,
        reward=torch.randn(shape),
        is_first=first,
        is_terminal=no,
        demonstrated=torch.zeros_like(action),
        is_last=no,
        episode=np.zeros(shape, np.int64),
        step=np.tile(np.arange(LENGTH), (BATCH, 1)),
    )


class Ours:
    """Only the world model so far; `dreaming.dreamer` is to bring the rest."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.dtype != "float32":
            raise NotImplementedError(f"{options.dtype} is not there yet")
        prepare_cpu()
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        config = replace(from_dict(ModelConfig, packaged("sizes", options.size), options.size), carry=False)
        self.model = WorldModel(config, Spaces(OBSERVATION, ACTION), ContextSpec((), (), ()))
        self.batch = make_batch()

    def step(self) -> float:
        raise NotImplementedError("dreaming.dreamer is not there yet")

    def world_model(self) -> float:
        loss, _ = self.model.loss(self.batch)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    def imagine(self) -> float:
        raise NotImplementedError("dreaming.dreamer is not there yet")

    def policy(self) -> float:
        raise NotImplementedError("dreaming.dreamer is not there yet")

    def weights(self) -> dict[str, tuple[int, float]]:
        parameters = list(self.model.parameters())
        total = sum(float(p.detach().double().sum()) for p in parameters)
        return {"world model": (sum(p.numel() for p in parameters), total)}


if __name__ == "__main__":
    serve(Ours)
