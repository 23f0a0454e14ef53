"""From raw rows to episodes: every key of a mapping, and what it refuses."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml
from raw_logs import CART, cart, imported, write_csv

from configs import UserError, from_dict
from worldmodel.logs import resampling
from worldmodel.logs.cutting import AFTER_END, FALLEN
from worldmodel.logs.episodes import Converter
from worldmodel.logs.formats import RawEpisode
from worldmodel.logs.importing import repairs_of
from worldmodel.logs.mapping import LogMapping
from worldmodel.logs.rows import BETWEEN, Wanted, even_rows
from worldmodel.storage import LogReader


def of_csv(tmp_path, columns, **changes) -> LogReader:
    return imported(write_csv(tmp_path / "log.csv", columns), tmp_path / "logs", **changes)


def test_rows_on_the_grid_stay_what_they_are(tmp_path):
    logged = cart()
    reader = of_csv(tmp_path, logged)
    episode = reader.episode(0)
    np.testing.assert_allclose(episode.observation["vector"], np.stack([logged["x"], logged["v"]], 1), atol=1e-6)
    np.testing.assert_allclose(episode.action[:, 0], logged["force"][:-1], atol=1e-6)
    assert reader.schema["observation"]["vector"]["names"] == ["x_m", "v_m_s"]
    assert reader.schema["action"]["low"] == [logged["force"].min()]
    assert episode.info == {
        "task": "cart",
        "source": "log.csv",
        "source_episode": 0,
        "source_part": 0,
        "policy": "log",
        "reward": "none",
    }
    assert repairs_of(reader.schema) == []


def test_units_signs_and_a_clock_in_milliseconds(tmp_path):
    logged = {"time": np.arange(0, 600, 100), "x": np.arange(6) * 180.0, "v": np.arange(6) * 60, "force": np.ones(6)}
    columns = {
        "angle_rad": {"column": "x", "unit": "deg", "scale": -1},
        "rate_rad_s": {"column": "v", "unit": "rpm"},
    }
    reader = of_csv(tmp_path, logged, time={"column": "time", "unit": "ms"}, observation={"columns": columns})
    vector = reader.episode(0).observation["vector"]
    np.testing.assert_allclose(vector[:, 0], -np.pi * np.arange(6), rtol=1e-6)
    np.testing.assert_allclose(vector[:, 1], 2 * np.pi * np.arange(6), rtol=1e-6)


def test_dates_are_clocks_too(tmp_path):
    logged = cart(5)
    logged["time"] = np.array([f"2022-08-12T06:01:43.{i}00Z" for i in range(5)])
    assert of_csv(tmp_path, logged).episodes[0]["length"] == 4


def test_units_in_brackets_and_stray_spaces_need_not_be_repeated(tmp_path):
    logged = {f" {name} [SI]": values for name, values in cart().items()}
    assert of_csv(tmp_path, logged).episodes[0]["length"] == 20


def test_a_name_that_fits_two_units_is_refused(tmp_path):
    logged = {"x [rad]": cart()["x"], "x [deg]": cart()["x"], **cart()}
    assert of_csv(tmp_path, logged).episodes[0]["length"] == 20  # x itself is there
    del logged["x"]
    for at, spec in (("a", "x"), ("b", "x[0]"), ("c", ["x", "v"])):
        with pytest.raises(UserError, match=r'log.csv: "x" may be x \[rad\] or x \[deg\]; give the whole name'):
            of_csv(tmp_path / at, logged, observation={"columns": {"x_m": {"column": spec}}})
    with pytest.raises(UserError, match=r'"x" may be'):
        of_csv(tmp_path / "d", logged, observation={"columns": {"v_m_s": "v"}}, reward="x")
    assert of_csv(tmp_path / "e", logged, observation={"columns": {"x_m": "x [rad]"}}).episodes[0]["length"] == 20


@pytest.mark.parametrize("form", ["wrapped", "unwrapped", "sin_cos"])
def test_an_angle_is_never_interpolated_across_its_jump(tmp_path, form):
    """2 rad/s, logged every 0.07 s within a turn, wanted every 0.1 s."""
    time = 0.07 * np.arange(60)
    angle = 2 * time
    wrapped = np.pi - (np.pi - angle) % (2 * np.pi)
    logged = {"time": time, "x": wrapped, "v": 0 * time, "force": np.sin(time)}
    columns = {"q": {"column": "x", "angle": form}}
    reader = of_csv(tmp_path, logged, observation={"columns": columns})
    vector = reader.episode(0).observation["vector"].astype(float)
    truth = 0.2 * np.arange(len(vector))
    expected = {
        "wrapped": (np.pi - (np.pi - truth) % (2 * np.pi))[:, None],
        "unwrapped": truth[:, None],
        "sin_cos": np.stack([np.sin(truth), np.cos(truth)], 1),
    }
    np.testing.assert_allclose(vector, expected[form], atol=1e-5)
    names = reader.schema["observation"]["vector"]["names"]
    assert names == (["q_sin", "q_cos"] if form == "sin_cos" else ["q"])


def test_gaps_restarts_and_repeated_stamps_are_mended_and_counted(tmp_path):
    logged = cart(60)
    logged["time"] = np.concatenate([logged["time"][:20], logged["time"][20:40] + 3.0, logged["time"][:20]])
    logged["time"][5] = logged["time"][4]
    reader = of_csv(tmp_path, logged)
    assert [record["length"] for record in reader.episodes] == [19, 19, 19]
    assert {record["info"]["source_part"] for record in reader.episodes} == {0}  # so that they are held out together
    assert reader.schema["source"]["repairs"] == {
        resampling.GAP: 1,
        resampling.RESTART: 1,
        resampling.SAME_TIME: 1,
    }
    assert f"1 {resampling.GAP}" in repairs_of(reader.schema)


def test_several_rates_in_one_table(tmp_path):
    """A position at every row, a speed at every fifth: the cells between are empty."""
    logged = cart(51, dt=0.02)
    speed = [repr(float(v)) if i % 5 == 0 else "" for i, v in enumerate(logged["v"])]
    reader = of_csv(tmp_path, {**logged, "v": speed})
    np.testing.assert_allclose(reader.episode(0).observation["vector"][:, 1], logged["v"][::5], atol=1e-6)
    np.testing.assert_allclose(reader.episode(0).action[:, 0], logged["force"][:50].reshape(10, 5).mean(1), atol=1e-6)
    assert reader.schema["source"]["repairs"] == {resampling.MISSING: 40}


PLAIN = {
    "task": "cart",
    "control_hz": 10,
    "observation": {"columns": {"x": "x"}},
    "action": {"columns": {"force": "force"}},
}


def test_columns_with_clocks_of_their_own(tmp_path):
    """As topics have. The controller falls silent after a second: its last command is held, and that is counted."""
    clocks = {"x": 0.1 * np.arange(31), "force": 0.1 * np.arange(11), "paid": 0.2 * np.arange(15)}
    columns = {"x": np.arange(31.0), "force": np.arange(11.0), "paid": np.ones(15)}
    raw = RawEpisode("here", "here", columns, clocks=clocks)
    mapping = from_dict(LogMapping, {**PLAIN, "reward": "paid"}, "test")
    repairs: Counter[str] = Counter()
    (rows,) = even_rows(raw, Wanted.of(raw, mapping), mapping, 10.0, repairs)
    assert rows.reward is not None and rows.reward.sum() == 15
    assert rows.action[:, 0].tolist() == pytest.approx([*range(10), *[10.0] * 20])
    assert repairs[resampling.HELD] == 29 - (10 + mapping.gap_steps)


@pytest.mark.parametrize("hz", [50, 10])
def test_recordings_of_several_clocks_are_cut_by_one_of_them(hz):
    """Two runs of 2 s; the robot lies fallen from 1.2 s to the end of the first, and from 3.5 s on."""
    seen_s, told_s = np.arange(200) / 50, np.arange(4 * hz) / hz
    falls = [1.2 <= second < 2 or second >= 3.5 for second in told_s.round(6)]
    columns = {"x": np.arange(200.0), "force": np.zeros(40), "fell": np.array(falls, float), "run": told_s // 2}
    clocks = {"x": seen_s, "force": np.arange(40) / 10, "fell": told_s, "run": told_s}
    raw = RawEpisode("here", "here", columns, clocks=clocks)
    converter = Converter(from_dict(LogMapping, {**PLAIN, "terminated": "fell", "episode": "run"}, "test"))
    first, second = converter.convert(raw)
    more = 0 if hz == 50 else 1  # steps: a row of the flag after that in which it rose
    assert (first.length, second.length, first.terminated, second.terminated) == (12 + more, 15 + more, True, True)
    np.testing.assert_allclose(second.observation["vector"][:2, 0], [100, 105])
    assert converter.repairs[FALLEN] == sum(falls) - 4
    with pytest.raises(UserError, match="here: run and fell have clocks of their own; it is cut by one"):
        list(converter.convert(replace(raw, clocks={**clocks, "run": told_s + 0.01})))
    with pytest.raises(UserError, match="here: force has no clock and cannot be cut by that of run; split the file"):
        list(converter.convert(replace(raw, clocks={"x": seen_s, "fell": told_s, "run": told_s})))


def test_commands_that_come_too_late_make_no_episode(tmp_path):
    clocks = {"x": 0.1 * np.arange(11), "force": 5 + 0.1 * np.arange(11)}
    raw = RawEpisode("here", "here", {"x": np.arange(11.0), "force": np.arange(11.0)}, clocks=clocks)
    mapping, repairs = from_dict(LogMapping, PLAIN, "test"), Counter()
    assert list(even_rows(raw, Wanted.of(raw, mapping), mapping, 10.0, repairs)) == []
    assert +repairs == {resampling.SHORT: 1}


def test_slower_recordings_are_filled_in_and_said_so(tmp_path):
    reader = of_csv(tmp_path, cart(21, dt=0.3))
    assert reader.schema["source"]["repairs"] == {BETWEEN: 1}


def test_a_rate_far_above_the_logs_is_refused_with_advice(tmp_path):
    with pytest.raises(UserError, match="gives no episode.*20 gaps.*give a lower control_hz, or more gap_steps"):
        of_csv(tmp_path, cart(21, dt=10.0))
    assert not (tmp_path / "logs").exists() and not (tmp_path / "logs.importing").exists()


def test_episodes_by_a_column_with_their_factors_and_labels(tmp_path):
    logged = cart(30)
    logged |= {
        "run": np.repeat([7, 8, 9], 10),
        "mu": np.repeat([0.1, 0.2, 0.3], 10),
        "floor": np.repeat(["ice", "wet", "ice"], 10),
    }
    floor = {"column": "floor", "values": {"ice": 0.05, "wet": 0.4}}
    reader = of_csv(
        tmp_path,
        logged,
        episode="run",
        info={"run": "run", "floor": "floor"},
        physics={"floor_friction": floor, "slope_deg": "mu", "gravity": 9.81},
    )
    assert [record["length"] for record in reader.episodes] == [9, 9, 9]
    assert [record["physics"]["floor_friction"] for record in reader.episodes] == [0.05, 0.4, 0.05]
    assert reader.episodes[1]["physics"] == {"floor_friction": 0.4, "slope_deg": 0.2, "gravity": 9.81}
    assert [(record["info"]["run"], record["info"]["floor"]) for record in reader.episodes] == [
        (7.0, "ice"),
        (8.0, "wet"),
        (9.0, "ice"),
    ]
    with pytest.raises(UserError, match=r"mu is not one value for the episode \(0.1, 0.2, 0.3, ...\); split at its"):
        imported(tmp_path / "log.csv", tmp_path / "other", physics={"floor_friction": "mu"})
    with pytest.raises(UserError, match='values: "wet" is unknown'):
        values = {"column": "floor", "values": {"ice": 0.1}}
        imported(tmp_path / "log.csv", tmp_path / "other", episode="run", physics={"floor_friction": values})


def test_a_label_that_is_no_single_value_is_no_physics():
    raw = RawEpisode("here", "here", {"x": np.arange(5.0), "force": np.zeros(5)}, labels={"floors": [0.1, 0.8]})
    converter = Converter(from_dict(LogMapping, {**PLAIN, "physics": {"floor_friction": "floors"}}, "test"))
    with pytest.raises(UserError, match=r"here: floors is \[0.1, 0.8\], expected one value for the episode"):
        list(converter.convert(raw))


def test_labels_from_the_path_and_files_by_pattern(tmp_path):
    for name in ("ice/a.csv", "grass/b.csv", "summary.csv"):
        write_csv(tmp_path / "raw" / name, cart())
    reader = imported(
        tmp_path / "raw", tmp_path / "logs", path="^(?P<floor>[a-z]+)/", files="*/*.csv", info={"floor": "floor"}
    )
    assert [record["info"]["floor"] for record in reader.episodes] == ["grass", "ice"]
    with pytest.raises(UserError, match='summary.csv: label "floor" is unknown'):
        imported(tmp_path / "raw", tmp_path / "other", path="^(?P<floor>[a-z]+)/", info={"floor": "floor"})
    with pytest.raises(UserError, match="no regular expression"):
        imported(tmp_path / "raw", tmp_path / "other", path="(")


def test_words_for_a_split_are_known_or_refused(tmp_path):
    words = {"train": "train", "Training": "train", "validation": "val", "valid ": "val", "eval": "val", "Test": "test"}
    logged = cart(60, part=np.repeat(list(words), 10))
    reader = of_csv(tmp_path, logged, episode="part", split="part", info={"own": "part"})
    assert [record["info"]["split"] for record in reader.episodes] == list(words.values())
    assert reader.episodes[1]["info"]["own"] == "Training"
    logged = cart(20, part=np.repeat(["fold_3", "test"], 10))
    for given in ({"split": "part"}, {"info": {"split": "part"}}):
        with pytest.raises(UserError, match="0 to 9: part says fold_3, expected a split: train, .*, val, .*, test"):
            of_csv(tmp_path / "odd", logged, episode="part", **given)


UP = {  # rows of 30 in which the flag is up: episodes as (first row, steps, terminated), and rows left out
    "down again": ((7, 29), [(0, 7, True), (8, 21, True)], 0),
    "for three rows": ((7, 8, 9, 29), [(0, 8, True), (10, 19, True)], 1),
    "until the end": (range(7, 30), [(0, 8, True)], 21),
    "but for one row": (range(7, 29), [(0, 8, True)], 21),
    "on the row before the last": ((28,), [(0, 29, True)], 0),
    "from the beginning": (range(4), [(4, 25, False)], 4),
    "all along": (range(30), [(0, 29, True)], 0),  # a label of the recording
}


@pytest.mark.parametrize("clock", [True, False])
@pytest.mark.parametrize("kind", UP)
def test_a_flag_ends_an_episode_for_good(tmp_path, kind, clock):
    """Where it rises; what lies in the row after is kept if it is still up there, and no row of those that follow."""
    up, expected, left_out = UP[kind]
    logged = cart(30, row=np.arange(30.0), fell=np.isin(np.arange(30), up).astype(int))
    seen = {"columns": {"row": "row"}}
    reader = of_csv(tmp_path, logged, terminated="fell", observation=seen, time="time" if clock else None)
    episodes = [reader.episode(i) for i in range(len(reader))]
    assert [(one.observation["vector"][0, 0], one.length, one.terminated) for one in episodes] == expected
    splits = {AFTER_END: len(expected) - 1} if len(expected) > 1 else {}
    assert reader.schema["source"]["repairs"] == {**splits, **({FALLEN: left_out} if left_out else {})}


def test_a_flag_within_an_episode_that_a_column_cuts(tmp_path):
    """Three runs of ten rows: one falls in its last row but one, one stays fallen, one is whole."""
    fell = np.isin(np.arange(30), [8, *range(13, 20)]).astype(int)
    logged = cart(30, run=np.repeat([1, 2, 3], 10), fell=fell)
    for folder, time in (("clock", "time"), ("rows", None)):
        reader = of_csv(tmp_path / folder, logged, terminated="fell", episode="run", time=time)
        assert [(one["length"], one["terminated"]) for one in reader.episodes] == [(9, True), (4, True), (9, False)]
        assert reader.schema["source"]["repairs"] == {FALLEN: 5}


def test_a_reward_as_a_column_or_as_an_expression(tmp_path):
    logged = cart(21, pay=np.arange(21.0))
    by_column = of_csv(tmp_path, logged, reward="pay").episode(0)
    np.testing.assert_allclose(by_column.reward, np.arange(20.0))
    assert "reward" not in by_column.info
    reader = imported(tmp_path / "log.csv", tmp_path / "b", reward="-(x_m**2) - 0.1*force_N**2")
    expected = -(logged["x"][1:] ** 2) - 0.1 * logged["force"][:-1] ** 2
    np.testing.assert_allclose(reader.episode(0).reward, expected, atol=1e-6)
    with pytest.raises(UserError, match='channel "y_m" is unknown; did you mean "x_m"'):
        imported(tmp_path / "log.csv", tmp_path / "c", reward="-y_m")
    with pytest.raises(UserError, match=r"log\.csv: the reward '1/force_N' is inf in step \d+ \(force_N 0\)"):
        write_csv(tmp_path / "zero" / "log.csv", {**logged, "force": 0 * logged["force"]})
        imported(tmp_path / "zero", tmp_path / "d", reward="1/force_N")


def test_without_a_clock_rows_are_taken_as_they_come(tmp_path):
    columns = {name: values for name, values in cart().items() if name != "time"}
    mapping = {key: value for key, value in CART.items() if key != "time"}
    reader = imported(write_csv(tmp_path / "log.csv", columns), tmp_path / "logs", mapping)
    assert reader.episodes[0]["length"] == 20
    columns["x"][3] = np.nan
    with pytest.raises(UserError, match=r"log\.csv: observation vector is nan in row 3, column 0 \(x_m\)"):
        imported(write_csv(tmp_path / "nan" / "log.csv", columns), tmp_path / "other", mapping)


def test_a_change_of_the_mapping_is_noticed(tmp_path):
    reader = of_csv(tmp_path, cart())
    assert imported(tmp_path / "log.csv", reader.folder).rows.shape == reader.rows.shape
    with pytest.raises(UserError, match=r"an import of log\.csv under another mapping; choose another run folder"):
        imported(tmp_path / "log.csv", reader.folder, control_hz=5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observation": {"columns": {"x_m": "xx"}}}, 'column "xx" is unknown; did you mean "x"'),
        ({"observation": {"columns": {"x_m": "floor"}}}, "floor: 'ice' in row 0 is no number"),
        ({"observation": {"columns": {"x_m": {"column": "x", "unit": "yard"}}}}, 'unit "yard" is unknown'),
        ({"observation": {"columns": {"x_m": {"column": "x", "angle": "round"}}}}, "unwrapped or sin_cos or null, not"),
        ({"observation": {}}, "need either an array"),
        ({"action": {"columns": {"f": {"column": "force", "angle": "sin_cos"}}}}, "`angle` is for observations"),
        ({"action": {"columns": {"f": {"column": "force", "low": 8, "high": -8}}}}, r"low \(8\) is not below its high"),
        ({"action": {"columns": {"f": {"column": "force", "low": 99}}}}, r"low \(99\) is not below .*, as seen\)"),
        ({"time": "floor"}, "the clock floor is neither a number nor a date"),
        ({"control_hz": 0}, "control_hz is 0, expected above 0"),
        ({"show": ["y"]}, 'show: "y" is unknown'),
        ({"info": {"a": "b"}}, 'label "b" is unknown'),
        ({"gap_steps": "long"}, "gap_steps must be a number"),
    ],
)
def test_a_wrong_mapping_is_one_line_that_names_the_offender(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        of_csv(tmp_path, cart(floor=np.array(["ice"] * 21)), **changes)
    assert not (tmp_path / "logs").exists()


def test_the_double_pendulum_as_its_keepers_resampled_it(tmp_path, real_logs):
    """18 of the original files, six headers, uneven clocks; the archive beside them was made by other people's code."""
    folder = real_logs / "double_pendulum"
    reader = LogReader(_packaged_import(folder / "original", tmp_path / "logs"))
    archive = np.load(folder / "double_pendulum_real.npz")
    sources = archive["source"].tolist()
    assert len(reader) == 18 and reader.schema["control_hz"] == 100
    for i, record in enumerate(reader.episodes):
        k = sources.index(record["info"]["source"])
        rows = slice(int(archive["ep_start"][k]), int(archive["ep_start"][k] + archive["ep_len"][k]))
        episode, count = reader.episode(i), rows.stop - rows.start
        assert episode.length >= count - 1
        first = 1 if "sys_id_friccomp" in record["info"]["source"] else 0  # begins with a stamp that comes twice
        np.testing.assert_allclose(
            episode.observation["vector"][first:count], archive["obs"][rows][first:], atol=1e-6
        )
        np.testing.assert_allclose(
            episode.action[first : count - 1], archive["action"][rows][first:-1], atol=1e-6
        )


def _packaged_import(data, into):
    from worldmodel.logs.importing import as_log_folder

    return as_log_folder(data, into, "double_pendulum")


def test_the_mapping_may_lie_in_the_folder(tmp_path):
    from worldmodel.logs.importing import as_log_folder

    for i in range(2):
        write_csv(tmp_path / "raw" / f"{i}.csv", cart(seed=i))
    (tmp_path / "raw" / "mapping.yaml").write_text(yaml.safe_dump(CART))
    assert len(LogReader(as_log_folder(tmp_path / "raw", tmp_path / "logs"))) == 2
    assert math.isfinite(json.loads((tmp_path / "logs" / "schema.json").read_text())["action"]["high"][0])
