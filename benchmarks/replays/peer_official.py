"""DreamerV3's own replay (`embodied.replay`), with the settings of its `configs.yaml`: chunks of 1,024 in memory."""
# pyright: reportMissingImports=false
# It lives in an environment of its own

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from protocol import BATCH, EPISODE, LENGTH, serve

# The packages' own `__init__` would import JAX, which a replay does without.
for path in (path for path in sys.path if (Path(path) / "embodied/core/replay.py").exists()):
    for name in ("embodied", "embodied.core"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [f"{path}/{name.replace('.', '/')}"]

from embodied.core.replay import Replay  # noqa: E402


class Official:
    def _made(self, folder: Path, steps: int) -> Replay:
        return Replay(length=LENGTH, capacity=steps, directory=str(folder), chunksize=1024, save_wait=True)

    def write(self, folder: Path, episodes: Iterator[dict[str, np.ndarray]], steps: int) -> None:
        folder.mkdir(parents=True)
        replay, flags = self._made(folder, steps), {"is_terminal": np.False_}
        for number, episode in enumerate(episodes):
            for i in range(EPISODE):
                ends = {"is_first": np.bool_(i == 0), "is_last": np.bool_(i == EPISODE - 1)}
                replay.add({key: array[i] for key, array in episode.items()} | ends | flags)
            if number % 50 == 49:
                replay.save()
        replay.save()

    def open(self, folder: Path, steps: int, images: bool) -> Replay:
        replay = self._made(folder, steps)
        replay.load()
        return replay

    def sample(self, replay: Replay) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        batch = replay.sample(BATCH)
        return batch["vector"], batch.get("image"), batch["is_first"]


if __name__ == "__main__":
    serve(Official())
