"""What a robot makes of its physics: step by step as along logs, its uncertainty, and the files that hold it."""

import csv
import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import yaml
from told import told
from toy_logs import sliding_mass, write_log

from worldmodel import estimate
from worldmodel.cli import train
from worldmodel.context import ContextSpec
from worldmodel.estimate import Estimate, Estimator, Series, by_step, estimated, guesses, judge
from worldmodel.log_format import SCHEMA
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.replay import Replay
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import load_model
from worldmodel.storage import LogReader


@pytest.fixture
def logs(tmp_path) -> LogReader:
    return write_log(tmp_path / "logs", sliding_mass(40, steps=20))


@pytest.fixture
def model() -> WorldModel:
    """Untrained; its memory draws nothing that it looks at, so that what it says is the same every time."""
    context = ContextSpec(("floor_friction",), (1.6,), (1.4,))
    model = WorldModel(ModelConfig(RSSMConfig(32, 16, 4, 4, 4), units=16, layers=1), Spaces(2, 1), context)
    torch.nn.init.zeros_(model.rssm.in_stoch.linear.weight)
    return model.eval()


def test_on_the_robot_it_is_the_same_as_along_the_log(model, logs):
    replay = Replay(logs, model.context, [3, 7])
    along = list(estimated(model, replay))
    batch, robots = replay.whole([0, 1], 21), Estimator(model, 2)
    for t in range(21):
        seen = {"vector": batch.vector[:, t].numpy()}
        here = robots.step(seen, batch.action[:, t].numpy(), np.full(2, t == 0))
        for k, one in enumerate(along):
            np.testing.assert_allclose(here.mean[k], one.estimate.mean[t], atol=1e-5)
            np.testing.assert_allclose(here.std[k], one.estimate.std[t], atol=1e-5)
    assert [one.episode for one in along] == [3, 7]
    assert along[1].label[:, 0] == pytest.approx(np.full(21, logs.episodes[7]["physics"]["floor_friction"]))


def test_no_label_is_read_and_no_random_number_of_others_drawn(model, logs):
    replay = Replay(logs, model.context)
    before = torch.get_rng_state()
    first = [one.estimate.mean for one in estimated(model, replay)]
    assert torch.equal(torch.get_rng_state(), before)
    replay.values, replay.labelled = replay.values + 1, ~replay.labelled
    for there, here in zip(first, estimated(model, replay), strict=True):
        np.testing.assert_array_equal(there, here.estimate.mean)


def test_long_episodes_are_filtered_in_parts_that_join(model, logs, monkeypatch):
    replay = Replay(logs, model.context, [0, 1, 2])
    whole = [one.estimate.mean for one in estimated(model, replay)]
    monkeypatch.setattr(estimate, "ROWS", 8)
    monkeypatch.setattr(estimate, "EPISODES", 2)
    for there, here in zip(whole, estimated(model, replay), strict=True):
        np.testing.assert_allclose(there, here.estimate.mean, atol=1e-5)


def pretend(monkeypatch, episodes: int, true_std: float, stated_std: float, rows: int = 12):
    """Estimates that are off by `true_std` in truth, one number an episode, and state `stated_std`."""
    rng = np.random.default_rng(0)

    def series(model, replay, most):
        for e in range(episodes):
            label = np.full((rows, 1), rng.uniform(0.2, 3.0))
            off = np.full((rows, 1), rng.normal(0, true_std))
            yield Series(e, Estimate(label + off, np.full((rows, 1), stated_std)), label, label + 1)

    monkeypatch.setattr(estimate, "estimated", series)


@pytest.mark.parametrize("stated", [0.05, 0.1, 0.4])
def test_the_uncertainty_is_set_right_by_held_out_episodes(model, logs, monkeypatch, stated):
    pretend(monkeypatch, 400, true_std=0.1, stated_std=stated)
    (judged,), found = judge(model, Replay(logs, model.context), Replay(logs, model.context))
    assert judged.widening == pytest.approx(0.1 / stated, rel=0.15)
    assert judged.coverage == pytest.approx(0.9, abs=0.03) and judged.error == pytest.approx(0.1, rel=0.1)
    assert judged.head == pytest.approx(1.0)
    assert model.widening == (judged.widening,)
    assert found[0].estimate.std[0, 0] == pytest.approx(stated * judged.widening)
    assert f"held in {judged.coverage:.0%} of 400" in judged.line()


def test_too_few_episodes_calibrate_nothing_and_it_says_so(model, logs, monkeypatch):
    pretend(monkeypatch, 8, true_std=0.1, stated_std=0.1)
    (judged,), _ = judge(model, Replay(logs, model.context), Replay(logs, model.context))
    assert judged.widening is None and model.widening is None
    assert "too few labelled held-out episodes to calibrate it" in judged.line()


def test_the_guess_is_the_training_logs_mean_and_errors_go_by_step(model, tmp_path):
    episodes = sliding_mass(3, steps=6)
    for episode, friction in zip(episodes, (1.0, 2.0, 6.0), strict=True):
        episode.physics["floor_friction"] = friction
    logs = write_log(tmp_path / "logs", episodes)
    assert guesses(Replay(logs, model.context, [0, 1])) == pytest.approx([1.5])
    found = [
        Series(0, Estimate(np.array([[1.0], [2.0]]), np.ones((2, 1))), np.array([[0.0], [0.0]]), np.zeros((2, 1))),
        Series(1, Estimate(np.array([[5.0]]), np.ones((1, 1))), np.array([[-2.0]]), np.zeros((1, 1))),
    ]
    error, guess = by_step(found, np.array([1.0]))
    assert error[:, 0] == pytest.approx([5.0, 2.0]) and guess[:, 0] == pytest.approx([np.sqrt(5), 1.0])


# -- the command -----------------------------------------------------------------------------------------------------

SHORT = ("--size", "debug", "--batch", 4, "--length", 8, "--wandb", "off")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps on a hundred episodes; ten are held out, enough to calibrate."""
    folder = tmp_path_factory.mktemp("estimate")
    logs = write_log(folder / "many", sliding_mass(110, steps=12)).folder
    with redirect_stdout(io.StringIO()) as out:
        train([str(x) for x in ("--data", logs, "--run", folder / "run", "--steps", 2, *SHORT)])
    assert "floor_friction: estimated from history to" in out.getvalue()
    assert f"{folder}/run/plots/estimate.png" in out.getvalue()
    return folder / "run"


def test_a_run_leaves_the_estimates_figures_and_writes_its_series_for_any_log(capsys, run, tmp_path):
    (factor,) = json.loads((run / "results.json").read_text())["estimate"]
    assert factor["name"] == "floor_friction" and factor["episodes"] == 11
    assert 0 < factor["guess"] < 2 and 0 <= factor["coverage"] <= 1
    assert (run / "plots" / "estimate.png").read_bytes().startswith(b"\x89PNG")
    model, meta = load_model(run / "checkpoints")
    assert model.widening == (factor["widening"],)
    assert (meta["action"]["low"], meta["action"]["high"]) == ([-1.0], [1.0])

    other = sliding_mass(3, steps=9, seed=5, label=False)
    there = write_log(tmp_path / "other", other, bounds=(-2.0, 2.0))  # of other bounds: the commands are the same
    out = tmp_path / "series" / "friction.csv"
    done = told(capsys, train, ("--run", run, "--data", there.folder, "--estimate", out))
    assert done.code == 0 and "90% of moments lie within 1.645 of it" in done.out, done.err
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 3 * 10 and rows[12]["episode"] == "1" and rows[12]["time_s"] == "0.2"
    assert {row["floor_friction_label"] for row in rows} == {""}
    same = write_log(tmp_path / "same", other)
    along = [one for series in estimated(model, Replay(same, model.context)) for one in series.estimate.std[:, 0]]
    np.testing.assert_allclose([float(row["floor_friction_std"]) for row in rows], along, rtol=0.2)


def test_logs_of_another_robot_and_runs_without_an_estimate_are_refused(capsys, run, tmp_path):
    def refused(*words, **options):
        given = tuple(part for name, value in options.items() for part in (f"--{name}", value))
        done = told(capsys, train, given)
        assert done.refused(*words), done.err

    out = tmp_path / "out.csv"
    refused("none holds no world model", run=tmp_path / "none", estimate=out)
    faster = write_log(tmp_path / "faster", sliding_mass(2, steps=9), control_hz=20.0).folder
    refused("control_hz is 20.0, the model learnt 10.0", run=run, data=faster, estimate=out)
    schema = json.loads((faster / SCHEMA).read_text())
    schema["observation"]["vector"]["names"] = ["x_m", "v_m_s"]
    (faster / SCHEMA).write_text(json.dumps(schema))
    refused("its observation is ['x_m', 'v_m_s'], the model learnt", run=run, data=faster, estimate=out)
    assert not out.exists()
    plain = write_log(tmp_path / "plain", sliding_mass(4, steps=9, label=False)).folder
    told(capsys, train, ("--data", plain, "--run", tmp_path / "blind", "--steps", 1, *SHORT))
    refused("label no physics that varies, so that it has nothing to estimate", run=tmp_path / "blind", estimate=out)
    assert "estimate" in json.loads((tmp_path / "blind" / "results.json").read_text())
    assert yaml.safe_load((tmp_path / "blind" / "config.yaml").read_text())["task"] == "toy"


@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e38])
def test_one_broken_sample_counts_as_not_measured(model, logs, broken):
    batch, sound, shaken = Replay(logs, model.context, [3]).whole([0], 21), Estimator(model), Estimator(model)
    for t in range(21):
        vector, command, first = batch.vector[:, t].numpy(), batch.action[:, t].numpy(), np.array([t in (0, 12)])
        hurt = vector.copy()
        if t == 8:
            hurt[0, 1], vector[0, 1] = broken, batch.vector[0, 7, 1]
        whole, other = (one.step({"vector": v}, command, first) for one, v in ((sound, vector), (shaken, hurt)))
        np.testing.assert_array_equal(other.mean, whole.mean)
        assert np.isfinite(whole.mean).all()
