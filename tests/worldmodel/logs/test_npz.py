"""Raw `.npz` logs to a log folder; the mapping's mistakes; the Warthog's own logs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs import UserError, from_dict, packaged
from worldmodel.logs import npz
from worldmodel.logs.importing import as_log_folder, import_logs
from worldmodel.logs.mapping import LogMapping, find_mapping
from worldmodel.storage import LogReader

EPISODES, SAMPLES = 3, 5
MAPPING = {
    "task": "cart",
    "control_hz": 10,
    "observation": {"array": "obs", "names": ["x_m", "vx_m_s"]},
    "action": {"array": "act", "names": ["force_n"]},
}


def arrays() -> dict[str, np.ndarray]:
    """Each value says episode, sample and column."""
    episode, sample = np.meshgrid(np.arange(EPISODES), np.arange(SAMPLES), indexing="ij")
    where = (episode * 100 + sample * 10).astype(np.float32)
    return {
        "obs": np.stack([where, where + 1], -1),
        "act": (where + 2)[..., None],
        "reward": where + 3,
        "floor": np.array(["ice", "sand", "ice"]),
        "split": np.array(["train", "val", "test"]),
        "run": np.array([7, 8, 9]),
        "dt": np.array(0.02),
    }


def flat(lengths=(5, 2, 4)) -> dict[str, np.ndarray]:
    whole = arrays()
    pieces = {
        key: np.concatenate([whole[key][i, :n] for i, n in enumerate(lengths)]) for key in ("obs", "act", "reward")
    }
    starts = np.cumsum([0, *lengths[:-1]])
    return {**whole, **pieces, "start": starts, "length": np.array(lengths)}


def save(folder: Path, content: dict, mapping: dict | None = None, name: str = "log") -> Path:
    folder.mkdir(exist_ok=True)
    if mapping is not None:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(mapping))
    np.savez(folder / f"{name}.npz", **content)
    return folder / f"{name}.npz"


def read(tmp_path: Path, content: dict, **changes) -> LogReader:
    return LogReader(as_log_folder(save(tmp_path / "raw", content, MAPPING | changes), tmp_path / "logs"))


def test_samples_become_steps(tmp_path):
    reader = read(tmp_path, arrays())
    assert len(reader) == EPISODES
    assert reader.schema["control_hz"] == 10
    assert reader.schema["observation"]["vector"]["names"] == ["x_m", "vx_m_s"]
    assert (reader.schema["action"]["low"], reader.schema["action"]["high"]) == ([2.0], [242.0])
    for i in range(EPISODES):
        episode = reader.episode(i)
        assert episode.length == SAMPLES - 1
        np.testing.assert_array_equal(episode.observation["vector"], arrays()["obs"][i])
        np.testing.assert_array_equal(episode.action, arrays()["act"][i, :-1])
        np.testing.assert_array_equal(episode.applied_action, episode.action)
        assert not episode.reward.any() and not episode.push.any()
        assert (episode.terminated, episode.truncated, episode.physics) == (False, True, {})
        assert episode.info["reward"] == "none" and episode.info["task"] == "cart"


def test_flat_arrays_are_cut_at_their_starts(tmp_path):
    reader = read(tmp_path, flat(), episodes={"start": "start", "length": "length"})
    assert [record["length"] for record in reader.episodes] == [4, 1, 3]
    for i, length in enumerate((5, 2, 4)):
        np.testing.assert_array_equal(reader.episode(i).observation["vector"], arrays()["obs"][i, :length])


def test_flat_arrays_without_slices_are_one_episode(tmp_path):
    reader = read(tmp_path, flat())
    assert [record["length"] for record in reader.episodes] == [10]


def test_labels_rewards_bounds_and_rate(tmp_path):
    reader = read(
        tmp_path,
        arrays(),
        control_hz=None,
        dt_s="dt",
        split="split",
        info={"surface": "floor", "run": "run"},
        reward="reward",
        action={"array": "act", "names": ["force_n"], "low": [-300], "high": [300]},
    )
    assert reader.schema["control_hz"] == 50
    assert reader.schema["action"]["low"] == [-300.0]
    np.testing.assert_array_equal(reader.episode(1).reward, arrays()["reward"][1, :-1])
    labels = [{key: record["info"].get(key) for key in ("surface", "split", "run")} for record in reader.episodes]
    assert labels[1] == {"surface": "sand", "split": "val", "run": 8}
    assert "reward" not in reader.episodes[0]["info"]


def test_falls_by_episode_or_by_sample(tmp_path):
    by_episode = read(tmp_path / "a", {**arrays(), "fell": np.array([0, 1, 0])}, terminated="fell")
    assert [record["terminated"] for record in by_episode.episodes] == [False, True, False]
    assert [record["truncated"] for record in by_episode.episodes] == [True, False, True]
    flags = np.zeros((EPISODES, SAMPLES), bool)
    flags[0, -2] = flags[2, -1] = True
    by_sample = read(tmp_path / "b", {**arrays(), "fell": flags}, terminated="fell")
    assert [record["terminated"] for record in by_sample.episodes] == [True, False, True]
    flags[1, 1] = True
    with pytest.raises(UserError, match="episode 1 goes on after fell"):
        read(tmp_path / "c", {**arrays(), "fell": flags}, terminated="fell")


def test_a_column_of_episodes_cuts_at_the_end_of_the_task(tmp_path):
    content = flat()
    content |= {"episode": np.repeat([0, 1, 2], (5, 2, 4)), "fell": np.isin(np.arange(11), (4, 10))}
    reader = read(tmp_path, content, episode="episode", terminated="fell")
    assert [(one["length"], one["terminated"]) for one in reader.episodes] == [(4, True), (1, False), (3, True)]
    content["fell"][1] = True
    with pytest.raises(UserError, match="episode 0 goes on after fell"):
        read(tmp_path / "a", content, episode="episode", terminated="fell")


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()


def test_a_constant_command_still_has_room(tmp_path):
    reader = read(tmp_path, {**arrays(), "act": np.full((EPISODES, SAMPLES, 1), 4.0)})
    assert (reader.schema["action"]["low"], reader.schema["action"]["high"]) == ([3.0], [5.0])


def test_importing_again_reuses_and_another_archive_is_refused(tmp_path):
    path = save(tmp_path / "raw", arrays(), MAPPING)
    folder = as_log_folder(path, tmp_path / "logs")
    before = (folder / "rows.npy").stat().st_mtime_ns
    assert as_log_folder(tmp_path / "raw", tmp_path / "logs") == folder  # the folder that holds one archive
    assert (folder / "rows.npy").stat().st_mtime_ns == before
    assert as_log_folder(folder, tmp_path / "elsewhere") == folder  # a log folder is used as it is
    save(tmp_path / "raw", {**arrays(), "obs": arrays()["obs"] + 1})
    with pytest.raises(UserError, match=r"already holds an import of log\.npz, or another version of it"):
        as_log_folder(path, tmp_path / "logs")


def test_what_an_import_that_failed_left_does_not_matter(tmp_path):
    content = arrays()
    content["obs"][1, 2, 0] = np.nan
    path = save(tmp_path / "raw", content, MAPPING)
    with pytest.raises(UserError, match=r"log.npz: episode 1: observation vector is nan in row 2, column 0"):
        as_log_folder(path, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
    (tmp_path / "logs").mkdir()
    save(tmp_path / "raw", arrays())
    assert len(LogReader(as_log_folder(path, tmp_path / "logs"))) == EPISODES


def test_other_files_in_the_way_stay(tmp_path):
    path = save(tmp_path / "raw", arrays(), MAPPING)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="not empty and holds no logs"):
        as_log_folder(path, tmp_path / "logs")
    assert (tmp_path / "logs" / "thesis.txt").read_text() == "all of it"


CHANNELS = MAPPING["observation"]
WRONG_MAPPINGS = [
    ({"taks": "cart"}, 'log.yaml: "taks" is unknown; did you mean "task"'),
    ({"observation": {**CHANNELS, "array": "ob"}}, 'array "ob" is unknown; did you mean "obs"'),
    ({"observation": {**CHANNELS, "names": ["x_m"]}}, "obs has 2 columns, but the mapping gives 1 names"),
    ({"action": {**MAPPING["action"], "low": [0, 0]}}, "act has 1 columns, but the mapping gives 2 low"),
    ({"observation": {"array": "floor", "names": ["x"]}}, r"floor has shape \(3,\), expected"),
    ({"dt_s": 0.1}, "must give control_hz or dt_s, and not both"),
    ({"control_hz": None}, "must give control_hz or dt_s"),
    ({"control_hz": None, "dt_s": "run"}, "dt_s must be one number above 0"),
    ({"control_hz": None, "dt_s": -1}, "dt_s must be one number above 0"),
    ({"control_hz": "fast"}, "control_hz must be a number or null, not 'fast'"),
    ({"control_hz": 0}, "control_hz is 0"),
    ({"info": {"floor": "obs"}}, r"obs has shape \(3, 5, 2\), expected one value for each of 3 episodes"),
    ({"reward": "run"}, r"run has \(3,\) samples, the observation has \(3, 5\)"),
    ({"episodes": {"start": "run", "length": "run"}}, "drop `episodes`"),
    ({"observation": {"array": "words", "names": ["x_m"]}}, "vector holds <U1, expected numbers"),
    ({"action": {"array": "words", "names": ["x_m"]}}, "action holds <U1, expected numbers"),
    ({"action": {"array": "nothing", "names": ["x_m"]}}, "action is nan in row 0"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG_MAPPINGS)
def test_a_wrong_mapping_is_one_line_that_names_the_key(tmp_path, changes, words):
    content = {**arrays(), "words": np.full((EPISODES, SAMPLES, 1), "a")}
    content["nothing"] = np.full((EPISODES, SAMPLES, 1), np.nan)
    with pytest.raises(UserError, match=words):
        read(tmp_path, content, **changes)
    assert not (tmp_path / "logs").exists()


def test_a_slice_without_rows_is_left_out(tmp_path):
    content = {**flat(), "length": np.array([5, 0, 4])}
    reader = read(tmp_path, content, episodes={"start": "start", "length": "length"})
    assert [record["length"] for record in reader.episodes] == [4, 3]
    assert reader.schema["source"]["repairs"] == {"recordings left out that have no rows": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"length": np.array([5, 2, 5])}, "episode 2 .*leaves the 11 there are"),
        ({"length": np.array([5, 2])}, "must be whole numbers, one an episode"),
        ({"length": np.array([5.0, 2, 4])}, "must be whole numbers"),
        ({"length": np.array([5, 1, 4])}, "episode 1 has 1 samples; a step needs two"),
        ({"act": np.zeros((10, 1))}, r"act has \(10,\) samples, the observation has \(11,\)"),
    ],
)
def test_wrong_slices_are_named(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, {**flat(), **content}, episodes={"start": "start", "length": "length"})


def test_an_archive_without_episodes(tmp_path):
    content = {**arrays(), "obs": np.zeros((0, 5, 2))}
    with pytest.raises(UserError, match=r"log\.npz: obs holds no samples"):
        read(tmp_path, content)


def test_files_that_are_not_archives(tmp_path):
    path = save(tmp_path / "raw", arrays(), MAPPING)
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"log\.npz is damaged or not an \.npz archive"):
            as_log_folder(path, tmp_path / "logs")
    middle = len(data) // 5
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    with pytest.raises(UserError, match=r"array \w+ (is damaged|cannot be read)"):
        as_log_folder(path, tmp_path / "logs")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="holds a single array"):
        as_log_folder(path, tmp_path / "logs")


def test_a_pickle_is_never_run(tmp_path):
    content = {**arrays(), "obs": np.array([{"a": 1}], dtype=object)}
    with pytest.raises(UserError, match="array obs cannot be read; save it as numbers or text"):
        read(tmp_path, content)


def test_what_was_given_is_not_there(tmp_path):
    with pytest.raises(
        UserError, match="nowhere does not exist; give a folder that record-rollouts wrote, an .npz file, or"
    ):
        as_log_folder(tmp_path / "nowhere", tmp_path / "logs")
    with pytest.raises(UserError, match="is not a log folder"):
        as_log_folder(tmp_path / "a", tmp_path / "logs")
    (tmp_path / "film.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"film.mp4 is of no format that is read; train-world-model --formats lists"):
        as_log_folder(tmp_path / "film.mp4", tmp_path / "logs")


def test_a_folder_of_archives_under_one_mapping(tmp_path):
    save(tmp_path / "raw", arrays())
    save(tmp_path / "raw", arrays(), name="other")
    with pytest.raises(UserError, match=r"raw needs a mapping that says what its columns mean: write mapping\.yaml"):
        as_log_folder(tmp_path / "raw", tmp_path / "logs")
    (tmp_path / "raw" / "mapping.yaml").write_text(yaml.safe_dump(MAPPING))
    reader = LogReader(as_log_folder(tmp_path / "raw", tmp_path / "logs"))
    files = [(record["info"]["source"], record["info"]["source_episode"]) for record in reader.episodes]
    assert files == [(f"{name}.npz", i) for name in ("log", "other") for i in range(EPISODES)]


def test_a_processed_copy_beside_the_logs_is_not_read(tmp_path):
    for name in ("run_1", "run_2", "run_1_smoothed"):
        save(tmp_path / "raw", arrays(), name=name)
    for pattern, found in (("run_?.npz", {"run_1.npz", "run_2.npz"}), ("raw_*.npz", None)):
        (tmp_path / "raw" / "mapping.yaml").write_text(yaml.safe_dump({**MAPPING, "files": pattern}))
        if found is None:
            with pytest.raises(UserError, match=r"raw holds no \.npz files among raw_\*\.npz"):
                as_log_folder(tmp_path / "raw", tmp_path / "none")
        else:
            reader = LogReader(as_log_folder(tmp_path / "raw", tmp_path / "logs"))
            assert {record["info"]["source"] for record in reader.episodes} == found


def test_mappings_are_found_beside_by_name_and_by_file(tmp_path):
    archive = save(tmp_path / "raw", arrays())
    with pytest.raises(UserError, match=r"write log\.yaml beside it, after the example configs/logs/warthog\.yaml"):
        find_mapping(archive)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MAPPING))
    assert find_mapping(archive, tmp_path / "mine.yaml").task == "cart"
    assert find_mapping(archive, "warthog").task == "warthog"
    assert find_mapping(Path("warthog_floors.npz")).task == "warthog"


def test_the_warthog_on_its_five_floors(tmp_path, real_logs):
    archive = real_logs / "warthog_floors" / "warthog_floors.npz"
    reader = LogReader(as_log_folder(archive.parent, tmp_path / "logs"))
    raw = np.load(archive)
    mapping = from_dict(LogMapping, packaged("logs", "warthog"), "warthog")
    assert list(raw["obs_names"]) == mapping.observation.names
    assert list(raw["action_names"]) == mapping.action.names
    assert (len(reader), reader.total_rows, reader.schema["control_hz"]) == (1050, 1050 * 120, 20)
    for i in range(0, 1050, 97):
        episode = reader.episode(i)
        np.testing.assert_array_equal(episode.observation["vector"], raw["obs"][i])
        np.testing.assert_array_equal(episode.action, raw["action"][i, :-1])
        assert (episode.info["floor"], episode.info["split"]) == (raw["context"][i], raw["split"][i])
        assert episode.physics == {}


def test_the_double_pendulum_in_uneven_episodes(tmp_path, real_logs):
    archive = real_logs / "double_pendulum" / "double_pendulum_real.npz"
    raw = np.load(archive)
    mapping = from_dict(
        LogMapping,
        {
            "task": "double-pendulum",
            "dt_s": "dt",
            "observation": {"array": "obs", "names": raw["obs_names"].tolist()},
            "action": {"array": "action", "names": raw["action_names"].tolist()},
            "episodes": {"start": "ep_start", "length": "ep_len"},
            "split": "split",
            "info": {"design": "context"},
        },
        "mapping",
    )
    reader = LogReader(import_logs(npz.FORMAT, archive, tmp_path / "logs", mapping))
    assert [record["length"] + 1 for record in reader.episodes] == raw["ep_len"].tolist()
    assert reader.schema["control_hz"] == pytest.approx(100)
    last = raw["obs"][raw["ep_start"][-1] :][: raw["ep_len"][-1]]
    np.testing.assert_array_equal(reader.episode(113).observation["vector"], last)
    broken = dataclasses.replace(mapping, observation=dataclasses.replace(mapping.observation, array="tau_measured"))
    with pytest.raises(UserError, match="tau_measured has 2 columns, but the mapping gives 4 names"):
        import_logs(npz.FORMAT, archive, tmp_path / "other", broken)
