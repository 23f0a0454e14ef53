"""Who foretells: the rivals, which know of no floor, and this project's world model, which may be told of one."""

from dataclasses import replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from floors.rivals import LSTM, Linear
from floors.windows import WINDOW
from foretelling.moments import PAST, Foretold
from foretelling.rivals import Persistence
from torch import Tensor

from dreaming.dreamer import PUBLISHED
from worldmodel.context import ContextSpec
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.replay import Batch, Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

FLOOR = "floor"  # the hidden factor's name in an episode's physics
SIZE = ModelConfig(RSSMConfig(deter=128, hidden=32, stoch=8, classes=8), units=64, layers=2)
LEARNING = TrainerConfig(
    batch=64,
    length=WINDOW,
    warmup=20,
    decay_from=0.5,
    carry_noise=0.3,
    transition_steps=4,
    transition_batch=128,
    transition_ahead=12,
    ensemble=0,
)
DRAWS = 8  # rollouts whose mean is foretold
GRID = torch.linspace(-4, 4, 17)  # of the hidden factor's values
Name = Literal["persistence", "linear", "lstm", "dreamer", "ours"]


class Foreteller(Protocol):
    def update(self, progress: float) -> object: ...
    def foretell(self, batch: Batch) -> Foretold: ...


class Windows(Replay):
    """Sequences are whole windows, and single transitions lie in one.

    Sessions of which there is little come more often than it: a window's weight is 1 over the root of how many its
    session has.
    """

    def sample(self, batch: int, length: int, rng: np.random.Generator, plain: bool = False) -> Batch:
        at = self.offset[rng.choice(len(self.episodes), batch, p=self._weights)]
        return self.gather((at + rng.integers(0, WINDOW + 1 - length, batch))[:, None] + np.arange(length))

    @cached_property
    def _weights(self) -> np.ndarray:
        sessions = [self.reader.episodes[i]["info"]["session"] for i in self.episodes]
        _, which, count = np.unique(sessions, return_inverse=True, return_counts=True)
        weights = 1 / np.sqrt(count[which])
        return weights / weights.sum()


class OnWindows(Trainer):
    def _take(self, context: ContextSpec) -> None:
        super()._take(context)
        shown = self.replay.episodes.tolist()
        self.lessons.replay = Windows(self.reader, context, shown, self.config.terminal_share)


class Imagining:
    """A world model; what it foretells is the mean of rollouts that are drawn, as dreams are."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.model = trainer, trainer.model

    def update(self, progress: float) -> None:
        self.trainer.update(progress)

    @torch.no_grad()
    def foretell(self, batch: Batch) -> Foretold:
        model, rows = self.model.eval(), len(batch.vector)
        inputs = model.inputs(batch, torch.zeros_like(batch.labelled)).repeat(DRAWS, 1, 1)
        past, first = batch.vector[:, :PAST].repeat(DRAWS, 1, 1), batch.is_first[:, :PAST].repeat(DRAWS, 1)
        beliefs, *_ = model.filter(past, None, inputs[:, :PAST], first)
        seen = model.decode(model.imagine(beliefs.at(slice(None), -1), inputs[:, PAST:]))
        vector = seen.reshape(DRAWS, rows, *seen.shape[1:]).mean(0)
        nothing = torch.zeros(vector.shape[:2])
        return Foretold(vector, nothing, nothing + 1)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def make(name: Name, untold: LogReader, told: LogReader, seed: int, open_loop: int) -> Foreteller:
    """A foreteller that has not learnt yet, but for the line.

    Args:
        untold: the logs without anything known of their floors; `told`: with the value of the hidden factor.
    """
    if name == "persistence":
        return Persistence()
    learning = replace(LEARNING, open_loop=open_loop)
    if name == "ours":
        return Imagining(OnWindows(told, SIZE, learning, seed))
    if name == "dreamer":
        config = replace(PUBLISHED, rssm=SIZE.rssm, units=SIZE.units, layers=SIZE.layers)
        return Imagining(OnWindows(untold, config, replace(LEARNING, open_loop=0), seed))
    trainer = OnWindows(untold, SIZE, LEARNING, seed)
    if name == "linear":
        return Linear(trainer.replay, WINDOW)
    return LSTM(trainer, parameters(trainer.model))


# -- the floor ---------------------------------------------------------------------------------------------------------


def telling(context: ContextSpec, batch: Batch, values: np.ndarray | Tensor | float) -> Batch:
    """The batch (N, W) as one sees it who is told these values of the hidden factor, (N,) or one for all."""
    at = context.names.index(FLOOR)
    scaled = (torch.as_tensor(values, dtype=torch.float32) - context.centre[at]) / context.scale[at]
    told, known = torch.zeros_like(batch.context), torch.zeros_like(batch.known)
    told[..., at], known[..., at] = scaled.expand(len(told)).unsqueeze(1), 1.0
    return replace(batch, context=told, known=known, labelled=torch.ones_like(batch.labelled))


def first_second(batch: Batch) -> Batch:
    """All that inference may see."""
    cut = {k: v[:, :PAST] for k, v in vars(batch).items() if isinstance(v, Tensor | np.ndarray)}
    return replace(batch, **cut)


@torch.no_grad()
def by_likelihood(model: WorldModel, past: Batch, share: float = 0.1) -> Tensor:
    """(N,) posterior mean of the hidden factor, standard normal before: how well each value foretells step by step.

    Args:
        share: what a row counts; errors of neighbouring rows have much in common.
    """
    model.eval()
    logs = []
    for value in GRID:
        told = telling(model.context, past, float(value))
        inputs = model.inputs(told, torch.zeros_like(told.labelled))
        beliefs, _, before = model.filter(told.vector, None, inputs, told.is_first)
        mean, log_std = model.expected(beliefs.latent, before, inputs)
        error = (model.scale(told.vector) - mean) / model.step_std * torch.exp(-log_std)
        nll = (0.5 * error**2 + log_std).sum(-1)[:, 1:].sum(1)
        logs.append(-share * nll - 0.5 * value**2)
    return (torch.softmax(torch.stack(logs, 1), 1) * GRID).sum(1)


@torch.no_grad()
def by_head(model: WorldModel, past: Batch) -> Tensor:
    """(N,) the model's own estimate of the hidden factor after the second before, its floor untold."""
    at = model.context.names.index(FLOOR)
    mean, _ = model.eval().estimate_context(model.observe(past, hidden=True))
    return mean[:, -1, at] * model.context.scale[at] + model.context.centre[at]
