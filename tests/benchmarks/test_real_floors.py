"""A real robot on ice, in small: no join is crossed, nothing to come is seen, nothing of the test is learnt."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import real_floors
from floors.arms import FLOOR, SIZE, Imagining, by_head, by_likelihood, first_second, make, parameters
from floors.correction import Correction
from floors.rivals import LSTM, Linear
from floors.tables import gain, load, markdown
from floors.windows import WINDOW, Logs
from foretelling.moments import PAST, Foretold

from configs import UserError

SLOW = {"asphalt": 0.1, "grass": 0.14, "sand": 0.2, "ice": 0.03}


def robot(episodes: int = 8, channels: int = 3, noise: float = 0.02) -> dict[str, np.ndarray]:
    """Speeds that follow their commands, faster or slower by floor, with every split on each."""
    rng = np.random.default_rng(0)
    floor = np.repeat(list(SLOW), episodes)
    rate = 0.3 - np.array([SLOW[f] for f in floor])[:, None]
    command = rng.uniform(-3, 3, (len(floor), 1, 2)).repeat(3 * WINDOW, 1)
    speed, rows = rng.normal(0, 2, (len(floor), channels)), []
    for t in range(3 * WINDOW):
        rows.append(speed)
        target = np.concatenate([command[:, t], command[:, t].sum(1, keepdims=True)], 1)[:, :channels]
        speed = speed + rate * (target - speed) + noise * rng.normal(size=speed.shape)
    split = np.array(["train", "train", "train", "test"])[np.arange(len(floor)) % 4]
    names = {"obs_names": np.array(list("abc")[:channels]), "action_names": np.array(["l", "r"])}
    arrays = {"obs": np.stack(rows, 1).astype(np.float32), "action": command.astype(np.float32)}
    return {**arrays, **names, "context": floor, "session": floor, "split": split}


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("robot") / "robot.npz"
    save(path, robot())
    return path


@pytest.fixture(scope="module")
def logs(archive) -> Logs:
    return Logs.load(archive)


@pytest.fixture(scope="module")
def readers(logs, tmp_path_factory):
    folder, train = tmp_path_factory.mktemp("logs"), logs.training(2, 0)
    test = np.flatnonzero((logs.split == "test") & (logs.floor == "ice"))
    values = real_floors.hidden_factor(logs, train).values
    untold = logs.write(folder / "untold", train, test, lambda _: {})
    told = logs.write(folder / "told", train, test, lambda e: {FLOOR: values[logs.session[e]][0]} if e in train else {})
    return untold, told


def test_the_ice_of_a_seed_grows_and_the_rest_stays(logs):
    few, more = (set(logs.training(n, 3)) for n in (1, 4))
    assert few < more
    assert {str(logs.floor[e]) for e in more - few} == {"ice"}
    assert (logs.split[list(more)] == "train").all()
    assert len(more) == np.sum((logs.split == "train") & (logs.floor != "ice")) + 4
    assert logs.training(0, 3).size == len(more) - 4


def test_nothing_reaches_over_a_join(tmp_path):
    arrays = robot(4)
    steps = np.arange(3 * WINDOW)
    arrays["obs"][:] = (1000 * np.arange(len(arrays["obs"]))[:, None] + steps)[..., None]  # which says where it is from
    save(tmp_path / "numbered.npz", arrays)
    logs = Logs.load(tmp_path / "numbered.npz")
    reader = logs.write(tmp_path / "logs", logs.training(1, 0), [3], lambda _: {})
    replay = make("ours", reader, reader, 0, 0).trainer.replay  # pyright: ignore[reportAttributeAccessIssue]
    for length, plain in ((WINDOW, False), (2, True), (13, True)):
        rows = replay.sample(200, length, np.random.default_rng(0), plain).vector[..., 0].numpy()
        window = rows // 1000 * 3 + rows % 1000 // WINDOW
        assert (window == window[:, :1]).all()
        assert (np.diff(rows, axis=1) == 1).all()
    test = [e["info"] for e in reader.episodes if e["info"]["split"] == "test"]
    assert [(info["episode"], info["window"]) for info in test] == [(3, 0), (3, 1), (3, 2)]


def test_sessions_of_which_there_is_little_come_more_often_than_it(readers):
    replay = make("ours", *readers, 0, 0).trainer.replay  # pyright: ignore[reportAttributeAccessIssue]
    drawn = replay.sample(4000, 2, np.random.default_rng(0), plain=True).episode[:, 0]
    share = np.mean([readers[0].episodes[i]["info"]["floor"] == "ice" for i in drawn])
    # 6 windows of ice to 18 of each of three others: 1 / (1 + 3 sqrt 3).
    assert share == pytest.approx(1 / (1 + 3 * 3**0.5), abs=0.03)


@pytest.mark.parametrize("arm", ["persistence", "linear", "lstm", "dreamer", "ours"])
def test_nobody_sees_what_is_to_be_foretold(readers, arm):
    foreteller = make(arm, *readers, 0, 0)
    reader = readers[arm == "ours"]
    replay = make("ours", reader, reader, 0, 0).trainer.held_out  # pyright: ignore[reportAttributeAccessIssue]
    batch = replay.whole(range(3), WINDOW)
    spoilt = replace(batch, vector=batch.vector.clone())
    spoilt.vector[:, PAST:] = 77.0
    found = []
    for one in (batch, spoilt):
        torch.manual_seed(0)
        found.append(foreteller.foretell(one).vector)
    assert torch.equal(*found)
    assert found[0].shape == (3, WINDOW - PAST, 3)


def test_inference_ends_with_the_second_before(readers, logs):
    ours = make("ours", *readers, 0, 0)
    assert isinstance(ours, Imagining)
    hidden = real_floors.hidden_factor(logs, logs.training(2, 0))
    batch = ours.trainer.held_out.whole(range(3), WINDOW)
    spoilt = replace(batch, vector=batch.vector.clone(), action=batch.action.clone())
    spoilt.vector[:, PAST:], spoilt.action[:, PAST:] = 77.0, 1.0
    values = []
    for one in (batch, spoilt):
        torch.manual_seed(0)
        values.append(real_floors.conditions(ours, one, hidden, None)[1])
    assert values[0] == values[1]
    assert set(values[0]) == {"motion", "likelihood", "head"}
    assert (
        by_likelihood(ours.model, first_second(batch)).shape == by_head(ours.model, first_second(batch)).shape == (3,)
    )


def test_commands_stand_beside_the_rows_that_they_follow(readers, logs):
    ours = make("ours", *readers, 0, 0)
    assert isinstance(ours, Imagining)
    past = first_second(ours.trainer.held_out.whole([0], WINDOW))
    e = readers[1].episodes[ours.trainer.held_out.episodes[0]]["info"]["episode"]
    assert np.allclose(real_floors.commands(past, ours)[0, :-1], logs.action[e, 0, : PAST - 1], atol=1e-5)


def test_the_value_given_is_of_the_training_episodes_alone(logs):
    train = logs.training(2, 0)
    vector = logs.vector.copy()
    vector[np.setdiff1d(np.arange(len(vector)), train)] = np.nan
    spoilt = replace(logs, vector=vector)
    a, b = (real_floors.hidden_factor(one, train).values for one in (logs, spoilt))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_what_is_told_is_what_the_training_logs_were_told(readers):
    ours = make("ours", *readers, 0, 0)
    assert isinstance(ours, Imagining)
    batch = ours.trainer.replay.whole([0], WINDOW)
    value = readers[1].episodes[ours.trainer.replay.episodes[0]]["physics"][FLOOR]
    told = real_floors.telling(ours.model.context, replace(batch, context=0 * batch.context), value)
    assert torch.allclose(told.context, batch.context)
    assert torch.equal(told.known, batch.known)


def test_a_line_foretells_a_machine_that_is_one(tmp_path):
    path = tmp_path / "robot.npz"
    save(path, robot(8, noise=0.0) | {"context": np.repeat("grass", 32), "session": np.repeat("grass", 32)})
    logs = Logs.load(path)
    # Of one floor alone, whose commands and speeds make the next speeds by a line.
    same = np.arange(8)
    reader = logs.write(
        tmp_path / "logs", same[logs.split[:8] == "train"], same[logs.split[:8] == "test"], lambda _: {}
    )
    line = make("linear", reader, reader, 0, 0)
    batch = make("ours", reader, reader, 0, 0).trainer.held_out.whole(range(6), WINDOW)  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(line, Linear)
    off = line.foretell(batch).vector - batch.vector[:, PAST:]
    assert off.abs().max() < 0.15 * (batch.vector[:, PAST - 1] - batch.vector[:, -1]).abs().max()


def test_the_lstm_is_as_large_as_the_world_model(readers):
    untold, _ = readers  # and without a floor; which adds few
    lstm, ours = (make(name, untold, untold, 0, 0) for name in ("lstm", "ours"))
    assert isinstance(lstm, LSTM)
    assert isinstance(ours, Imagining)
    assert parameters(lstm.network) == pytest.approx(parameters(ours.model), rel=0.02)
    assert ours.model.config == SIZE


def test_a_correction_finds_an_error_that_is_a_line(readers):
    ours = make("ours", *readers, 0, 0)
    assert isinstance(ours, Imagining)
    replay = ours.trainer.replay
    usual = replay.whole(range(len(replay.episodes)), WINDOW)
    few, rest = replay.whole(range(12), WINDOW), replay.whole(range(12, 24), WINDOW)

    def wrong(batch):
        by = 0.5 + 0.2 * batch.vector[:, PAST - 1 : PAST]
        return Foretold(batch.vector[:, PAST:] + by, batch.reward, batch.reward)

    correction = Correction(wrong(few), few, usual, replay.statistics())
    before = (wrong(rest).vector - rest.vector[:, PAST:]).square().mean()
    after = (correction(wrong(rest), rest) - rest.vector[:, PAST:]).square().mean()
    assert after < 0.1 * before
    right = Foretold(few.vector[:, PAST:], few.reward, few.reward)
    assert torch.allclose(Correction(right, few, usual, replay.statistics())(right, few), right.vector)


def test_finished_parts_are_kept(archive, tmp_path, capsys):
    options = real_floors.RealFloors(
        archive, tmp_path / "out", ice=(2, 0), seeds=1, seconds=0.05, open_loop=2, arms=("linear", "ours")
    )
    real_floors.main(options)
    said = capsys.readouterr().out
    assert "seed 0, 2 of ice: ours done" in said
    parts = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("seed-0/ice-*/*.json")}
    assert len(parts) == 4
    found = load(tmp_path / "out")
    assert {"given", "given corrected", "linear corrected"} <= set(found[2])
    assert "given" not in found[0] and "head corrected" not in found[0]
    assert found[2]["linear"][0].shape == (6, 3, 3)
    real_floors.main(options)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("seed-0/ice-*/*.json")} == parts
    with pytest.raises(UserError, match="give another --out"):
        real_floors.main(replace(options, seconds=1.0))


def test_a_gain_is_judged_on_the_same_windows(tmp_path):
    rng = np.random.default_rng(0)
    rival = [rng.normal(size=(12, 3, 3)) for _ in range(3)]
    share, low, high = gain([0.75 * e for e in rival], rival, np.ones(3))
    assert (share, low, high) == pytest.approx((0.25, 0.25, 0.25))
    assert "| ice |" in markdown(tmp_path, np.ones(3))
