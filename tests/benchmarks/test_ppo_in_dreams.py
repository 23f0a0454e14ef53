"""PPO from a run folder's logs and model to a policy, and the table of given results."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="the extra [agents] is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from agents import learner as learners  # noqa: E402
from ppo_in_dreams import PPOInDreams, learn, markdown  # noqa: E402
from survival import logs  # noqa: E402

from configs import from_dict, packaged  # noqa: E402
from dreaming.evaluate import CellResult  # noqa: E402
from dreaming.run import NightConfig, RunFolder  # noqa: E402
from worldmodel.model import ModelConfig  # noqa: E402
from worldmodel.trainer import Trainer, TrainerConfig  # noqa: E402


def test_ppo_learns_in_the_dreams_of_a_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learners, "ROLLOUT", 128)
    run = RunFolder(tmp_path / "run")
    run.create(NightConfig("push-box", size="debug"))
    reader = logs("push-box", 4, 0, run.episodes)
    Trainer(reader, from_dict(ModelConfig, packaged("sizes", "debug"), "debug"), TrainerConfig()).save(run.checkpoints)
    policy = learn(PPOInDreams(run.path, steps=256, dreams=8, horizon=8, scenario="nominal,slippery"))
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" steps dreamt")[0] for line in told] == ["  128 of 256", "  256 of 256"]
    policy.reset(3)
    actions = policy.act({"vector": reader.rows["vector"][:3]}, np.ones(3, bool))
    assert actions.shape == (3, 2) and np.abs(actions).max() <= 1


def test_the_table_has_a_row_a_world_and_a_column_a_policy():
    cells = [
        CellResult("ice", label, {}, [0, 1, 2, 3], failed, [False] * 4, [1.0, 2.0, 3.0, 4.0])
        for label, failed in (("a", [True] * 4), ("b", [True, False, False, False]))
    ]
    lines = markdown({"demonstrator": cells, "PPO": cells[::-1]}).splitlines()
    assert lines[0] == "| world | demonstrator | PPO |"
    assert lines[2] == "| ice a | 1.00 [0.51, 1.00], return 2.5 | 0.25 [0.05, 0.70], return 2.5 |"
