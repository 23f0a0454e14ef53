"""What is said of a folder never seen before, and whether the mapping drafted for it works."""

import numpy as np
import pytest
import yaml
from raw_logs import CART, cart, write_csv

from configs import UserError, from_dict
from worldmodel.logs import guessing
from worldmodel.logs.describe import describe
from worldmodel.logs.guessing import Seen
from worldmodel.logs.importing import as_log_folder
from worldmodel.logs.mapping import LogMapping
from worldmodel.storage import LogReader

NUMBER = Seen(-1.0, 1.0, None, False, False, 0)


def drafted(text: str) -> LogMapping:
    """The whole output is a mapping file."""
    return from_dict(LogMapping, yaml.safe_load(text), "draft")


def test_the_draft_of_a_cart_trains(tmp_path):
    for i in range(3):
        logged = cart(400, dt=0.01, seed=i)
        write_csv(tmp_path / "my-cart" / f"{i}.csv", {**logged, "u": logged["force"]} | {"force_meas": logged["force"]})
    text = "\n".join(describe(tmp_path / "my-cart"))
    mapping = drafted(text)
    assert (mapping.task, mapping.control_hz, mapping.time) == ("my-cart", 100, "time")
    assert list(mapping.observation.columns.values()) == ["x", "v", "force_meas"]
    assert mapping.action.columns == {"u": "u"}
    assert "3 recordings, 0.csv and others: 1,200 rows" in text and "clock: a row every 0.01" in text
    assert "# 3 episodes of 3.99 to 3.99 s, 1,197 steps at 100 Hz" in text and "never fall" in text
    (tmp_path / "draft.yaml").write_text(text)
    assert len(LogReader(as_log_folder(tmp_path / "my-cart", tmp_path / "logs", tmp_path / "draft.yaml"))) == 3


def test_units_angles_clocks_labels_and_what_cannot_be_guessed(tmp_path):
    time = np.arange(300)
    degrees = (3.0 * time + 180) % 360 - 180
    table = {
        "timestamp_ms": 20.0 * time,
        "motorCmd [mNm]": np.sin(time),
        "angle [deg]": degrees,
        "gyro_raw": np.cos(0.1 * time),
        "dead": 0 * time,
        "floor": ["ice"] * 300,
        "fell": 0 * time,
        "reward": 0.1 * time,
    }
    text = "\n".join(describe(write_csv(tmp_path / "log.csv", table)))
    mapping = drafted(text)
    assert mapping.time is not None and not isinstance(mapping.time, str) and mapping.time.unit == "ms"
    assert mapping.control_hz == 50
    assert list(mapping.observation.columns) == ["angle_rad", "gyro"]
    angle = mapping.observation.specs["angle_rad"]
    assert (angle.unit, angle.angle) == ("deg", "sin_cos")
    assert mapping.action.specs["motor_Nm"].unit == "mNm"
    assert (mapping.info, mapping.terminated, mapping.reward) == ({"floor": "floor"}, "fell", "reward")
    assert "angle [deg]" in text and "jumps by a turn" in text and "never changes" in text
    lost = "\n".join(describe(write_csv(tmp_path / "other.csv", {"a": time, "b": time**2})))
    assert "MISSING: our name" in lost and "lacks what is marked as missing" in lost


def test_several_headers_are_drafted_as_one(tmp_path):
    write_csv(tmp_path / "raw" / "old.csv", {"time": [0.0, 0.1], "pos1": [1, 2], "tau1": [0, 1]})
    new = {"time": [0.0, 0.1], "pos_meas1": [1, 2], "pos_des1": [1, 3], "tau_con1": [0, 1], "tau_des1": [2, 1]}
    write_csv(tmp_path / "raw" / "new.csv", new)
    mapping = drafted("\n".join(describe(tmp_path / "raw")))
    assert mapping.observation.specs["pos1"].names == ["pos_meas1", "pos1"]
    assert mapping.action.specs["tau1"].names == ["tau_con1", "tau1"] and len(mapping.action.columns) == 1


def test_under_a_mapping_it_tells_what_the_logs_can_teach(tmp_path):
    data = write_csv(tmp_path / "log.csv", cart(50))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**CART, "reward": "-x_m**2"}))
    text = "\n".join(describe(data, tmp_path / "mine.yaml"))
    assert yaml.safe_load(text) is None  # comments alone: there is nothing to draft
    assert "x      observation" in text and "# reward: -" in text
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**CART, "reward": "-y_m**2"}))
    assert 'the import fails: the reward \'-y_m**2\': channel "y_m" is unknown' in "\n".join(
        describe(data, tmp_path / "mine.yaml")
    )


def test_archives_are_described_by_their_arrays(tmp_path):
    lengths = np.array([30, 50, 20])
    np.savez(
        tmp_path / "log.npz",
        obs=np.random.default_rng(0).normal(size=(100, 3)),
        action=np.random.default_rng(1).normal(size=(100, 2)),
        start=np.cumsum(lengths) - lengths,
        length=lengths,
        split=np.array(["train", "val", "test"]),
        dt=np.array(0.02),
    )
    text = "\n".join(describe(tmp_path / "log.npz"))
    mapping = drafted(text)
    assert mapping.episodes is not None and (mapping.episodes.start, mapping.episodes.length) == ("start", "length")
    assert (mapping.dt_s, mapping.split) == ("dt", "split")
    assert "# 3 episodes of 0.38 to 0.98 s, 97 steps at 50 Hz" in text
    with pytest.raises(UserError, match="does not exist"):
        list(describe(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Time [s]", "time"),
        ("stamp", "time"),
        ("cmd_vel_x", "action"),
        ("motorTorque1", "action"),
        ("tau_meas1", "observation"),
        ("q_des", "action"),
        ("pos_filt1", "rest"),
        ("joint_pos_0", "observation"),
        ("reward", "reward"),
        ("terminated", "terminated"),
        ("episode_id", "episode"),
        ("frame_index", "index"),
    ],
)
def test_names_are_guessed_as_a_person_would(name, kind):
    assert guessing.role(name, NUMBER) == kind


def test_clocks_are_guessed_by_name_or_step():
    assert guessing.time_unit("t_us", 5.0) == "us" and guessing.time_unit("time [ms]", 1e6) == "ms"
    assert guessing.time_unit("stamp", 5e6) == "ns" and guessing.time_unit("t", 0.002) is None
    assert [guessing.rate(hz) for hz in (498, 33.2, 9.95, 0.5)] == [100, 25, 10, 0.5]
