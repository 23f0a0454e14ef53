"""TorchRL's memory-mapped replay: `LazyMemmapStorage` and `SliceSampler`, its slower look for borders cached.

What it holds of a step is what ours holds, no more: no `next` observation, as that would double it.
"""
# pyright: reportMissingImports=false
# It lives in an environment of its own

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from protocol import BATCH, EPISODE, LENGTH, serve
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, SliceSampler, TensorDictReplayBuffer


class TorchRL:
    def _made(self, folder: Path, steps: int) -> TensorDictReplayBuffer:
        return TensorDictReplayBuffer(
            storage=LazyMemmapStorage(steps, scratch_dir=folder, existsok=True),
            sampler=SliceSampler(num_slices=BATCH, traj_key="episode", cache_values=True, truncated_key=None),
            batch_size=BATCH * LENGTH,
        )

    def write(self, folder: Path, episodes: Iterator[dict[str, np.ndarray]], steps: int) -> None:
        replay = self._made(folder, steps)
        for number, episode in enumerate(episodes):
            data = {key: torch.from_numpy(array) for key, array in episode.items()}
            data["is_first"] = torch.arange(EPISODE) == 0
            data["terminated"] = torch.zeros(EPISODE, dtype=torch.bool)
            data["episode"] = torch.full((EPISODE,), number)
            replay.extend(TensorDict(data, [EPISODE]))
        replay.storage.dumps(folder)

    def open(self, folder: Path, steps: int, images: bool) -> TensorDictReplayBuffer:
        replay = self._made(folder, steps)
        replay.storage.loads(folder)
        return replay

    def sample(self, replay: TensorDictReplayBuffer) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        batch = replay.sample().reshape(BATCH, LENGTH)
        image = batch["image"].numpy() if "image" in batch.keys() else None  # noqa: SIM118 (a TensorDict)
        return batch["vector"].numpy(), image, batch["is_first"].numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(TorchRL())
