"""Foretellers without latents: an ensemble of one-step networks, a recurrent network, and standing still.

All see what the world models see: scaled observations, what reached the motors, and the physics as pairs (value,
known). They foretell the scaled change of the observation in a step with its noise, the reward, and going on.
Shapes: E members, N rows, D channels, I inputs.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from foretelling.moments import PAST, Foretold
from torch import Tensor, nn

from worldmodel.replay import Batch, Replay
from worldmodel.trainer import Trainer


class Shared:
    """Logs, scales and optimiser, the same for both networks."""

    rate = 1e-3

    def __init__(self, trainer: Trainer) -> None:
        self.replay: Replay = trainer.replay
        self.rng = trainer.rng
        model = trainer.model
        self.mean, self.std, self.step_std = model.mean, model.std, model.step_std
        self.channels = model.spaces.vector
        self.inputs = model.spaces.action + 2 * len(model.context)
        self.pay = float(np.std(self.replay.reader.rows["reward"][self.replay.some_rows()[0]])) or 1.0

    def optimise(self, network: nn.Module) -> None:
        self.network, self.optimizer = network, torch.optim.Adam(network.parameters(), self.rate)

    def descend(self, loss: Tensor, progress: float) -> None:
        """The rate falls to a tenth over the last two fifths, as the world models' does."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * 0.1 ** max(0.0, (progress - 0.6) / 0.4)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 100.0)
        self.optimizer.step()

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scaled observations (N, T, D) and, beside the action that led to each, the physics (N, T, I)."""
        labelled = batch.labelled.unsqueeze(-1)
        known = batch.known * labelled
        action = torch.where(labelled, batch.applied_action, batch.action)
        return (batch.vector - self.mean) / self.std, torch.cat([action, batch.context * known, known], -1)

    def sample(self, rows: int, length: int) -> Batch:
        """Windows (rows, length) of the logs; the physics of half of them is hidden, as from the world models."""
        batch = self.replay.sample(rows, length, self.rng, plain=True)
        hidden = torch.from_numpy(self.rng.random((rows, 1)) < 0.5)
        return replace(batch, labelled=batch.labelled & ~hidden)

    def loss(self, out: Tensor, before: Tensor, after: Tensor, batch: Batch, at: slice) -> Tensor:
        """Of outputs (..., N, T, 2 D + 2) that foretell rows `at` of the batch: each row's own, (..., N, T)."""
        change, log_std, reward, going_on = self.split(out)
        error = ((after - before) / self.step_std - change) * torch.exp(-log_std)
        paid = (reward - batch.reward[:, at] / self.pay) ** 2
        alive = (~batch.is_terminal[:, at]).float().expand_as(going_on)
        ended = F.binary_cross_entropy_with_logits(going_on, alive, reduction="none")
        return (0.5 * error**2 + log_std).sum(-1) + paid + ended

    def split(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        change, log_std, rest = out.split([self.channels, self.channels, 2], -1)
        low = math.log(0.02)
        return change, low + F.softplus(log_std - low), rest[..., 0], rest[..., 1]

    def stacked(self, vectors: list[Tensor], rewards: list[Tensor], going_on: list[Tensor]) -> Foretold:
        vector = torch.stack(vectors, 1) * self.std + self.mean
        return Foretold(vector, torch.stack(rewards, 1) * self.pay, torch.sigmoid(torch.stack(going_on, 1)))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.network.state_dict(), folder / "network.pt")

    def restore(self, folder: Path) -> None:
        self.network.load_state_dict(torch.load(folder / "network.pt", weights_only=True))


class Members(nn.Module):
    """E networks of three hidden layers, side by side: (E, N, in) to (E, N, out)."""

    def __init__(self, members: int, inputs: int, units: int, outputs: int) -> None:
        super().__init__()
        widths = [inputs, units, units, units, outputs]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.weights = nn.ParameterList(torch.randn(members, a, b) / math.sqrt(a) for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(members, 1, b) for _, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.silu(x) if layer else x, weight)
        return x


class Ensemble(Shared):
    """Five probabilistic one-step networks, each on batches of its own (no bootstrap); a step is their means' mean.

    Source: Chua et al., "Deep Reinforcement Learning in a Handful of Trials" (PETS, 2018); Janner et al., "When to
    Trust Your Model" (MBPO, 2019).
    """

    members, units, rows = 5, 256, 256

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        inputs = self.channels + self.inputs
        self.optimise(Members(self.members, inputs, self.units, 2 * self.channels + 2))

    def update(self, progress: float) -> None:
        batch = self.sample(self.members * self.rows, 2)
        scaled, inputs = self.seen(batch)
        before, after = scaled[:, :1], scaled[:, 1:]
        by_member = torch.cat([before, inputs[:, 1:]], -1).reshape(self.members, self.rows, -1)
        out = self.network(by_member).reshape(-1, 1, 2 * self.channels + 2)
        row = self.loss(out, before, after, batch, slice(1, None)) * ~batch.is_first[:, 1:]
        # Each member's own mean: a sum, so that the rate of one does not hang on how many there are.
        self.descend(row.mean() * self.members, progress)

    @torch.no_grad()
    def foretell(self, batch: Batch) -> Foretold:
        scaled, inputs = self.seen(batch)
        vector, found = scaled[:, PAST - 1], ([], [], [])
        for t in range(PAST, inputs.shape[1]):
            out = self.network(torch.cat([vector, inputs[:, t]], -1).expand(self.members, -1, -1)).mean(0)
            change, _, reward, going_on = self.split(out)
            vector = vector + self.step_std * change
            for kept, value in zip(found, (vector, reward, going_on), strict=True):
                kept.append(value)
        return self.stacked(*found)


class Recurrent(Shared):
    """Two layers of GRU, trained on what they foretell eight steps ahead of their own foretelling.

    Source: Li et al., "Robotic World Model" (RWM, 2025): history, then autoregressive steps, a state's mean and noise.
    """

    units, rows, ahead = 256, 64, 8

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.gru = nn.GRU(self.channels + self.inputs, self.units, 2, batch_first=True)
        head = nn.Sequential(nn.Linear(self.units, self.units), nn.SiLU())
        head.append(nn.Linear(self.units, 2 * self.channels + 2))
        self.head = head
        self.optimise(nn.ModuleList([self.gru, self.head]))

    def roll(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs for each row beyond the past, and the scaled observations they were made from and led to."""
        scaled, inputs = self.seen(batch)
        # Row t of the network's input: an observation, and the action that follows it.
        past = torch.cat([scaled[:, : PAST - 1], inputs[:, 1:PAST]], -1)
        begun = (~batch.is_first[:, 1:PAST]).float().flip(1).cumprod(1).flip(1)  # 0 up to the episode's first row
        past = past * begun.unsqueeze(-1)
        _, hidden = self.gru(past)
        vectors, outs = [scaled[:, PAST - 1]], []
        for t in range(PAST, inputs.shape[1]):
            seen, hidden = self.gru(torch.cat([vectors[-1], inputs[:, t]], -1).unsqueeze(1), hidden)
            outs.append(self.head(seen[:, 0]))
            vectors.append(vectors[-1] + self.step_std * self.split(outs[-1])[0])
        return outs, vectors

    def update(self, progress: float) -> None:
        batch = self.sample(self.rows, PAST + self.ahead)
        outs, vectors = self.roll(batch)
        after = ((batch.vector - self.mean) / self.std)[:, PAST:]
        row = self.loss(torch.stack(outs, 1), torch.stack(vectors[:-1], 1), after, batch, slice(PAST, None))
        within = torch.cumprod((~batch.is_first[:, PAST:]).float(), 1)  # of the same episode
        self.descend((row * within).mean(), progress)

    @torch.no_grad()
    def foretell(self, batch: Batch) -> Foretold:
        outs, vectors = self.roll(batch)
        _, _, rewards, going_on = zip(*(self.split(out) for out in outs), strict=True)
        return self.stacked(vectors[1:], list(rewards), list(going_on))


class Persistence:
    """Nothing moves, nothing ends, and a step pays what the last one did."""

    def update(self, progress: float) -> None:
        pass

    def foretell(self, batch: Batch) -> Foretold:
        def still(x: Tensor) -> Tensor:
            return x[:, PAST - 1 : PAST].expand_as(x[:, PAST:])

        return Foretold(still(batch.vector), still(batch.reward), torch.ones_like(batch.reward[:, PAST:]))
