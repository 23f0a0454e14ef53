"""stable-baselines3's PPO and SAC as their own benchmark suite sets them for PyBullet's robots, kept in checkpoints.

Settings: rl-baselines3-zoo, hyperparams/ppo.yml and sac.yml, HopperBulletEnv-v0 (tuned there for 1 to 2 million steps).
PPO's batch of 8,192 steps is theirs too, however many environments make it up.
"""
# pyright: reportMissingImports=false

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from worldmodel import checkpoint

Algorithm = Literal["ppo", "sac"]
ENVS = {"ppo": 16, "sac": 1}  # at once
ROLLOUT = 8192  # PPO's steps between updates
BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")  # SAC's
FALLING = {"ppo": 0.4, "sac": 7.3e-4}  # linearly to nothing over the steps: PPO's clip range, SAC's learning rate


def build(algorithm: Algorithm, env: VecEnv, seed: int) -> PPO | SAC:
    """Untrained; PPO with observations and rewards scaled."""

    def falling(left: float) -> float:
        return FALLING[algorithm] * left

    if algorithm == "sac":
        return SAC(
            "MlpPolicy", VecMonitor(env), seed=seed, device="cpu", learning_rate=falling, buffer_size=300_000,
            batch_size=256, ent_coef="auto", gamma=0.98, tau=0.02, train_freq=8, gradient_steps=8,
            learning_starts=10_000, use_sde=True, policy_kwargs={"log_std_init": -3, "net_arch": [400, 300]},
        )  # fmt: skip
    return PPO(
        "MlpPolicy", VecNormalize(VecMonitor(env), gamma=0.99), seed=seed, device="cpu", learning_rate=3e-5,
        n_steps=ROLLOUT // env.num_envs, batch_size=128, n_epochs=20, gamma=0.99, gae_lambda=0.9, clip_range=falling,
        ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, use_sde=True, sde_sample_freq=4,
        policy_kwargs={
            "log_std_init": -2, "ortho_init": False, "activation_fn": torch.nn.ReLU,
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        },
    )  # fmt: skip


def recent_return(learner: PPO | SAC) -> float:
    """Mean return of the last hundred training episodes."""
    return float(np.mean([episode["r"] for episode in learner.ep_info_buffer or []] or [np.nan]))


class Tick(BaseCallback):
    """Calls `tick` between rollouts, when all that was lived has been learnt from."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self.tick = tick

    def _on_rollout_start(self) -> None:
        self.tick()

    def _on_step(self) -> bool:
        return True


class Training:
    """Learns in `make_env(algorithm's seed)` up to so many steps; goes on from the newest checkpoint of that name.

    Going on begins new episodes under a new seed, as a simulator's state is not kept.
    """

    def __init__(
        self, algorithm: Algorithm, make_env: Callable[[], VecEnv], seed: int, folder: Path, name: str
    ) -> None:
        self.folder, self.name = folder, name
        state: dict[str, Any] | None = None
        self.cpu_s = 0.0  # processor time of learning, the environments' included
        done = 0
        if checkpoint.exists(folder, name):
            state, meta, done = checkpoint.load(folder, name)
            self.cpu_s = float(meta["cpu_s"])
        fresh = int(np.random.SeedSequence([seed, done]).generate_state(1)[0] // 2)
        self.learner = build(algorithm, make_env(), fresh)
        if state is not None:
            _restore(self.learner, state)
            self.learner.num_timesteps = done

    @property
    def steps(self) -> int:
        return self.learner.num_timesteps

    def run(self, steps: int, save_every_s: float = 60.0, on_save: Callable[[], None] = lambda: None) -> None:
        """Up to `steps` in all, and the rest of a rollout."""
        saved = time.monotonic()
        counted = time.process_time()

        def save() -> None:
            nonlocal saved, counted
            now = time.process_time()
            self.cpu_s, counted = self.cpu_s + now - counted, now
            meta = {"steps": self.steps, "of": steps, "cpu_s": self.cpu_s}
            checkpoint.save(self.folder, self.name, self.steps, _state(self.learner), meta)
            on_save()
            saved = time.monotonic()

        def tick() -> None:
            if time.monotonic() - saved > save_every_s:
                save()

        if self.steps < steps:
            self.learner.learn(steps - self.steps, Tick(tick), reset_num_timesteps=False)
            save()


def _state(learner: PPO | SAC) -> dict[str, Any]:
    """Tensors and plain values: stable-baselines3's own files hold pickles."""
    state: dict[str, Any] = {"parameters": learner.get_parameters(), "updates": learner._n_updates}
    if (scaling := learner.get_vec_normalize_env()) is not None:
        for name in ("obs_rms", "ret_rms"):
            moments = getattr(scaling, name)
            state[name] = [torch.as_tensor(moments.mean), torch.as_tensor(moments.var), float(moments.count)]
    if isinstance(learner, SAC):
        assert learner.log_ent_coef is not None and learner.replay_buffer is not None
        state["log_ent_coef"] = learner.log_ent_coef.detach().clone()
        buffer = learner.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        state["buffer"] = {name: torch.from_numpy(getattr(buffer, name)[:filled].copy()) for name in BUFFER}
        state["buffer_at"] = buffer.pos
    return state


def _restore(learner: PPO | SAC, state: dict[str, Any]) -> None:
    learner.set_parameters(state["parameters"], device="cpu")
    learner._n_updates = int(state["updates"])
    if (scaling := learner.get_vec_normalize_env()) is not None:
        for name in ("obs_rms", "ret_rms"):
            moments = getattr(scaling, name)
            mean, var, moments.count = state[name]
            moments.mean, moments.var = mean.numpy(), var.numpy()
    if isinstance(learner, SAC):
        assert learner.log_ent_coef is not None and learner.replay_buffer is not None
        learner.log_ent_coef.data.copy_(state["log_ent_coef"])
        buffer = learner.replay_buffer
        for name, values in state["buffer"].items():
            getattr(buffer, name)[: len(values)] = values.numpy()
        buffer.pos = int(state["buffer_at"])
        buffer.full = len(state["buffer"]["rewards"]) == buffer.buffer_size
