"""How far kicked starts are led from unkicked ones: laws of models that are known."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__)
sys.path += [str(HERE.parents[2] / "benchmarks"), str(HERE.parents[1] / "worldmodel")]

from kicks import Kicks, main, row, strayed  # noqa: E402
from survival import logs  # noqa: E402
from toy_logs import sliding_mass, write_log  # noqa: E402

from configs import UserError, from_dict, packaged  # noqa: E402
from dreaming.run import NightConfig, RunFolder  # noqa: E402
from worldmodel.context import ContextSpec  # noqa: E402
from worldmodel.model import ModelConfig, Spaces, WorldModel  # noqa: E402
from worldmodel.replay import Replay  # noqa: E402
from worldmodel.rssm import RSSMConfig  # noqa: E402
from worldmodel.trainer import Trainer, TrainerConfig  # noqa: E402

SMALL = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)


@pytest.fixture
def replay(tmp_path) -> Replay:
    reader = write_log(tmp_path, sliding_mass(4, steps=12))
    return Replay(reader, ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0)))


def settled(replay: Replay, share: float) -> WorldModel:
    """A model in which all that is left of the observation is that share of it, every step."""
    torch.manual_seed(0)
    model = WorldModel(SMALL, Spaces(2, 1), replay.context).eval()
    model.set_statistics(replay.statistics())
    model.expected = lambda latent, before, inputs, dreaming=False: (share * before, torch.zeros_like(before))
    return model


def test_what_moves_nothing_keeps_a_kick_as_it_was(replay):
    apart = strayed(settled(replay, 1.0), replay.whole(range(4), 12), 4)
    assert apart.shape == (4, 8)
    assert torch.allclose(apart, apart[:, :1].expand_as(apart), rtol=1e-3)


def test_what_halves_everything_halves_a_kick_each_step(replay):
    batch = replay.whole(range(4), 12)
    kept, halved = strayed(settled(replay, 1.0), batch, 4), strayed(settled(replay, 0.5), batch, 4)
    assert torch.allclose(halved, kept * 0.5 ** torch.arange(1.0, 9), rtol=1e-3)


def test_what_ended_does_not_count():
    apart = np.full((3, 50), 2.0)
    apart[0, 4:] = np.nan
    apart[1, 4:] = 5.0
    assert row("a", apart) == "| a | 2.00 | 1.0 | 1.8 | 1.8 | 1.8 | 1.8 |"


def test_a_table_of_the_simulator_and_of_every_run(tmp_path, capsys):
    runs = [RunFolder(tmp_path / name) for name in ("one", "same", "other")]
    for run, task in zip(runs, ("push-box", "push-box", "rover"), strict=True):
        run.create(NightConfig(task, size="debug"))
        reader = logs(task, 3, 0, run.episodes)
        debug = from_dict(ModelConfig, packaged("sizes", "debug"), "debug")
        Trainer(reader, debug, TrainerConfig(), seed=0).save(run.checkpoints)
    one, same, other = (run.path for run in runs)
    main(Kicks([one, same], moments=20))
    *_, truth, first, second = capsys.readouterr().out.splitlines()
    assert truth.startswith("| PyBullet | ") and "nan" not in truth
    assert first.startswith(f"| {one} | ") and first.removeprefix(f"| {one}") == second.removeprefix(f"| {same}")
    with pytest.raises(UserError, match="of rover, the first of --runs of push-box"):
        main(Kicks([one, other]))
    assert capsys.readouterr().out == ""  # told before anything is simulated
