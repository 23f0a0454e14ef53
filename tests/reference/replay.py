"""Replay folders and the official DreamerV3: `record` writes one, `load` reads one and prints what it found as JSON.

Runs in an environment of its own (README.md); of this project it imports nothing.
"""

import json
import sys

import elements
import embodied.core.replay as official
import numpy as np

LENGTHS = ((3, 9), (5, 2, 4))  # of the episodes of two environments
CHUNK = 5


def record(folder: str) -> None:
    """Every number names its environment, episode and step. The second environment is cut off in its last episode."""
    elements.UUID.reset(debug=False)
    replay = official.Replay(length=2, chunksize=CHUNK, directory=folder, save_wait=True)
    for worker, lengths in enumerate(LENGTHS):
        for episode, length in enumerate(lengths):
            cut_off = worker == 1 and episode == 2
            for step in range(length + 1):
                last = step == length and not cut_off
                name = 1000 * worker + 100 * episode + step
                replay.add(
                    {
                        "position": np.float32([name, -name]),
                        "image": np.full((64, 64, 3), step, np.uint8),
                        "reward": np.float32(name / 10),
                        "is_first": step == 0,
                        "is_last": last,
                        "is_terminal": last and episode == 0,
                        "action": np.float32([0, 0, 0]) if last else np.float32([name, name, 7]),
                        "reset": last,
                        "dyn/deter": np.zeros(4, np.float32),
                        "log/fps": np.float32(1),
                    },
                    worker,
                )
    replay.save()


def load(folder: str) -> None:
    """All items that the official code makes of a folder, each of two successive rows, in the order of insertion."""
    replay = official.Replay(length=2, directory=folder)
    replay.load()
    items = [replay._getseq(*item) for item in replay.items.values()]
    batch = replay.sample(4)
    found = {
        "items": len(items),
        "batch": {key: [str(value.dtype), list(value.shape)] for key, value in batch.items()},
        "rows": {key: [item[key].tolist() for item in items] for key in items[0] if key not in ("image", "stepid")},
        "images": [item["image"][:, 0, 0, 0].tolist() for item in items] if "image" in items[0] else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    {"record": record, "load": load}[sys.argv[1]](sys.argv[2])
