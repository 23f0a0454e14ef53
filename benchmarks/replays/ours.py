"""Our log folder, memory-mapped."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from protocol import ACTION, BATCH, LENGTH, VECTOR, serve

from worldmodel.context import ContextSpec
from worldmodel.episode import Episode
from worldmodel.replay import Replay
from worldmodel.storage import LogReader, LogWriter, make_schema


class Ours:
    def write(self, folder: Path, episodes: Iterator[dict[str, np.ndarray]], steps: int) -> None:
        writer = None
        for episode in episodes:
            observation = {key: episode[key] for key in ("vector", "image") if key in episode}
            if writer is None:
                names = [f"x{i}" for i in range(VECTOR)], [f"u{i}" for i in range(ACTION)]
                shape = episode["image"].shape[1:] if "image" in episode else None
                schema = make_schema("replay", 20, *names, [-1.0] * ACTION, [1.0] * ACTION, shape)
                writer = LogWriter(folder, schema, sync=False)
            action, reward = episode["action"][:-1], episode["reward"][:-1]
            writer.append(Episode(observation, action, action, reward, np.zeros_like(reward), False, True))
        if writer:
            writer.close()

    def open(self, folder: Path, steps: int, images: bool) -> Replay:
        self.random = np.random.default_rng(0)
        return Replay(LogReader(folder), ContextSpec((), (), ()))

    def sample(self, replay: Replay) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        batch = replay.sample(BATCH, LENGTH, self.random)
        image = None if batch.image is None else batch.image.numpy()
        return batch.vector.numpy(), image, batch.is_first.numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(Ours())
