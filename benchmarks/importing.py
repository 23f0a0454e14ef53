"""How fast each format of logs is imported: the same recordings written in each, and the CPU time to a log folder.

    python benchmarks/importing.py

A row is 20 numbers observed and 4 commanded, at 100 Hz on an even clock. MB are those of the files as they are on the
disk; rows a second compare formats, whose files differ in size.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from worldmodel.episode import Episode
from worldmodel.logs.dreamer_chunks import write_chunks
from worldmodel.logs.importing import as_log_folder
from worldmodel.storage import LogReader

OBSERVED, COMMANDED, HZ = 20, 4, 100
SEEN, SENT = [f"x{i}" for i in range(OBSERVED)], [f"u{i}" for i in range(COMMANDED)]
Recording = tuple[np.ndarray, np.ndarray]  # (T, 20) and (T, 4)
MAPPING = {
    "task": "speed",
    "control_hz": HZ,
    "observation": {"columns": dict(zip(SEEN, SEEN, strict=True))},
    "action": {"columns": dict(zip(SENT, SENT, strict=True))},
}
TIMED = {**MAPPING, "time": "time"}


@dataclass
class Options:
    rows: int = 60_000
    recordings: int = 12
    rounds: int = 3
    """Each format is imported so often; the least CPU time counts."""
    out: Path = Path("runs/importing")


def recordings(options: Options) -> list[Recording]:
    random, length = np.random.default_rng(0), options.rows // options.recordings
    time_s = np.arange(length)[:, None] / HZ
    made = []
    for _ in range(options.recordings):
        speed, phase = random.uniform(0.5, 5, OBSERVED), random.uniform(0, 6, OBSERVED)
        seen = np.sin(speed * time_s + phase) + 0.01 * random.standard_normal((length, OBSERVED))
        made.append((seen, random.uniform(-1, 1, (length, COMMANDED))))
    return made


def columns(recording: Recording) -> dict[str, np.ndarray]:
    seen, sent = recording
    time_s = np.arange(len(seen)) / HZ
    return {"time": time_s, **dict(zip(SEEN, seen.T, strict=True)), **dict(zip(SENT, sent.T, strict=True))}


def csv(folder: Path, made: list[Recording]) -> dict:
    for i, recording in enumerate(made):
        table = columns(recording)
        path = folder / f"{i}.csv"
        np.savetxt(path, np.stack(list(table.values()), 1), "%.9g", ",", header=",".join(table), comments="")
    return TIMED


def csv_with_gaps(folder: Path, made: list[Recording]) -> dict:
    """Empty cells and a column of text: the slow way through the reader."""
    csv(folder, made)
    for path in folder.iterdir():
        head, *lines = path.read_text().splitlines()
        lines = [f"{line},ok" if i % 100 else f"{line.rpartition(',')[0]},,ok" for i, line in enumerate(lines)]
        path.write_text("\n".join([f"{head},state", *lines]) + "\n")
    return TIMED


def parquet(folder: Path, made: list[Recording]) -> dict:
    for i, recording in enumerate(made):
        pq.write_table(pa.table(columns(recording)), folder / f"{i}.parquet")
    return TIMED


def npz(folder: Path, made: list[Recording]) -> dict:
    names = {"obs": SEEN, "act": SENT}
    arrays = dict(zip(names, (np.stack(part).astype(np.float32) for part in zip(*made, strict=True)), strict=True))
    np.savez_compressed(folder / "log.npz", **arrays)  # pyright: ignore[reportArgumentType]
    observation, action = ({"array": key, "names": value} for key, value in names.items())
    return {**MAPPING, "observation": observation, "action": action}


def hdf5(folder: Path, made: list[Recording]) -> None:
    """As Minari writes it."""
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for i, (seen, sent) in enumerate(made):
            steps = len(sent) - 1
            group = file.create_group(f"episode_{i}")
            group["observations"], group["actions"] = seen.astype(np.float32), sent[:-1].astype(np.float32)
            group["rewards"], group["terminations"] = np.zeros(steps), np.zeros(steps, bool)


def lerobot(folder: Path, made: list[Recording]) -> None:
    lengths = [len(seen) for seen, _ in made]
    place = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    (folder / "data/chunk-000").mkdir(parents=True)
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    seen, sent = (np.concatenate(part).astype(np.float32) for part in zip(*made, strict=True))
    lists = {
        "observation.state": pa.FixedSizeListArray.from_arrays(seen.ravel(), OBSERVED),
        "action": pa.FixedSizeListArray.from_arrays(sent.ravel(), COMMANDED),
    }
    frame = np.concatenate([np.arange(length) for length in lengths])
    counts = {"timestamp": (frame / HZ).astype(np.float32), "episode_index": np.repeat(np.arange(len(made)), lengths)}
    pq.write_table(pa.table({**lists, **counts}), folder / place.format(chunk_index=0, file_index=0))
    nothing = [0] * len(made)
    meta = {"episode_index": range(len(made)), "length": lengths}
    meta |= {"data/chunk_index": nothing, "data/file_index": nothing}
    pq.write_table(pa.table({k: list(v) for k, v in meta.items()}), folder / "meta/episodes/chunk-000/file-000.parquet")
    widths = {"observation.state": OBSERVED, "action": COMMANDED, "timestamp": 1, "episode_index": 1}
    features = {name: {"dtype": "float32", "shape": [width], "names": None} for name, width in widths.items()}
    info = {"codebase_version": "v3.0", "fps": HZ, "data_path": place, "features": features}
    (folder / "meta/info.json").write_text(json.dumps(info))


def dreamer(folder: Path, made: list[Recording]) -> None:
    def episodes():
        for seen, sent in made:
            action, nothing = sent[:-1].astype(np.float32), np.zeros(len(sent) - 1, np.float32)
            yield Episode({"vector": seen.astype(np.float32)}, action, action, nothing, nothing, False, True)

    write_chunks(episodes(), folder)


def bag(folder: Path, made: list[Recording], plugin: StoragePlugin) -> dict:
    """Two topics: JointState, with half of what is observed as positions and half as speeds; commands as an array."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    kinds, half = store.types, OBSERVED // 2
    names = [f"joint_{i}" for i in range(half)]
    layout = kinds["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    for i, (seen, sent) in enumerate(made):
        with Writer(folder / f"bag_{i}", version=9, storage_plugin=plugin) as writer:
            states = writer.add_connection("/joint_states", "sensor_msgs/msg/JointState", typestore=store)
            orders = writer.add_connection("/orders", "std_msgs/msg/Float64MultiArray", typestore=store)
            for t in range(len(seen)):
                stamp_ns = 1_700_000_000_000_000_000 + t * 10**9 // HZ
                stamp = kinds["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
                header = kinds["std_msgs/msg/Header"](stamp, "base")
                state = kinds["sensor_msgs/msg/JointState"](header, names, seen[t, :half], seen[t, half:], np.zeros(0))
                order = kinds["std_msgs/msg/Float64MultiArray"](layout, sent[t])
                for connection, message in ((states, state), (orders, order)):
                    writer.write(connection, stamp_ns, store.serialize_cdr(message, message.__msgtype__))
    seen = [f"/joint_states.{part}[{name}]" for part in ("position", "velocity") for name in names]
    return {
        **MAPPING,
        "observation": {"columns": dict(zip(SEEN, seen, strict=True))},
        "action": {"columns": {name: f"/orders.data[{i}]" for i, name in enumerate(SENT)}},
    }


FORMATS: dict[str, Callable[[Path, list[Recording]], dict | None]] = {
    "CSV": csv,
    "CSV with gaps and text": csv_with_gaps,
    "Parquet": parquet,
    "npz": npz,
    "HDF5 (Minari)": hdf5,
    "LeRobot v3": lerobot,
    "DreamerV3 chunks": dreamer,
    "rosbag2 (SQLite)": lambda folder, made: bag(folder, made, StoragePlugin.SQLITE3),
    "rosbag2 (MCAP)": lambda folder, made: bag(folder, made, StoragePlugin.MCAP),
}


def main(options: Options) -> None:
    made = recordings(options)
    print("| format | files | CPU | MB a CPU second | rows a CPU second |\n|---|---|---|---|---|")
    for name, write in FORMATS.items():
        shutil.rmtree(options.out, ignore_errors=True)
        (options.out / "logs").mkdir(parents=True)
        content = write(options.out / "logs", made)
        mapping = options.out / "mapping.yaml" if content else None
        if mapping:
            mapping.write_text(yaml.safe_dump(content, sort_keys=False))
        size = sum(path.stat().st_size for path in (options.out / "logs").rglob("*") if path.is_file())
        spent, rows = [], 0
        for i in range(options.rounds):
            begun = time.process_time()
            logs = as_log_folder(options.out / "logs", options.out / f"imported-{i}", mapping)
            spent.append(time.process_time() - begun)
            rows = LogReader(logs).total_rows
            if rows < 0.99 * options.rows:
                raise ValueError(f"{name}: {rows} of {options.rows} rows came through")
        best = min(spent)
        print(
            f"| {name} | {size / 1e6:.1f} MB | {best:.2f} s | {size / 1e6 / best:.1f} | {rows / best:,.0f} |",
            flush=True,
        )
    shutil.rmtree(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
