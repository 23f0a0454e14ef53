"""Minari, robomimic and D4RL files, written by hand as those projects write them, and hostile ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from damage import check_survives

from configs import UserError
from worldmodel.logs.hdf5 import FORMAT
from worldmodel.logs.importing import as_log_folder, import_logs
from worldmodel.storage import LogReader

h5py = pytest.importorskip("h5py", reason="h5py is not installed (the extra hdf5)")

T = 7


def numbers(*shape: int) -> np.ndarray:
    """Every number names where it came from."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def write_minari(folder: Path, episodes: int = 11) -> Path:
    (folder / "data").mkdir(parents=True)
    box = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -2.0], "high": [1.0, 2.0]}
    metadata = {"dataset_id": "arm/reach-v0", "action_space": json.dumps(box)}
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for i in range(episodes):
            group = file.create_group(f"episode_{i}")
            group.attrs["id"] = i
            group.attrs["seed"] = 40 + i
            steps = T + i
            group["observations/state"] = numbers(steps + 1, 3) + 1000 * i
            group["observations/goal"] = numbers(steps + 1, 1)
            group["observations/instruction"] = [b"reach"] * (steps + 1)
            group["actions"] = -numbers(steps, 2)
            group["rewards"] = numbers(steps).astype(np.float64)
            group["terminations"] = np.arange(steps) == (steps - 1 if i % 2 else -1)
            group["truncations"] = np.arange(steps) == (-1 if i % 2 else steps - 1)
            group["infos/success"] = np.zeros(steps + 1, bool)
    return folder


def write_robomimic(path: Path, demos: int = 11, masks: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        for i in range(demos):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = T
            demo["obs/eef_pos"] = numbers(T, 3) + 100 * i
            demo["obs/gripper"] = numbers(T, 2)
            demo["obs/agentview_image"] = np.zeros((T, 84, 84, 3), np.uint8)
            demo["next_obs/eef_pos"] = numbers(T, 3) + 100 * i + 3
            demo["next_obs/gripper"] = numbers(T, 2) + 2
            demo["states"] = numbers(T, 9)
            demo["actions"] = -numbers(T, 4)
            demo["rewards"] = (np.arange(T) == T - 1) * float(i % 2)
            demo["dones"] = np.arange(T) == T - 1
        if masks:
            file["mask/train"] = [f"demo_{i}".encode() for i in range(demos - 1)]
            file["mask/valid"] = [f"demo_{demos - 1}".encode()]
    return path


def write_d4rl(path: Path, **changes: np.ndarray) -> Path:
    arrays = {
        "observations": numbers(10, 3),
        "actions": -numbers(10, 2),
        "rewards": numbers(10),
        "terminals": np.arange(10) == 3,
        "timeouts": np.arange(10) == 7,
        "infos/qpos": numbers(10, 5),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")
    return path


def read(path: Path) -> list:
    assert FORMAT.detects(path)
    return list(FORMAT.read(path, None).episodes())


def drafted(path: Path):
    mapping = FORMAT.draft(path)
    assert mapping is not None
    return mapping


def test_minari(tmp_path):
    folder = write_minari(tmp_path / "reach")
    episodes = read(folder)
    assert [len(episode.columns["actions"]) for episode in episodes] == [T + i for i in range(11)]  # 10 follows 9
    last = episodes[10]
    np.testing.assert_array_equal(last.columns["observations/state"], numbers(T + 11, 3) + 10_000)
    assert set(last.columns) == {"observations/state", "observations/goal", "actions", "rewards"}
    assert [episode.terminated for episode in episodes[:4]] == [False, True, False, True]
    assert last.labels == {"seed": 50}
    assert last.where.endswith("data/main_data.hdf5: episode_10")
    assert any("observations/instruction" in repair for repair in last.repairs)
    mapping = drafted(folder)
    assert (mapping.task, mapping.reward) == ("arm/reach-v0", "rewards")
    assert mapping.observation.columns == {"goal": "observations/goal", "state": "observations/state"}
    assert (mapping.action.low, mapping.action.high) == ([-1, -2], [1, 2])


def test_minari_with_one_array_of_observations(tmp_path):
    folder = write_minari(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        for group in file.values():
            del group["observations"]
            group["observations"] = numbers(len(group["actions"]) + 1, 4)
    assert read(folder)[0].columns["observations"].shape == (T + 1, 4)
    assert drafted(folder).observation.columns == {"observations": "observations"}


def test_minari_agrees_with_its_own_package(tmp_path, monkeypatch):
    storage = pytest.importorskip("minari.dataset.minari_storage", reason="minari is not installed")
    gymnasium = pytest.importorskip("gymnasium")
    from minari.data_collector import EpisodeBuffer

    space = gymnasium.spaces.Dict(
        {"state": gymnasium.spaces.Box(-1, 1, (3,)), "goal": gymnasium.spaces.Box(-1, 1, (1,))}
    )
    actions = gymnasium.spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
    (tmp_path / "data").mkdir()
    written = storage.MinariStorage.new(tmp_path / "data", space, actions, None, "hdf5")
    buffers = [
        EpisodeBuffer(
            id=i,
            seed=i,
            observations={"state": list(numbers(T + 1, 3) + i), "goal": list(numbers(T + 1, 1))},
            actions=list(numbers(T, 2)),
            rewards=list(range(T)),
            terminations=[False] * (T - 1) + [bool(i)],
            truncations=[False] * (T - 1) + [not i],
            infos={},
        )
        for i in range(2)
    ]
    written.update_episodes(buffers)
    first, second = read(tmp_path)
    np.testing.assert_array_equal(second.columns["observations/state"], numbers(T + 1, 3) + 1)
    np.testing.assert_array_equal(first.columns["rewards"], np.arange(T))
    assert (first.terminated, second.terminated) == (False, True)
    assert (drafted(tmp_path).action.low, drafted(tmp_path).action.high) == ([-1, -2], [1, 2])


def test_robomimic(tmp_path):
    path = write_robomimic(tmp_path / "low_dim.hdf5")
    episodes = read(path)
    assert len(episodes) == 11 and episodes[10].where.endswith("data/demo_10")
    eef = episodes[10].columns["obs/eef_pos"]
    assert eef.shape == (T + 1, 3)  # next_obs gives what the last action led to
    np.testing.assert_array_equal(eef, numbers(T + 1, 3) + 1000)
    assert "states" not in episodes[0].columns and "next_obs/eef_pos" not in episodes[0].columns
    assert [episode.terminated for episode in episodes[:4]] == [False, True, False, True]  # done without reward: no end
    assert [episode.labels["split"] for episode in episodes] == ["train"] * 10 + ["val"]
    mapping = drafted(path)
    assert (mapping.task, mapping.control_hz, mapping.split) == ("Lift", 20, "split")
    assert mapping.observation.columns == {"eef_pos": "obs/eef_pos", "gripper": "obs/gripper"}
    assert drafted(write_robomimic(tmp_path / "other.hdf5", masks=False)).split is None


def test_robomimic_at_another_rate_is_resampled(tmp_path):
    path = write_robomimic(tmp_path / "low_dim.hdf5", 2)
    logs = LogReader(import_logs(FORMAT, path, tmp_path / "logs", replace(drafted(path), control_hz=10)))
    assert [logs.episode(i).length for i in range(2)] == [3, 3]  # 7 steps of 0.05 s
    np.testing.assert_allclose(logs.episode(0).observation["vector"][:, 0], [0, 6, 12, 18])
    np.testing.assert_allclose(logs.episode(0).action[:, 0], [-2, -10, -18])


def test_d4rl_is_cut_where_an_episode_ends(tmp_path):
    path = write_d4rl(tmp_path / "walker.hdf5")
    episodes = read(path)
    assert [episode.columns["rewards"].tolist() for episode in episodes] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [episode.terminated for episode in episodes] == [True, False, False]
    assert episodes[1].where.endswith("episode 1 (rows 4 to 8)")
    assert drafted(path).action.names == ["action_0", "action_1"]
    assert [sum(episode.repairs.values()) for episode in episodes] == [4, 4, 2]  # steps without a stated rate
    stated = replace(drafted(path), control_hz=20)
    assert not any(episode.repairs for episode in FORMAT.read(path, stated).episodes())


def test_an_episode_of_one_row_has_no_step(tmp_path):
    path = write_d4rl(tmp_path / "walker.hdf5", terminals=np.isin(np.arange(10), [0, 4]))
    first, *_ = read(path)
    assert first.columns["rewards"].tolist() == [1, 2, 3, 4] and first.repairs["episodes of a single row left out"] == 1


def test_d4rl_takes_the_last_observation_where_it_is_logged(tmp_path):
    path = write_d4rl(tmp_path / "walker.hdf5", next_observations=numbers(10, 3) + 3)
    for episode in read(path):
        assert len(episode.columns["observations"]) == len(episode.columns["actions"]) + 1
        assert (np.diff(episode.columns["observations"], axis=0) == 3).all()


def test_another_layout_is_one_recording_that_needs_a_mapping(tmp_path):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/qpos"], file["action"] = numbers(T, 6), numbers(T, 6)
    (episode,) = read(tmp_path)
    assert set(episode.columns) == {"observations/qpos", "action"}
    assert FORMAT.draft(tmp_path) is None


def test_a_processed_copy_beside_the_logs_is_not_read(tmp_path):
    for name in ("run.hdf5", "run_smoothed.hdf5"):
        write_d4rl(tmp_path / name)
    mapping = replace(drafted(tmp_path), files="run.hdf5")
    assert {raw.source for raw in FORMAT.read(tmp_path, mapping).episodes()} == {"run.hdf5"}
    with pytest.raises(UserError, match=r"holds no HDF5 files among \*\.h5"):
        FORMAT.read(tmp_path, replace(mapping, files="*.h5"))


def test_a_recording_without_rows_is_left_out(tmp_path):
    plain = {
        "task": "cart",
        "control_hz": 10,
        "observation": {"columns": {"x": "x"}},
        "action": {"columns": {"u": "u"}},
    }
    for name, rows in (("a.h5", 5), ("b.h5", 0)):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"], file["u"] = numbers(rows, 2), numbers(rows)
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(plain))
    logs = LogReader(as_log_folder(tmp_path, tmp_path / "logs"))
    assert [one["info"]["source"] for one in logs.episodes] == ["a.h5"]
    assert logs.schema["source"]["repairs"] == {"recordings left out that have no rows": 1}
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x"], file["u"] = numbers(5, 0), numbers(5)
    with pytest.raises(UserError, match=r"c.h5: x has shape \(5, 0\), expected"):
        as_log_folder(tmp_path / "c.h5", tmp_path / "none")
    with pytest.raises(UserError, match="b.h5 gives no episode. It holds no rows"):
        as_log_folder(tmp_path / "b.h5", tmp_path / "none")


def fails(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        for episode in FORMAT.read(path, None).episodes():
            assert episode.columns
        FORMAT.draft(path)
    for word in (path.name, *words):
        assert word in str(error.value)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "elsewhere" / "secret.hdf5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["actions"] = numbers(10, 2)
    return path


def replaced(tmp_path: Path, make) -> Path:
    """A D4RL file whose actions `make` wrote."""
    path = write_d4rl(tmp_path / "d4rl.hdf5")
    with h5py.File(path, "r+") as file:
        del file["actions"]
        make(file)
    return path


def test_links_to_other_files_are_not_followed(tmp_path, secret):
    def external(file):
        file["actions"] = h5py.ExternalLink(str(secret), "actions")

    def soft(file):
        file["actions"] = h5py.SoftLink("/rewards")

    fails(replaced(tmp_path, external), "actions is a link")
    fails(replaced(tmp_path, soft), "actions is a link")


def test_a_link_to_another_file_on_the_way_is_not_followed(tmp_path, secret):
    path = write_robomimic(tmp_path / "demos.hdf5", 2)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs"]
        file["data/demo_1/obs"] = h5py.ExternalLink(str(secret), "/")
    fails(path, "demo_1/obs is a link")


def test_storage_in_other_files_is_not_read(tmp_path, secret):
    def external(file):
        file.create_dataset("actions", (10, 2), "f4", external=[(str(secret), 0, 80)])

    def virtual(file):
        layout = h5py.VirtualLayout((10, 2), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "actions", (10, 2))
        file.create_virtual_dataset("actions", layout)

    fails(replaced(tmp_path, external), "actions lies in other files")
    fails(replaced(tmp_path, virtual), "actions lies in other files")


def test_claims_of_size_are_checked_before_reading(tmp_path):
    def claim(file):
        file.create_dataset("actions", (10, 2**40), "f4", chunks=(1, 1024), fillvalue=1)

    fails(replaced(tmp_path, claim), "actions takes", "MiB")


def test_a_chunk_that_unpacks_to_more_than_it_should_is_not_unpacked(tmp_path, monkeypatch):
    import zlib

    monkeypatch.setattr("worldmodel.logs.hdf5_file.MOST_BYTES", 2**20)

    def bomb(file):
        data = file.create_dataset("actions", (10, 2), "f4", chunks=(10, 2), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**22), 9))

    fails(replaced(tmp_path, bomb), "unpacks to more than the 80 bytes")


def test_groups_that_lie_in_themselves_end(tmp_path):
    with h5py.File(tmp_path / "circle.hdf5", "w") as file:
        file["action"] = numbers(T, 2)
        for name in "abc":
            file[f"group/{name}"] = file["/"]
    (episode,) = read(tmp_path)
    assert set(episode.columns) == {"action"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"actions": np.array([b"left"] * 10)}, ("actions is not an array of numbers",)),
        ({"actions": numbers(10)}, ("actions has shape (10,)",)),
        ({"rewards": numbers(9)}, ("rewards has 9 rows", "observations has 10")),
        ({"observations": numbers(10, 2, 2)}, ("observations is not an array of numbers",)),
    ],
)
def test_wrong_kinds_and_shapes_are_named(tmp_path, changes, words):
    fails(write_d4rl(tmp_path / "d4rl.hdf5", **changes), *words)


def test_what_is_no_hdf5_is_not_claimed(tmp_path):
    (tmp_path / "empty.hdf5").write_bytes(b"")
    (tmp_path / "text.hdf5").write_bytes(b"time,x\n0,1\n")
    assert not FORMAT.detects(tmp_path) and not FORMAT.detects(tmp_path / "nowhere")


@pytest.mark.parametrize("write", [write_d4rl, lambda path: write_robomimic(path, 2)])
def test_a_damaged_file_never_gives_more_than_a_message(tmp_path, write):
    path = write(tmp_path / "whole.hdf5")
    check_survives(FORMAT, path, path)


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_a_damaged_minari_dataset_never_gives_more_than_a_message(tmp_path, name):
    folder = write_minari(tmp_path / "reach", 2)
    check_survives(FORMAT, folder, folder / "data" / name)


def test_an_episode_of_nothing_seen(tmp_path):
    folder = write_minari(tmp_path / "reach", 1)
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_0/observations"]
        file.create_group("episode_0/observations")
    fails(folder, "observations holds no numbers")


@pytest.mark.parametrize("write", [write_minari, write_robomimic, write_d4rl])
def test_it_needs_no_mapping(tmp_path, write):
    logs = LogReader(as_log_folder(write(tmp_path / "raw.hdf5"), tmp_path / "logs"))
    logs.check()
    first = logs.episode(0)
    np.testing.assert_array_equal(first.action, -numbers(20, first.action.shape[1])[: first.length])
    if write is write_minari:
        assert [logs.episode(i).length for i in range(11)] == [T + i for i in range(11)]
        assert logs.schema["action"]["low"] == [-1, -2]
        assert logs.schema["observation"]["vector"]["names"] == ["goal", "state_0", "state_1", "state_2"]
    if write is write_robomimic:
        assert [logs.episode(i).length for i in range(11)] == [T] * 11
        assert logs.schema["control_hz"] == 20
        assert logs.episode(10).info["split"] == "val"
        assert logs.episode(1).terminated and logs.episode(1).reward[-1] == 1
    if write is write_d4rl:
        assert [logs.episode(i).length for i in range(3)] == [3, 3, 1]
        assert [logs.episode(i).terminated for i in range(3)] == [True, False, False]
