"""Logs as robots write them: what is broken in a channel may cost that channel, and nothing else."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_logs import slide, sliding_mass, with_images, write_log

from configs import UserError, from_dict, packaged
from dreaming.audit import audit_on_logs
from dreaming.rehearsal import replayed_logs
from worldmodel import trainer as trainer_module
from worldmodel.episode import Episode
from worldmodel.evaluation import OpenLoop
from worldmodel.log_format import index_line
from worldmodel.model import ModelConfig
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

DEBUG = from_dict(ModelConfig, packaged("sizes", "debug"), "debug")
QUICK = TrainerConfig(batch=8, length=12, lr=4e-3, warmup=20, transition_steps=4, transition_batch=128)
UPDATES = 60


def trained(folder: Path, episodes: list[Episode]) -> tuple[Trainer, OpenLoop]:
    """Nothing on the way may be skipped or infinite."""
    trainer = Trainer(write_log(folder, episodes), DEBUG, QUICK)
    while trainer.steps < UPDATES:
        metrics = trainer.update(trainer.steps / UPDATES)
        assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert trainer.skipped == 0 and trainer.caution == 1.0
    result = trainer.evaluate(10, starts=128)
    assert np.isfinite(result.model).all() and np.isfinite(result.channels).all()
    return trainer, result


def share_of_standing_still(result: OpenLoop, step: int) -> np.ndarray:
    """(D,) error after so many steps, in shares of that of standing still."""
    return result.channels[step - 1] / np.maximum(result.channels_persistence[step - 1], 1e-9)


# -- channels --------------------------------------------------------------------------------------------------------


def spiky(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(len(x)) < 1 / 2000, rng.choice([-1e4, 1e4], len(x)), x)


BAD: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "constant": lambda x, rng: np.full_like(x, 1e6),
    "large": lambda x, rng: 1e6 * x,
    "offset": lambda x, rng: 1e6 + x,  # float32 tells values there apart by 0.06
    "spiky": spiky,
    "noise": lambda x, rng: rng.normal(size=len(x)),
}


def with_bad_channels() -> list[Episode]:
    """The mass's logs; behind position and speed stands the position as each bad sensor gives it."""
    episodes, rng = sliding_mass(100), np.random.default_rng(0)
    for episode in episodes:
        vector = episode.observation["vector"]
        x = vector[:, 0].astype(np.float64)
        spoiled = [make(x, rng) for make in BAD.values()]
        episode.observation["vector"] = np.column_stack([vector, *spoiled]).astype(np.float32)
    return episodes


def test_beside_bad_channels_the_good_ones_are_learnt_as_well(tmp_path):
    _, undisturbed = trained(tmp_path / "good", sliding_mass(100))
    trainer, result = trained(tmp_path / "bad", with_bad_channels())
    good, after = (share_of_standing_still(r, 10) for r in (undisturbed, result))
    assert (after[:2] < 3 * good + 0.05).all(), (after, good)
    for i, kind in enumerate(BAD, 2):
        if kind not in ("constant", "noise"):  # there is something to learn in it
            assert after[i] < 0.5, (kind, after)
    told = [text for text in trainer.trouble if "outside of all others" in text]
    assert len(told) == 1 and told[0].startswith(f"channel {2 + list(BAD).index('spiky')}: ")


def test_a_spike_gives_way_to_the_sample_before_it(tmp_path):
    """Channel 0 counts 0 to 99 again and again, channel 1 hardly ever moves: what is rare there is all there is."""
    episodes = sliding_mass(30, steps=99)
    for episode in episodes:
        episode.observation["vector"] = np.column_stack([np.arange(100), np.zeros(100)]).astype(np.float32)
    vectors = [episode.observation["vector"] for episode in episodes]
    vectors[3][50:52, 0] = 1e6, -1e6
    vectors[7][0, 0] = np.finfo(np.float32).max
    vectors[8][20, 1] = 1e6
    replay = Trainer(write_log(tmp_path, episodes), DEBUG, QUICK).replay
    seen = {e: replay.whole([replay.episodes.tolist().index(e)], 100).vector[0].numpy() for e in (3, 7, 12)}
    assert seen[3][48:54, 0].tolist() == [48, 49, 49, 49, 52, 53]
    assert seen[7][:3, 0].tolist() == [1, 1, 2]  # nothing came before
    assert np.array_equal(seen[12], vectors[12])
    from_within = replay.gather(replay.offset[3] + np.arange(51, 54)[None]).vector[0, :, 0]
    assert from_within.tolist() == [49, 52, 53]
    assert replay.reader.mended(3).observation["vector"][50, 0] == 49
    assert replay.reader.episode(3).observation["vector"][50, 0] == 1e6
    assert replay.reader.spikes.channel.tolist() == [0, 0, 0]
    statistics = replay.statistics()
    assert statistics.std[0] == pytest.approx(np.arange(100).std(), rel=0.01)
    assert statistics.std[1] > 1e4


def test_falls_blows_and_other_states_are_no_spikes(tmp_path):
    """A robot stands upright but for one fall; a gauge of little noise meets blows; a second machine reads higher."""
    rng, episodes = np.random.default_rng(0), sliding_mass(100, steps=99)
    for i, episode in enumerate(episodes):
        upright, force = 1 - 1e-3 * rng.random(100), 0.1 * rng.normal(size=100)
        if i == 40:
            upright[60:80] = np.cos(np.linspace(0, 1.5, 20))
        if i % 20 == 3:
            force[rng.integers(0, 100)] = rng.uniform(10, 50)
        reading = rng.normal(size=100) + (1e6 if i % 2 else 0)
        episode.observation["vector"] = np.column_stack([upright, force, reading]).astype(np.float32)
    reader = write_log(tmp_path, episodes)
    assert len(reader.spikes.row) == 0
    assert all(
        np.array_equal(reader.mended(i).observation["vector"], e.observation["vector"]) for i, e in enumerate(episodes)
    )


def test_dreams_of_spiky_logs_are_compared_with_what_was_learnt_from(tmp_path):
    episodes = sliding_mass(40, steps=49)
    for i in (9, 29):  # held out
        episodes[i].observation["vector"][30, 1] = 1e7
    trainer = Trainer(write_log(tmp_path, episodes), DEBUG, dataclasses.replace(QUICK, transition_steps=1))
    dreams = replayed_logs(trainer.model, trainer.held_out, 10.0, 30, 20, seed=0)
    report = audit_on_logs(dreams, trainer.reader, trainer.model.std.numpy())
    assert max(size for size in report.overall.persistence.mean if size is not None) < 10


# -- episodes --------------------------------------------------------------------------------------------------------


def of_lengths(lengths: list[int]) -> list[Episode]:
    return [sliding_mass(1, steps=length, seed=i)[0] for i, length in enumerate(lengths)]


def monotonous() -> list[Episode]:
    """Nothing is varied, nothing rewarded, nothing told."""
    starts = np.random.default_rng(0).normal(size=(60, 2))
    episodes = [slide(1.0, np.full(40, 0.5), x, v, label=False) for x, v in starts]
    for episode in episodes:
        episode.reward[:] = 0.0
    return episodes


def all_terminated() -> list[Episode]:
    episodes = of_lengths([4] * 200)
    for episode in episodes:
        episode.terminated, episode.truncated = True, False
    return episodes


EPISODES: dict[str, Callable[[], list[Episode]]] = {
    "of one step": lambda: of_lengths([1] * 400),
    "of two steps": lambda: of_lengths([2] * 400),
    "of mixed lengths": lambda: of_lengths([1, 300, 2, 40, 1, 3, 5, 11, 2, 90] * 4),
    "that all end in a termination": all_terminated,
    "without variety": monotonous,
}


@pytest.mark.parametrize("kind", EPISODES)
def test_episodes_of_any_kind_are_learnt(tmp_path, kind):
    _, result = trained(tmp_path, EPISODES[kind]())
    assert (share_of_standing_still(result, 1) < 0.5).all()


# -- at the door -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["vector", "action", "applied_action", "demonstrated", "reward", "push"])
@pytest.mark.parametrize("episode", [2, 9])  # of which the last is held out
def test_nan_in_logs_of_others_is_refused_with_its_place(tmp_path, field, episode):
    reader = write_log(tmp_path, sliding_mass(10, steps=12))
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", mode="r+")
    rows[field][reader.episodes[episode]["start"] + 5, ...] = np.nan
    rows.flush()
    column = {"vector": r", column 0 \(channel 0\)", "reward": "", "push": ""}.get(field, r", column 0 \(motor 0\)")
    name = f"episode {episode}: .*{field} is nan in row 5{column}; cut or repair the log there"
    with pytest.raises(UserError, match=name):
        Trainer(LogReader(tmp_path), DEBUG, QUICK)


def test_physics_that_are_not_numbers_are_refused_with_their_place(tmp_path):
    write_log(tmp_path, sliding_mass(4, steps=12))
    index = tmp_path / "episodes.jsonl"
    records = [json.loads(line) for line in index.read_text().splitlines()]
    records[1]["physics"]["floor_friction"] = float("inf")
    index.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match="episode 1: physics floor_friction is inf"):
        Trainer(LogReader(tmp_path), DEBUG, QUICK)


def test_nan_is_refused_in_writing_by_the_names_of_its_columns(tmp_path):
    episodes = sliding_mass(2, steps=12)
    episodes[1].observation["vector"][7, 1] = np.inf
    with pytest.raises(UserError, match=r"episode 1: observation vector is inf in row 7, column 1 \(channel 1\)"):
        write_log(tmp_path, episodes)


def test_where_a_log_has_no_command_nan_is_none(tmp_path):
    """An episode's last row has no action; writers other than ours may put NaN in its place."""
    reader = write_log(tmp_path, sliding_mass(4, steps=6))
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", mode="r+")
    for record in reader.episodes:
        for field in ("action", "applied_action", "demonstrated", "reward", "push"):
            rows[field][record["start"] + record["length"]] = np.nan
    rows.flush()
    theirs = LogReader(tmp_path)
    plain = [{key: value for key, value in record.items() if key != "crc32"} for record in theirs.episodes]
    lines = [index_line(record, theirs._rows_of(record), "an episode") for record in plain]
    (tmp_path / "episodes.jsonl").write_bytes(b"".join(lines))
    trainer = Trainer(LogReader(tmp_path), DEBUG, QUICK)
    assert all(np.isfinite(value) for value in trainer.update().values())


# -- the same again --------------------------------------------------------------------------------------------------

SMALL = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)


def advance(trainer: Trainer, steps: int) -> Trainer:
    while trainer.steps < steps:
        trainer.update(trainer.steps / 40)
    return trainer


def resumed(reader: LogReader, run: Path) -> Trainer:
    trainer = Trainer(reader, SMALL, QUICK)
    trainer.restore(run)
    return trainer


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights and both optimisers' averages."""
    averages = {
        f"optimizer {i} {j} {key}": value
        for i, optimizer in enumerate(trainer._optimizers())
        for j, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
    return {**trainer.model.state_dict(), **averages}


def assert_identical(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def test_training_on_pictures_is_the_same_again_and_across_save_and_resume(tmp_path):
    reader = write_log(tmp_path / "logs", [with_images(episode) for episode in sliding_mass(4, steps=6)])
    straight, again = (advance(Trainer(reader, SMALL, QUICK, seed=3), 6) for _ in range(2))
    assert_identical(state(straight), state(again))
    advance(Trainer(reader, SMALL, QUICK, seed=3), 3).save(tmp_path / "run")
    assert_identical(state(straight), state(advance(resumed(reader, tmp_path / "run"), 6)))


def test_trouble_is_met_in_the_same_way_after_a_resume(tmp_path, monkeypatch):
    """Saved amid losses that are not finite, it goes back at the same step, to the same state, at the same rate."""
    reader = write_log(tmp_path / "logs", sliding_mass(8, steps=12))
    honest, now = trainer_module.world_model_loss, {"step": 0}

    def loss(model, batch, *more):
        found = honest(model, batch, *more)
        return found._replace(total=found.total * (float("nan") if 202 <= now["step"] < 207 else 1.0))

    monkeypatch.setattr(trainer_module, "world_model_loss", loss)

    def go(trainer: Trainer, until: int) -> Trainer:
        while trainer.steps < until:
            now["step"] = trainer.steps
            trainer.update()
        return trainer

    straight, saved = (Trainer(reader, SMALL, QUICK, seed=3) for _ in range(2))
    for trainer in (straight, saved):
        trainer.steps = 196  # the last good state is kept at 200
        torch.manual_seed(3)
        go(trainer, 209 if trainer is straight else 204)
    saved.save(tmp_path / "run")
    again = go(resumed(reader, tmp_path / "run"), 209)
    assert len(straight.trouble) == 1 and straight.trouble == again.trouble
    assert straight.skipped == again.skipped == 5 and straight.caution == again.caution == pytest.approx(1 / 3)
    assert_identical(state(straight), state(again))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_robust import QUICK, SMALL, advance
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer
trainer = advance(Trainer(LogReader(sys.argv[1]), SMALL, QUICK, seed=3), 6)
trainer.save(Path(sys.argv[2]))
advance(trainer, 9)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_it_goes_on_from_what_was_saved_as_if_nothing_had_been(tmp_path):
    reader = write_log(tmp_path / "logs", sliding_mass(8, steps=12))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(reader.folder), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    straight = advance(Trainer(reader, SMALL, QUICK, seed=3), 12)
    again = resumed(reader, tmp_path / "run")
    assert again.steps == 6
    assert_identical(state(straight), state(advance(again, 12)))
