"""This project's DreamerV3, learning by acting."""

import argparse
from dataclasses import replace

import numpy as np
import torch
from online import ACTION, HORIZON, LR, OBSERVATION, SIZE, UNITS, WARMUP, Arrays, serve_online

from dreaming.dreamer import PUBLISHED, Acting, Dreamer, DreamerConfig
from worldmodel.model import Spaces
from worldmodel.replay import Batch
from worldmodel.rssm import RSSMConfig
from worldmodel.speed import prepare_cpu


class Ours:
    def __init__(self, options: argparse.Namespace) -> None:
        prepare_cpu()
        torch.set_num_threads(1)
        model = replace(PUBLISHED, rssm=RSSMConfig(**SIZE), units=UNITS)
        config = DreamerConfig(model, HORIZON, lr=LR, warmup=WARMUP, compute=options.dtype)
        self.dreamer = Dreamer(config, Spaces(OBSERVATION, ACTION), options.seed)
        self.acting = Acting(self.dreamer)

    def act(self, observation: np.ndarray, is_first: bool) -> np.ndarray:
        return self.acting(torch.from_numpy(observation)[None], torch.tensor([is_first]))[0].numpy()

    def train(self, batch: Arrays) -> None:
        given = {name: torch.from_numpy(value) for name, value in batch.items()}
        # Ours keeps with each observation the action that led there.
        before = torch.roll(given.pop("action"), 1, 1)
        before[:, 0] = 0
        self.dreamer.update(Batch.without_physics(before, **given))
        self.acting.refresh()


if __name__ == "__main__":
    serve_online(Ours)
