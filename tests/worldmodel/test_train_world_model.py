"""The command as its user meets it: files, lines, exit codes."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from told import Told, told
from toy_logs import named_after_origin, sliding_mass, write_log

from worldmodel import checkpoint, session
from worldmodel.cli import train
from worldmodel.lock import locked
from worldmodel.logs.importing import as_log_folder
from worldmodel.saved import NAME, load_model
from worldmodel.storage import LogReader


@pytest.fixture
def command(capsys):
    def call(*arguments: object) -> Told:
        return told(capsys, train, arguments)

    return call


@pytest.fixture
def logs(tmp_path) -> Path:
    return write_log(tmp_path / "logs", sliding_mass(8, steps=20)).folder


SHORT = ("--size", "debug", "--batch", 4, "--length", 8, "--wandb", "off")


def archive(path: Path, episodes: int = 4, **changed: np.ndarray) -> Path:
    """An .npz of the sliding mass, with its mapping beside it."""
    made = sliding_mass(episodes, steps=20)
    arrays = {
        "obs": np.stack([e.observation["vector"] for e in made]),
        "act": np.stack([np.concatenate([e.action, e.action[-1:]]) for e in made]),
        **changed,
    }
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    path.with_suffix(".yaml").write_text(
        "task: mass\ncontrol_hz: 10\nobservation: {array: obs, names: [x_m, v_m_s]}\n"
        "action: {array: act, names: [push]}\nshow: [v_m_s]\n"
    )
    return path


# -- what it leaves --------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_a_plot_and_every_figure(command, logs, tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.session.LOOK_EVERY_S", 1e9)  # only at the end, also on a machine that is busy
    run = tmp_path / "run"
    told = command("--data", logs, "--run", run, "--steps", 60, *SHORT)
    assert told.code == 0 and told.err == ""
    assert (run / "plots" / "open_loop.png").read_bytes().startswith(b"\x89PNG")
    model, meta = load_model(run / "checkpoints")
    assert meta["steps"] == 60 and model.context.names == ("floor_friction",)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["step"]) for row in rows] == [("world_model", 50), ("held_out", 60)]
    assert rows[0]["loss"] and rows[1]["error_10"] > 0 and rows[1]["standing_still_10"] > 0
    curves = json.loads((run / "plots" / "open_loop.json").read_text())
    assert [c["name"] for c in curves["channels"]] == ["channel 0", "channel 1"]
    assert len(curves["model"]) == len(curves["persistence"]) == len(curves["channels"][0]["model"])
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["task"] == "toy" and settings["size"] == "debug" and settings["trainer"]["batch"] == 4
    assert settings["data"] == str(logs.resolve())
    assert not (run / "wandb").exists()


def test_it_says_what_it_learns_from_how_well_and_what_next(command, logs, tmp_path):
    out = command("--data", logs, "--run", tmp_path / "run", "--steps", 5, *SHORT).out
    assert "160 steps of toy (0:16 at 10 Hz) in 8 episodes, 1 of them held out" in out
    assert re.search(r"Physics that the model can be told: floor_friction 0\.\d+ to \d", out)
    assert re.search(r"held-out error [\d.]+ / [\d.]+ / [\d.]+ after 1 / 10 / 16 steps; standing still", out)
    assert f"{tmp_path}/run/plots/open_loop.png" in out
    assert f"dream --run {tmp_path}/run --hours 1" in out
    assert "\x1b" not in out  # no colours, no bars where there is no terminal


def test_a_dream_goes_on_from_its_settings(command, logs, tmp_path):
    from configs import from_dict
    from dreaming.run import NightConfig

    command("--data", logs, "--run", tmp_path / "run", "--steps", 2, *SHORT)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert from_dict(NightConfig, settings, "config.yaml").trainer.length == 8


def test_minutes_are_kept(command, logs, tmp_path):
    begun = time.monotonic()
    told = command("--data", logs, "--run", tmp_path / "run", "--minutes", 0.02, *SHORT)
    assert told.code == 0 and "Done: " in told.out
    assert time.monotonic() - begun < 1.2 + 20  # to import, plot and save, beside whatever else this machine does


def test_as_it_goes_it_looks_saves_and_shows(command, logs, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "LOOK_EVERY_S", 0.3)
    monkeypatch.setattr(session, "LOOK_SHARE", 1.0)
    monkeypatch.setattr(session, "SAVE_EVERY_S", 0.3)
    out = command("--data", logs, "--run", tmp_path / "run", "--minutes", 0.12, *SHORT).out
    assert out.count("held-out error") >= 3
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.pt"))) >= 2


# -- going on --------------------------------------------------------------------------------------------------------


def test_the_same_run_goes_on_and_says_so(command, logs, tmp_path):
    run = tmp_path / "run"
    first = command("--data", logs, "--run", run, "--steps", 4, *SHORT)
    second = command("--run", run, "--steps", 7, "--wandb", "off")  # data, size, batch and length are remembered
    assert "Going on" not in first.out and "Going on from step 4" in second.out
    assert load_model(run / "checkpoints")[1]["steps"] == 7
    third = command("--run", run, "--steps", 7, "--wandb", "off")
    assert third.code == 0 and "Nothing to do: 7 steps were made before" in third.out


def test_settings_of_a_night_in_the_same_folder_stay(command, logs, tmp_path):
    run = tmp_path / "run"
    command("--data", logs, "--run", run, "--steps", 2, *SHORT)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "scenario": "slippery"}))
    assert command("--run", run, "--steps", 3, "--wandb", "off").code == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["scenario"] == "slippery"


def test_a_damaged_checkpoint_gives_way_and_is_mentioned(command, logs, tmp_path):
    run = tmp_path / "run"
    for steps in (2, 4):
        command("--data", logs, "--run", run, "--steps", steps, *SHORT)
    newest = run / "checkpoints" / f"{NAME}-000000004.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    told = command("--run", run, "--steps", 6, "--wandb", "off")
    assert told.code == 0 and "Going on from step 2" in told.out
    assert "note: the checkpoint of step 4 is damaged; went on from the one of step 2" in told.out


def started(run: Path, *arguments: str, before: str = "pass") -> subprocess.Popen:
    code = f"import worldmodel.session as s; {before}; from worldmodel.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--run", str(run), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_and_end_well(logs, tmp_path, number):
    run = tmp_path / "run"
    process = started(run, "--data", str(logs), "--minutes", "5", *map(str, SHORT))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert process.returncode == 0 and err == "", err
    assert f"Stopped by {name}, all is saved" in out and "Next:" in out
    assert load_model(run / "checkpoints")[1]["steps"] >= 50
    assert (run / "plots" / "open_loop.png").exists()


def test_a_killed_run_goes_on_from_its_last_checkpoint(command, logs, tmp_path):
    run = tmp_path / "run"
    process = started(run, "--data", str(logs), "--minutes", "5", *map(str, SHORT), before="s.SAVE_EVERY_S = 0.3")
    deadline = time.monotonic() + 60
    while not checkpoint.exists(run / "checkpoints", NAME) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    steps = checkpoint.newest_step(run / "checkpoints", NAME)
    told = command("--run", run, "--steps", steps + 5, "--wandb", "off")
    assert told.code == 0 and "Going on from step " in told.out


# -- raw logs --------------------------------------------------------------------------------------------------------


def test_an_archive_is_imported_through_the_mapping_beside_it(command, tmp_path):
    data, run = archive(tmp_path / "mass.npz"), tmp_path / "run"
    told = command("--data", data, "--run", run, "--steps", 3, *SHORT)
    assert told.code == 0, told.err
    assert f"Imported {data} to {run}/episodes" in told.out
    assert "v_m_s" in told.out and "x_m" not in told.out.split("error after")[1]  # `show` asks for the speed alone
    reader = LogReader(run / "episodes")
    assert len(reader) == 4 and reader.schema["task"] == "mass"
    again = command("--run", run, "--steps", 5, "--wandb", "off")  # the imported logs are the run's own
    assert again.code == 0 and "Going on from step 3" in again.out


def test_a_folder_that_holds_one_archive_will_do_and_so_will_a_mapping_elsewhere(command, tmp_path):
    (tmp_path / "robot").mkdir()
    data = archive(tmp_path / "robot" / "mass.npz")
    mapping = data.with_suffix(".yaml").rename(tmp_path / "elsewhere.yaml")
    told = command("--data", data.parent, "--run", tmp_path / "run", "--mapping", mapping, "--steps", 2, *SHORT)
    assert told.code == 0, told.err


def test_warthog_logs_need_no_mapping_of_the_users(tmp_path):
    """The packaged mapping is found by the archive's name; here with a few episodes of the same shape."""
    rng = np.random.default_rng(0)
    path = tmp_path / "warthog_floors.npz"
    np.savez(
        path,
        obs=rng.normal(size=(4, 9, 6)),
        action=rng.normal(size=(4, 9, 2)),
        dt=0.05,
        split=np.array(["train", "train", "val", "test"]),
        context=np.array(["ice"] * 4),
        context_uncertain=np.zeros(4, bool),
        session=np.array(["s"] * 4),
        step=np.arange(4),
    )
    reader = LogReader(as_log_folder(path, tmp_path / "episodes"))
    assert reader.schema["show"][0] == "imu_yaw_rate_rad_s" and reader.schema["control_hz"] == pytest.approx(20)
    assert [e["info"]["split"] for e in reader.episodes] == ["train", "train", "val", "test"]


# -- trouble and W&B -------------------------------------------------------------------------------------------------


def test_what_stands_in_the_way_is_said_before_the_first_step(command, tmp_path):
    episodes = sliding_mass(4, steps=20)
    for episode in episodes:
        episode.observation["vector"][:, 0] = 7.0
        episode.action[:] = 0.5
    logs = write_log(tmp_path / "logs", episodes).folder
    out = command("--data", logs, "--run", tmp_path / "run", "--steps", 2, *SHORT).out
    assert "note: nothing to learn in channel 0: never changes in the logs" in out
    assert "note: the command motor 0 never changes in the logs" in out
    assert out.index("never changes") < out.index("held-out error")


def test_trouble_is_told_once_and_at_once(command, logs, tmp_path, monkeypatch):
    def update(trainer, progress):
        trainer.steps += 1
        if trainer.steps == 2:
            trainer.trouble.append("something [odd] happened")
        return {"loss": 1.0}

    monkeypatch.setattr("worldmodel.trainer.Trainer.update", update)
    out = command("--data", logs, "--run", tmp_path / "run", "--steps", 4, *SHORT).out
    assert out.count("note: something [odd] happened") == 1


def test_wandb_gets_the_same_figures(command, logs, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    run = tmp_path / "run"
    told = command("--data", logs, "--run", run, "--steps", 50, *SHORT[:-1], "offline")
    assert told.code == 0 and told.err == ""
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    output = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
    items = [json.loads(line) for line in output.splitlines()]
    history = [item["history"]["item"] for item in items if item["type"] == "history"]
    found = {name: value for item in history for name, value in item.items()}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {row["phase"]: row for row in rows}  # how many there are of each depends on the machine's speed
    assert found["world_model/loss"] == pytest.approx(last["world_model"]["loss"])
    assert found["held_out/error_10"] == pytest.approx(last["held_out"]["error_10"])
    assert any(name.startswith("held_out/open_loop") for name in found)
    assert (run / "wandb" / "run-id").read_text() in file.name


# -- bad input -------------------------------------------------------------------------------------------------------


def test_help_needs_no_torch():
    code = "import sys; from worldmodel.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--data", "--run", "--size", "--minutes", "--steps", "--mapping", "--wandb", "--device"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "options,parts",
    [
        (["--sise", "debug"], ["--sise", "--size"]),
        (["--size", "laptp"], ['"laptp" is unknown; did you mean "laptop"?', "400m"]),
        (["--minutes", "-1"], ["--minutes is -1; give a number above 0"]),
        (["--minutes", "soon"], ["--minutes", "soon"]),
        (["--minutes", "1", "--steps", "5"], ["--minutes and --steps exclude each other"]),
        (["--length", "1"], ["--length is 1; give 2 or more"]),
        (["--wandb", "on"], ["--wandb", "offline"]),
        (["--device", "gpu"], ["there is no device 'gpu'", "give auto, cpu, cuda"]),
    ],
)
def test_a_wrong_option_is_one_clear_line(command, logs, tmp_path, options, parts):
    assert command("--data", logs, "--run", tmp_path / "run", *options).refused(*parts)
    assert not (tmp_path / "run").exists()


def test_a_new_run_needs_logs(command, tmp_path):
    assert command("--run", tmp_path / "run").refused("--data is missing: give the logs")


def test_logs_that_are_not_there_or_not_logs(command, tmp_path):
    run = tmp_path / "run"
    assert command("--data", tmp_path / "none", "--run", run).refused(f"{tmp_path}/none does not exist")
    (tmp_path / "empty").mkdir()
    assert command("--data", tmp_path / "empty", "--run", run).refused("is not a log folder", "record-rollouts")
    (tmp_path / "x.csv").write_text("1,2")
    assert command("--data", tmp_path / "x.csv", "--run", run).refused("x.csv needs a mapping", "--describe")
    assert not run.exists()


def test_logs_without_episodes_or_with_a_single_one(command, logs, tmp_path):
    index = (logs / "episodes.jsonl").read_text().splitlines(keepends=True)
    (logs / "episodes.jsonl").write_text(index[0])
    assert command("--data", logs, "--run", tmp_path / "run").refused("1 episodes cannot be split", "at least 2")
    (logs / "episodes.jsonl").write_text("")
    assert command("--data", logs, "--run", tmp_path / "run").refused("holds no episodes", "record-rollouts")


def test_truncated_logs(command, logs, tmp_path):
    rows = (logs / "rows.npy").read_bytes()
    (logs / "rows.npy").write_bytes(rows[: len(rows) // 2])
    assert command("--data", logs, "--run", tmp_path / "run").refused("rows.npy")
    assert len((logs / "rows.npy").read_bytes()) == len(rows) // 2  # reading repairs and removes nothing


def test_logs_of_others_with_nan(command, logs, tmp_path):
    reader = LogReader(logs)
    rows = np.lib.format.open_memmap(logs / "rows.npy", mode="r+")
    rows["vector"][reader.episodes[2]["start"] + 5, 1] = np.nan
    rows.flush()
    told = command("--data", logs, "--run", tmp_path / "run", *SHORT)
    assert told.refused("episode 2: observation vector is nan in row 5, column 1 (channel 1); cut or repair")


def test_archives_with_nan_wrong_shapes_or_cut_short(command, tmp_path):
    run = tmp_path / "run"
    poisoned = np.zeros((4, 21, 2))
    poisoned[1, 3, 0] = np.nan
    told = command("--data", archive(tmp_path / "nan.npz", obs=poisoned), "--run", run)
    assert told.refused("nan.npz: episode 1: observation vector is nan in row 3, column 0")
    told = command("--data", archive(tmp_path / "shape.npz", act=np.zeros((4, 20, 1))), "--run", run)
    assert told.refused("shape.npz: act has (4, 20) samples, the observation has (4, 21)")
    told = command("--data", archive(tmp_path / "names.npz", obs=np.zeros((4, 21, 3))), "--run", run)
    assert told.refused("obs has 3 columns, but the mapping gives 2 names")
    cut = archive(tmp_path / "cut.npz")
    cut.write_bytes(cut.read_bytes()[:300])
    assert command("--data", cut, "--run", run).refused("cut.npz is damaged or not an .npz archive")
    bare = archive(tmp_path / "bare.npz")
    bare.with_suffix(".yaml").unlink()
    assert command("--data", bare, "--run", run).refused("bare.npz needs a mapping", "write bare.yaml beside it")
    assert command("--data", bare, "--run", run, "--mapping", "none.yaml").refused("none.yaml does not exist")
    show = archive(tmp_path / "show.npz")
    show.with_suffix(".yaml").write_text(show.with_suffix(".yaml").read_text().replace("[v_m_s]", "[v]"))
    assert command("--data", show, "--run", run).refused('"v" is unknown', "v_m_s")
    assert not (run / "episodes").exists()


def test_a_run_that_is_none(command, logs, tmp_path):
    (tmp_path / "file").write_text("")
    assert command("--data", logs, "--run", tmp_path / "file").refused("file is a file; --run takes a folder")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    assert command("--data", logs, "--run", tmp_path / "thesis").refused("no run folder (it holds chapter.tex)")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    assert command("--data", logs, "--run", logs).refused("no run folder", "episodes.jsonl")


def test_a_run_is_for_one_process_at_a_time(command, logs, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        call = command("--data", logs, "--run", tmp_path / "run", "--steps", 1)
    assert call.refused("is in use by process")


def test_a_run_of_another_task_size_or_robot(command, logs, tmp_path):
    run = tmp_path / "run"
    command("--data", logs, "--run", run, "--steps", 2, *SHORT)
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = write_log(tmp_path / "other", sliding_mass(4, steps=20), task="hopper").folder
    told = command("--data", other, "--run", run, "--steps", 3, "--wandb", "off")
    assert told.refused("is a run of toy, these logs are of hopper; give a new --run")
    told = command("--data", logs, "--run", run, "--size", "laptop", "--steps", 3, "--wandb", "off")
    assert told.refused("holds a model of size debug; leave --size out")
    wider = write_log(tmp_path / "wider", named_after_origin([20] * 4, [False] * 4)).folder
    told = command("--data", wider, "--run", run, "--steps", 3, "--wandb", "off")
    assert told.refused("holds a model whose physics is")
    assert kept == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_only_checkpoint_cut_in_half(command, logs, tmp_path):
    run = tmp_path / "run"
    command("--data", logs, "--run", run, "--steps", 2, *SHORT)
    (path,) = (run / "checkpoints").glob("*.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = command("--run", run, "--steps", 3, "--wandb", "off")
    assert told.refused(f"no usable '{NAME}' checkpoint", "cut short or altered", "into a new --run")
    assert path.exists()


def test_a_full_disk_loses_nothing(command, logs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    command("--data", logs, "--run", run, "--steps", 2, *SHORT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        told = command("--run", run, "--steps", 4, "--wandb", "off")
    assert told.refused("no space left on the disk while writing", f"{NAME}-000000004.pt", "free some")
    assert "Going on from step 2" in command("--run", run, "--steps", 4, "--wandb", "off").out


# -- logs never seen before ------------------------------------------------------------------------------------------


def test_formats_are_listed_without_a_run(command):
    told = command("--formats")
    assert told.code == 0 and re.search(r"^csv +tables of text", told.out, re.MULTILINE) and "\nnpz " in "\n" + told.out


def test_describe_drafts_a_mapping_that_trains(command, tmp_path):
    for i, episode in enumerate(sliding_mass(4, steps=20)):
        rows = zip(range(20), episode.observation["vector"], episode.action[:, 0], strict=False)
        lines = [f"{t / 10}, {x}, {v}, {u}" for t, (x, v), u in rows]
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{i}.csv").write_text("\n".join(["time, x, v, cmd", *lines]))
    told = command("--data", tmp_path / "raw", "--describe")
    assert told.code == 0 and told.err == ""
    (tmp_path / "mine.yaml").write_text(told.out)
    told = command(
        "--data", tmp_path / "raw", "--mapping", tmp_path / "mine.yaml", "--run", tmp_path / "run", "--steps", 2, *SHORT
    )
    assert told.code == 0 and "no reward: a world model only" in told.out
    assert "76 steps of raw" in told.out.replace("\n", " ") and (tmp_path / "run" / "plots" / "open_loop.png").exists()
    assert command("--describe").refused("--data is missing")
    assert command("--data", tmp_path / "raw").refused("--run is missing")
