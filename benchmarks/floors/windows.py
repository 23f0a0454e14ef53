"""The Warthog's logs as episodes of one contiguous 2-s window each, so that nothing can reach over a join.

E logged episodes of three windows of W = 40 rows at 20 Hz, D channels, A commands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.episode import Episode
from worldmodel.storage import LogReader, LogWriter, make_schema

WINDOW = 40
RARE = "ice"


@dataclass(frozen=True)
class Logs:
    """Logged episodes as the archive holds them, each cut at its joins."""

    vector: np.ndarray  # (E, 3, W, D)
    action: np.ndarray  # (E, 3, W, A)
    floor: np.ndarray  # (E,)
    session: np.ndarray  # (E,)
    split: np.ndarray  # (E,)
    names: tuple[list[str], list[str]]

    @classmethod
    def load(cls, archive: Path) -> "Logs":
        with np.load(archive, allow_pickle=False) as file:
            vector, action = (file[name].reshape(len(file["obs"]), -1, WINDOW, file[name].shape[-1])
                              for name in ("obs", "action"))  # fmt: skip
            names = [str(n) for n in file["obs_names"]], [str(n) for n in file["action_names"]]
            return cls(vector, action, file["context"], file["session"], file["split"], names)

    def training(self, rare: int, seed: int) -> np.ndarray:
        """Numbers of the training episodes: all but ice, and `rare` of ice; fewer are always among more."""
        train = self.split == "train"
        ice = np.random.default_rng(seed).permutation(np.flatnonzero(train & (self.floor == RARE)))
        return np.sort(np.concatenate([np.flatnonzero(train & (self.floor != RARE)), ice[:rare]]))

    def write(
        self,
        folder: Path,
        train: Sequence[int] | np.ndarray,
        test: Sequence[int] | np.ndarray,
        told: Callable[[int], dict[str, float]],
    ) -> LogReader:
        """A log folder in which each window is an episode; `told` gives what is known of a logged episode's floor."""
        if not (folder / "done").exists():
            limits = np.abs(self.action).max((0, 1, 2)).tolist()
            schema = make_schema("warthog", 20.0, *self.names, [-x for x in limits], limits)
            with LogWriter(folder, schema, sync=False) as writer:
                for split, numbers in (("train", train), ("test", test)):
                    for e in numbers:
                        for w in range(self.vector.shape[1]):
                            info = {"split": split, "episode": int(e), "window": w, "floor": str(self.floor[e])}
                            info["session"] = str(self.session[e])
                            writer.append(self._episode(int(e), w, told(int(e)), info))
            (folder / "done").touch()
        return LogReader(folder)

    def _episode(self, e: int, w: int, physics: dict[str, float], info: dict) -> Episode:
        action, nothing = self.action[e, w, :-1], np.zeros(WINDOW - 1, np.float32)
        vector = {"vector": self.vector[e, w]}
        return Episode(vector, action, action, nothing, nothing, False, True, physics, info)
