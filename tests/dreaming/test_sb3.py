import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

pytest.importorskip("stable_baselines3", reason="the extra [agents] is not installed")

from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize  # noqa: E402

from configs import UserError  # noqa: E402
from dreaming.sb3 import SB3Policy, SB3VecEnv  # noqa: E402


def makers(name: str, **settings) -> list:
    return [lambda: gymnasium.make(name, **settings)] * 3


@pytest.mark.parametrize(("name", "cut_off_after"), [("Pendulum-v1", 7), ("CartPole-v1", 12)])
def test_agrees_with_their_own_vector_of_the_same_environments(name, cut_off_after):
    made = makers(name, max_episode_steps=cut_off_after)
    ours, theirs = SB3VecEnv(SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)), DummyVecEnv(made)
    ours.seed(5), theirs.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    ours.action_space.seed(0)
    ends = cuts = 0
    for _ in range(60):
        actions = np.stack([ours.action_space.sample() for _ in range(3)])
        (seen, paid, over, infos), expected = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(seen, expected[0])
        np.testing.assert_array_equal(paid, expected[1])
        np.testing.assert_array_equal(over, expected[2])
        for row in np.flatnonzero(over):
            cut = infos[row]["TimeLimit.truncated"]
            assert cut == expected[3][row]["TimeLimit.truncated"]
            np.testing.assert_array_equal(infos[row]["terminal_observation"], expected[3][row]["terminal_observation"])
            ends, cuts = ends + (not cut), cuts + cut
    assert cuts and (ends or name[0] == "P")


def test_what_a_finished_episode_was_is_passed_on():
    envs = SyncVectorEnv(makers("CartPole-v1", max_episode_steps=2), autoreset_mode=AutoresetMode.SAME_STEP)
    env = VecMonitor(SB3VecEnv(gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)))
    env.reset()
    for _ in range(2):
        *_, infos = env.step(np.zeros(3, np.int64))
    assert [info["episode"]["l"] for info in infos] == [2, 2, 2]


def test_an_environment_that_begins_anew_a_step_later_is_refused():
    with pytest.raises(UserError, match="autoreset_mode SAME_STEP, not AutoresetMode.NEXT_STEP"):
        SB3VecEnv(SyncVectorEnv(makers("Pendulum-v1")))


def test_a_policy_sees_what_it_learnt_to_see_and_does_not_explore():
    scaled = VecNormalize(DummyVecEnv(makers("Pendulum-v1")))
    algorithm = PPO("MlpPolicy", scaled, n_steps=32, batch_size=48, n_epochs=1, seed=0, device="cpu").learn(96)
    policy, vector = SB3Policy(algorithm), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    policy.reset(5)
    acted = policy.act({"vector": vector}, np.ones(5, bool))
    moments = scaled.obs_rms
    within = np.clip((vector - moments.mean) / np.sqrt(moments.var + 1e-8), -10, 10)
    np.testing.assert_allclose(acted, algorithm.predict(within.astype(np.float32), deterministic=True)[0], atol=1e-6)
    np.testing.assert_array_equal(acted, policy.act({"vector": vector}, np.zeros(5, bool)))
    assert not np.allclose(acted, algorithm.predict(vector, deterministic=True)[0])
    assert acted.shape == (5, 1) and policy.name == "PPO"


@pytest.mark.parametrize("benchmark", ["ppo_in_dreams", "simulator_ppo"])
def test_without_it_one_line_says_what_to_install(root, benchmark):
    path = root / "benchmarks" / f"{benchmark}.py"
    code = f"""
import runpy, sys
sys.path.insert(0, {str(path.parent)!r})
sys.modules["stable_baselines3"] = None  # importing it raises ModuleNotFoundError
sys.argv = [{str(path)!r}]
runpy.run_path({str(path)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    told = "error: stable-baselines3 is not installed; `pip install 'digital-dreaming[agents]'` brings it\n"
    assert (done.returncode, done.stderr) == (2, told)
