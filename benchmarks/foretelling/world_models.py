"""Foretellers that are world models: this project's, and DreamerV3 as published, told the physics beside the action."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from foretelling.moments import PAST, Foretold

from configs import from_dict, packaged
from dreaming.dreamer import PUBLISHED
from worldmodel.model import ModelConfig
from worldmodel.replay import Batch, Statistics
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

# Truer over long horizons than the defaults, of which policies learn better for all that (docs/results.md).
FAITHFUL = TrainerConfig(carry_noise=0.3, transition_batch=128, transition_lr=6e-3, transition_ahead=6)


class Ours:
    """What `train-world-model` trains, but for the settings above."""

    def __init__(self, reader: LogReader, seed: int) -> None:
        self.trainer = Trainer(reader, self.config(), FAITHFUL, seed)
        self.model = self.trainer.model

    def config(self) -> ModelConfig:
        return from_dict(ModelConfig, packaged("sizes", "laptop"), "size laptop")

    def update(self, progress: float) -> None:
        self.trainer.update(progress)

    @torch.no_grad()
    def foretell(self, batch: Batch) -> Foretold:
        model = self.model.eval()
        # Drawn, as dreams are: rollouts of the likeliest latents stray further.
        imagined = model.imagine(*model.observe_past(batch, PAST))
        return Foretold(model.decode(imagined), model.predict_reward(imagined), model.predict_continuation(imagined))

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def restore(self, folder: Path) -> None:
        self.trainer.restore(folder)


class Published(Ours):
    """Inputs as they are, symlog squared error, everything in the latent; size, batches and rates are ours.

    At the published rate of 4e-5 it would have learnt next to nothing in these minutes.
    """

    def __init__(self, reader: LogReader, seed: int) -> None:
        super().__init__(reader, seed)
        one = np.ones(self.model.spaces.vector, np.float32)
        self.model.set_statistics(Statistics(0 * one, one, one))

    def config(self) -> ModelConfig:
        ours = super().config()
        return replace(PUBLISHED, rssm=ours.rssm, units=ours.units, layers=ours.layers)
