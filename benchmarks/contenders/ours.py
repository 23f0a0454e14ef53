"""This project's DreamerV3: `Dreamer`, the world model as published (`carry=False`) with its actor and critic."""

import argparse
from dataclasses import replace

import torch
from protocol import ACTION, BATCH, HORIZON, LENGTH, OBSERVATION, serve
from torch import nn

from configs import from_dict, packaged
from dreaming.dreamer import PUBLISHED, Acting, Dreamer, DreamerConfig
from worldmodel.device import choose_device
from worldmodel.loss import world_model_loss
from worldmodel.model import ModelConfig, Spaces
from worldmodel.optim import Gradients
from worldmodel.recorded import Recorded
from worldmodel.replay import Batch
from worldmodel.rssm import State
from worldmodel.speed import prepare_cpu


def make_batch() -> Batch:
    """Random numbers, an episode a segment."""
    shape = (BATCH, LENGTH)
    action, no = torch.rand(*shape, ACTION) * 2 - 1, torch.zeros(shape, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    vector, reward = torch.randn(*shape, OBSERVATION), torch.randn(shape)
    return Batch.without_physics(action, vector=vector, reward=reward, is_first=first, is_last=no, is_terminal=no)


class Ours:
    def __init__(self, options: argparse.Namespace) -> None:
        prepare_cpu()
        torch.set_num_threads(options.threads)
        size = from_dict(ModelConfig, packaged("sizes", options.size), options.size)
        model = replace(PUBLISHED, rssm=size.rssm, units=size.units)
        config = DreamerConfig(model, horizon=HORIZON, warmup=0, compute=options.dtype)
        device = choose_device(options.device)
        self.dreamer = Dreamer(config, Spaces(OBSERVATION, ACTION), device=device)
        self.batch = make_batch().to(device)
        with torch.no_grad():
            belief = self.dreamer.model.observe(self.batch, hidden=False)
        self.starts = State(belief.deter.flatten(0, 1), belief.stoch.flatten(0, 1))
        model = self.dreamer.model
        self.gradients = Gradients(lambda batch: (world_model_loss(model, batch).total, None), model.parameters())
        self.dreaming = Recorded(self.dreamer.imagine)
        self.acting, self.seen = Acting(self.dreamer), torch.zeros(1, OBSERVATION, device=device)
        self.no = torch.zeros(1, dtype=torch.bool, device=device)

    def step(self) -> float:
        return self.dreamer.update(self.batch)["loss"]

    def world_model(self) -> float:
        return float(self.gradients(self.batch).loss)

    def imagine(self) -> float:
        return float(self.dreaming(self.starts).feat.mean())

    def policy(self) -> float:
        return float(self.acting(self.seen, self.no).sum())

    def weights(self) -> dict[str, tuple[int, float]]:
        parts = {"world model": self.dreamer.model, "policy": self.dreamer.policy, "critic": self.dreamer.critic}
        return {name: (_count(part), _sum(part)) for name, part in parts.items()}


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _sum(part: nn.Module) -> float:
    return sum(float(p.detach().double().sum()) for p in part.parameters())


if __name__ == "__main__":
    serve(Ours)
