"""Held-out open-loop error: how far a rollout that sees only the actions strays from what the log then shows."""

from dataclasses import dataclass

import numpy as np
import torch

from worldmodel.device import random_kept, seeded, set_random_state
from worldmodel.model import WorldModel
from worldmodel.replay import Batch, Replay


@dataclass
class OpenLoop:
    """Errors by horizon 1 to H; normalised by each channel's standard deviation over the training logs.

    The overall figure is the median over starts of the root mean square over channels: a mean would be ruled by the few
    starts in which an impact comes one step late. `channels` are root mean squares over starts, in the channel's unit.
    """

    model: np.ndarray  # (H,)
    persistence: np.ndarray  # (H,) the robot stands still
    channels: np.ndarray  # (H, D)
    channels_persistence: np.ndarray  # (H, D)
    starts: int
    traces: np.ndarray  # (2, n, H + 1, D) the first few starts: log, open loop
    where: list[tuple[int, int]]  # episode and step that each of these examples starts from
    std: np.ndarray  # (D,) over the training logs


@torch.no_grad()
def open_loop(
    model: WorldModel, replay: Replay, horizon: int, starts: int = 64, warmup: int = 10, seed: int = 0
) -> OpenLoop:
    """From `starts` held-out moments (after `warmup` filtered steps) imagine `horizon` steps under the logged actions.

    Rollouts stay within one episode; where episodes are too short for that, the horizon shrinks to what fits.
    """
    rows = replay.length[replay.episodes] + 1
    longest = int(rows.max())
    warmup = min(warmup, max(1, longest // 4))
    horizon = min(horizon, longest - warmup)
    rng = np.random.default_rng(seed)
    fits = np.flatnonzero(rows >= warmup + horizon)
    which = fits[rng.integers(0, len(fits), starts)]
    first = rng.integers(0, rows[which] - (warmup + horizon) + 1)
    batch = replay.gather(replay.offset[which][:, None] + first[:, None] + np.arange(warmup + horizon))
    guessed, truth = imagined(model, batch, warmup, seed)
    lived, std = batch.vector.cpu(), model.std.cpu()
    still = lived[:, warmup - 1 : warmup].expand_as(truth)

    def errors(guess: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        off = guess - truth
        overall = ((off / std) ** 2).mean(-1).sqrt().median(0).values
        return overall.numpy(), (off**2).mean(0).sqrt().numpy()

    overall, channels = errors(guessed)
    overall_still, channels_still = errors(still)
    start = lived[:6, warmup - 1 : warmup]
    traces = torch.stack([torch.cat([start, truth[:6]], 1), torch.cat([start, guessed[:6]], 1)])
    where = [(int(batch.episode[i, warmup - 1]), int(batch.step[i, warmup - 1])) for i in range(min(6, starts))]
    return OpenLoop(overall, overall_still, channels, channels_still, starts, traces.numpy(), where, std.numpy())


@torch.no_grad()
def imagined(model: WorldModel, batch: Batch, warmup: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model makes of segments of which it sees `warmup` rows, then the actions alone; and what was logged.

    Returns:
        Two (B, T - warmup, D), in the log's own units, on the CPU.
    """
    device = batch.vector.device
    was_training = model.training
    model.eval()
    with random_kept(device):
        set_random_state(seeded(seed, device), device)
        # Drawn, as dreams are. The likeliest class of every latent is a state that hardly ever occurs: on real logs
        # (Warthog) its rollouts strayed twice as far.
        guess = model.decode(model.imagine(*model.observe_past(batch, warmup))).cpu()
    model.train(was_training)
    return guess, batch.vector.cpu()[:, warmup:]
