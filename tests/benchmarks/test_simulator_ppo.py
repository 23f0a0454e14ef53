"""Learning in the simulator: the worlds that are drawn, checkpoints, and a small run from logs to a table."""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="the extra [agents] is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from agents import learner as learners  # noqa: E402
from agents.learner import Training  # noqa: E402
from simulator_ppo import DrawnWorlds, SimulatorPPO, arms, one_seed  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from configs import UserError  # noqa: E402
from dreaming.evaluate import CellResult  # noqa: E402
from dreaming.scenario import load_scenarios  # noqa: E402
from envs import registry  # noqa: E402


@pytest.fixture(autouse=True)
def _small_rollouts(monkeypatch):
    monkeypatch.setattr(learners, "ROLLOUT", 128)
    monkeypatch.setattr(learners, "ENVS", {"ppo": 2, "sac": 1})


def test_half_of_the_worlds_are_the_logs_and_half_the_scenarios():
    def drawn(seed: int) -> tuple[list, list[int]]:
        env = DrawnWorlds("push-box", load_scenarios("slippery", "push-box"))
        worlds, seeds = [], []
        for i in range(40):
            _, info = env.reset(seed=seed if i == 0 else None)
            worlds.append(env.unwrapped.physics)
            seeds.append(info["seed"])
        env.close()
        return worlds, seeds

    worlds, seeds = drawn(3)
    assert (worlds, seeds) == drawn(3) and seeds != drawn(4)[1]
    assert len(set(seeds)) == 40 and min(seeds) >= 2_000_000 and max(seeds) < 3_000_000
    frictions = np.array([world.floor_friction for world in worlds])
    assert 10 <= (frictions < 0.15).sum() <= 30 and frictions.min() >= 0.02 and frictions.max() <= 0.8
    low, high = registry.log_ranges("push-box")["box_mass_kg"]
    masses = np.array([world.box_mass_kg for world in worlds])  # the logs' in the scenario's worlds too
    assert ((masses > low) & (masses < high)).all()


def pendulum(n: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * n)


def numbers(training: Training) -> list[torch.Tensor]:
    return [value for part in training.learner.get_parameters().values() for value in tensors(part)]


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for inner in values for tensor in tensors(inner)]


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path, algorithm):
    def training() -> Training:
        made = Training(algorithm, lambda: pendulum(learners.ENVS[algorithm]), 0, tmp_path, "trial")
        if algorithm == "sac":
            made.learner.learning_starts = 64
        return made

    def kill() -> None:
        if first.steps >= 128:
            raise KeyboardInterrupt

    first = training()
    with pytest.raises(KeyboardInterrupt):
        first.run(256, save_every_s=0, on_save=kill)
    again = training()
    assert again.steps == first.steps == 128 and 0 < again.cpu_s == first.cpu_s
    held, found = numbers(first), numbers(again)
    assert len(held) > 20 and all(torch.equal(a, b) for a, b in zip(held, found, strict=True))
    if algorithm == "ppo":
        mine, theirs = (t.learner.get_vec_normalize_env() for t in (first, again))
        for name in ("obs_rms", "ret_rms"):
            for part in ("mean", "var", "count"):
                np.testing.assert_array_equal(getattr(getattr(mine, name), part), getattr(getattr(theirs, name), part))
    else:
        assert again.learner.replay_buffer.pos == 128
        assert torch.equal(first.learner.log_ent_coef, again.learner.log_ent_coef) and first.learner.log_ent_coef != 0
        kept = [t.learner.replay_buffer.observations[:128] for t in (first, again)]
        np.testing.assert_array_equal(*kept)
        assert kept[0].any()
    again.run(256)
    assert again.steps == 256 and again.cpu_s > first.cpu_s
    assert again.learner._total_timesteps == 256  # what falls, falls over all steps and not over the rest
    done = training()
    done.run(256)
    assert all(torch.equal(a, b) for a, b in zip(numbers(again), numbers(done), strict=True))


def test_each_multiple_is_an_arm():
    assert arms(SimulatorPPO(multiples="1, 10")) == {"ppo-1x-edge-cases": 1, "ppo-10x-edge-cases": 10}
    assert list(arms(SimulatorPPO(algorithm="sac", multiples="0.5", scenario="my/ice.yaml"))) == ["sac-0.5x-ice"]
    for wrong in ("", "1,0", "many"):
        with pytest.raises(UserError, match="--multiples is"):
            arms(SimulatorPPO(multiples=wrong))


def test_from_logs_to_results(tmp_path, capsys):
    options = SimulatorPPO(out=tmp_path, episodes=2, multiples="0.5", table="nominal", trials=1)
    results = one_seed(options, 0)
    (name, cells), *_ = results.items()
    first, *rest = [CellResult.from_dict(cell) for cell in cells]
    assert (first.scenario, first.label, len(rest), first.seeds) == ("nominal", "nominal", 3, [5_000_000])
    told = capsys.readouterr().out
    (log,) = tmp_path.glob("push-box/seed-0/episodes/episodes.jsonl")
    steps = round(0.5 * sum(json.loads(line)["length"] for line in log.read_text().splitlines()))
    assert f"of {steps:,} steps" in told
    assert one_seed(options, 0) == results and not capsys.readouterr().out
    assert json.loads((tmp_path / "push-box" / "seed-0" / f"{name}.json").read_text()) == cells
