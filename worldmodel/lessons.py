"""The logs as a world model is shown them: split, under one context, with those of earlier runs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from configs import UserError
from worldmodel.context import ContextSpec
from worldmodel.device import CPU
from worldmodel.earlier import Earlier, found, mixed
from worldmodel.replay import Batch, Replay
from worldmodel.storage import LogReader


def split_episodes(reader: LogReader) -> tuple[list[int], list[int]]:
    """Training and held-out episodes: as the log's own `split` says, else every tenth is held out (at least one).

    Pieces of one recording, between which something is missing, go together.
    """
    splits = [e["info"].get("split") for e in reader.episodes]
    if any(s in ("test", "val") for s in splits):
        train = [i for i, s in enumerate(splits) if s not in ("test", "val")]
        held_out = [i for i, s in enumerate(splits) if s == "test"] or [i for i, s in enumerate(splits) if s == "val"]
    else:
        number = _recordings(reader)
        every = min(10, max(number) + 1)
        held_out = [i for i in range(len(reader)) if number[i] % every == every - 1]
        train = [i for i in range(len(reader)) if number[i] % every != every - 1]
    if not train or not held_out:
        raise UserError(
            f"{len(reader)} episodes cannot be split into training and held-out ones; at least 2 are needed"
        )
    return train, held_out


def _recordings(reader: LogReader) -> list[int]:
    """The number of each episode's recording; of the episode itself, where all are of one."""
    infos = [episode["info"] for episode in reader.episodes]
    whole = [
        (info["source"], info["source_episode"], info["source_part"]) if "source_part" in info else i
        for i, info in enumerate(infos)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(whole))}
    return [numbers[name] for name in whole] if len(numbers) > 1 else list(range(len(infos)))


def held_out_of(reader: LogReader, context: ContextSpec) -> Replay:
    """The episodes that nothing is learnt from."""
    return Replay(reader, context, split_episodes(reader)[1])


@dataclass
class Lessons:
    """What is learnt from and what is held out, of new logs and of earlier ones; nothing before `show`."""

    reader: LogReader
    terminal_share: float = 0.0
    rehearsal: float = 0.0  # share of every batch from earlier logs, if there are any
    device: torch.device = CPU
    replay: Replay = field(init=False)
    held_out: Replay = field(init=False)
    earlier: list[Earlier] = field(init=False, default_factory=list)

    def context(self) -> ContextSpec:
        """What the episodes that are learnt from tell of their physics."""
        physics = [self.reader.episodes[i]["physics"] for i in split_episodes(self.reader)[0]]
        return ContextSpec.from_logs(physics, np.asarray(self.reader.rows["push"]), self.reader.images is not None)

    def show(self, context: ContextSpec, earlier_logs: Sequence[str] = ()) -> list[str]:
        """Present all of them under this context; a line on each of the earlier folders that cannot be opened."""
        readers, missing = found(earlier_logs)
        self.replay, self.held_out = self._under(context, self.reader)
        self.earlier = [Earlier(*self._under(context, reader)) for reader in readers]
        return missing

    def _under(self, context: ContextSpec, reader: LogReader) -> tuple[Replay, Replay]:
        train, held_out = split_episodes(reader)
        return (
            Replay(reader, context, train, self.terminal_share, self.device),
            Replay(reader, context, held_out, device=self.device),
        )

    def sample(self, batch: int, length: int, rng: np.random.Generator, plain: bool = False) -> Batch:
        return mixed(self.replay, self.earlier, self.rehearsal, batch, length, rng, plain)

    def trouble(self) -> list[str]:
        """What looks wrong in the new logs."""
        names = self.reader.schema["observation"]["vector"].get("names")
        return [
            f"{names[c] if names else f'channel {c}'}: {count} samples lie absurdly far outside of all others and "
            "count as not measured; the one before holds in their place"
            for c, count in enumerate(np.bincount(self.reader.spikes.channel))
            if count
        ]
