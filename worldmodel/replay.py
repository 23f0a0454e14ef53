"""The one place that turns logged episodes (Gymnasium's order) into the RSSM's order, as segments `(B, T)`.

In the RSSM's order row t holds what arrived together: the observation, and the action, push and reward of the step that
led to it. An episode's first row carries none of these. Actions are scaled to [-1, 1] by the bounds in the schema, and
spikes (`worldmodel.spikes`) are mended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from worldmodel.context import PUSH, ContextSpec
from worldmodel.device import CPU
from worldmodel.spikes import STILL
from worldmodel.storage import LogReader


@dataclass
class Batch:
    """Segments of B by T; C is the number of context factors."""

    vector: Tensor  # (B, T, D) in the log's own units
    image: Tensor | None  # (B, T, 64, 64, 3) uint8
    action: Tensor  # (B, T, A) the command that led here
    applied_action: Tensor  # (B, T, A) what reached the motors
    context: Tensor  # (B, T, C) scaled
    known: Tensor  # (B, T, C) 0 or 1
    labelled: Tensor  # (B, T) bool: the physics of this episode is known
    reward: Tensor  # (B, T)
    is_first: Tensor  # (B, T) bool: an episode's first row, and a segment's
    is_terminal: Tensor  # (B, T) bool
    demonstrated: Tensor  # (B, T, A) what the demonstrator meant to command here (zero on an episode's last row)
    is_last: Tensor  # (B, T) bool
    episode: np.ndarray  # (B, T) index into the log
    step: np.ndarray  # (B, T) step within the episode

    @classmethod
    def without_physics(cls, action: Tensor, image: Tensor | None = None, **rows: Tensor) -> "Batch":
        """Of the rest, as `rows`, alone: no physics is known, and what was commanded reached the motors."""
        shape = action.shape[:2]
        nothing, nowhere = action.new_zeros(*shape, 0), np.zeros(shape, np.int64)
        return cls(
            image=image,
            action=action,
            applied_action=action,
            demonstrated=action,
            context=nothing,
            known=nothing,
            labelled=action.new_zeros(shape, dtype=torch.bool),
            episode=nowhere,
            step=nowhere,
            **rows,
        )

    def to(self, device: torch.device | str) -> "Batch":
        device = torch.device(device)
        if device == self.vector.device:
            return self
        # From pinned memory a GPU fetches them by itself, while the CPU goes on.
        pinned = device.type == "cuda" and self.vector.is_cpu
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {k: (v.pin_memory() if pinned else v).to(device, non_blocking=pinned) for k, v in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Statistics:
    """Scales of a log's channels, in the log's own units; a channel that never moves has `std` 1."""

    mean: np.ndarray  # (D,)
    std: np.ndarray  # (D,)
    step_std: np.ndarray  # (D,) of the change from one row to the next


class Replay:
    """Random segments of a log folder, gathered from memory-mapped rows: data larger than memory train.

    Args:
        reader: an opened log.
        episodes: which episodes to use (a training or a held-out split); default all.
        terminal_share: share of segments that are placed so as to hold an episode's termination, if any is logged.
            Falls are rare and matter most.
        device: where batches are wanted.
    """

    def __init__(
        self,
        reader: LogReader,
        context: ContextSpec,
        episodes: Sequence[int] | None = None,
        terminal_share: float = 0.2,
        device: torch.device = CPU,
    ) -> None:
        self.reader, self.context, self.device = reader, context, device
        self.episodes = np.arange(len(reader)) if episodes is None else np.asarray(episodes)
        if not len(self.episodes):
            raise UserError("no episodes to learn from: record or give more (at least 2, one is held out)")
        index = reader.episodes
        self.start = np.array([e["start"] for e in index], np.int64)
        self.length = np.array([e["length"] for e in index], np.int64)  # steps; one row more
        self.terminated = np.array([e["terminated"] for e in index], bool)
        low, high = (np.asarray(reader.schema["action"][key], np.float32) for key in ("low", "high"))
        self.action_centre = (low + high) / 2
        self.action_scale = np.where(high > low, (high - low) / 2, 1.0).astype(np.float32)
        encoded = [context.encode(e["physics"]) for e in index]
        self.values = np.stack([v for v, _ in encoded])
        self.known = np.stack([k for _, k in encoded])
        self.labelled = np.array([bool(e["physics"]) for e in index])
        # A permuted or split log is laid end to end virtually; a segment runs over episode borders and resets there.
        rows = self.length[self.episodes] + 1
        self.offset = np.concatenate([[0], np.cumsum(rows)])
        self.total = int(self.offset[-1])
        self.terminals = np.flatnonzero(self.terminated[self.episodes])
        self.terminal_share = terminal_share if len(self.terminals) else 0.0

    def sample(self, batch: int, length: int, rng: np.random.Generator, plain: bool = False) -> Batch:
        """Segments (batch, length) that start anywhere and go on into the next episode where one ends.

        Args:
            plain: no images, and no preference for terminations.
        """
        at = rng.integers(0, self.total, batch)
        forced = rng.random(batch) < (0.0 if plain else self.terminal_share)
        if forced.any():
            ends = self.offset[self.terminals[rng.integers(0, len(self.terminals), int(forced.sum()))] + 1] - 1
            at[forced] = ends - rng.integers(0, length, int(forced.sum()))
        return self.gather((at[:, None] + np.arange(length)) % self.total, images=not plain)

    def whole(self, which: Sequence[int], length: int) -> Batch:
        """The first `length` rows of given episodes (positions in this replay's list), padded by repeating the last."""
        chosen = np.asarray(which)
        rows = np.minimum(np.arange(length), self.length[self.episodes[chosen]][:, None])
        return self.gather(self.offset[chosen][:, None] + rows)

    def gather(self, virtual: np.ndarray, images: bool = True) -> Batch:
        """(B, T) virtual row numbers to a batch, without the images if they are not wanted."""
        position = np.searchsorted(self.offset, virtual, side="right") - 1
        episode = self.episodes[position]
        step = virtual - self.offset[position]
        row = self.start[episode] + step
        rows = self.reader.rows
        here, before = rows.take(row), rows.take(np.maximum(row - 1, 0))
        first = step == 0
        first[:, 0] = True  # a segment begins without memory, wherever it starts
        started = step > 0  # the step that led here exists, though the segment may not hold it
        last = step == self.length[episode]
        context, known = self.values[episode].copy(), self.known[episode]
        if PUSH in self.context.names:
            column = self.context.names.index(PUSH)
            context[..., column] = np.where(started, before["push"] / self.context.scale[column], 0.0)

        def scaled(action: np.ndarray, given: np.ndarray) -> Tensor:
            within = (action - self.action_centre) / self.action_scale
            # Where there was no action, logs of others may hold NaN.
            return torch.from_numpy(np.where(given[..., None], within, np.float32(0)))

        image = self.reader.take_images(row) if images and self.reader.images is not None else None
        vector = self.reader.spikes.mend(here["vector"], row)
        return Batch(
            vector=torch.from_numpy(np.ascontiguousarray(vector)),
            image=None if image is None else torch.from_numpy(image),
            action=scaled(before["action"], started),
            applied_action=scaled(before["applied_action"], started),
            context=torch.from_numpy(context.astype(np.float32)),
            known=torch.from_numpy(known),
            labelled=torch.from_numpy(self.labelled[episode]),
            reward=torch.from_numpy(np.where(started, before["reward"], 0.0).astype(np.float32)),
            is_first=torch.from_numpy(first),
            is_terminal=torch.from_numpy(last & self.terminated[episode]),
            demonstrated=scaled(here["demonstrated"], ~last),
            is_last=torch.from_numpy(last),
            episode=episode,
            step=step,
        ).to(self.device)

    def only(self, episodes: Sequence[int]) -> "Replay":
        """Of these episodes of the log."""
        return Replay(self.reader, self.context, episodes, self.terminal_share, self.device)

    def some_rows(self, limit: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers in the log of at most about `limit` rows, whole episodes, and which begin an episode."""
        return self.reader.some_rows(self.episodes, limit)

    def statistics(self) -> Statistics:
        """Scales of the channels over these episodes, or over some of them where they are many."""
        rows, begins = self.some_rows()
        vector = self.reader.spikes.mend(self.reader.rows["vector"][rows], rows).astype(np.float64)
        std = vector.std(0)
        std = np.where(std > STILL, std, 1.0)
        # A channel that never moves within an episode (a goal) would ask for infinite precision.
        step_std = np.maximum(np.diff(vector, axis=0)[~begins[1:]].std(0), 1e-3 * std)
        return Statistics(*(x.astype(np.float32) for x in (vector.mean(0), std, step_std)))
