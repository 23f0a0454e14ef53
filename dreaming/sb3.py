"""stable-baselines3, which the extra `agents` installs: any Gymnasium vector environment as its VecEnv (dreams, say),
and what it has learnt as a policy of ours."""
# pyright: reportMissingImports=false

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from configs import UserError
from dreaming.dream_env import info_of
from envs.workers import Arrays

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices
except ModuleNotFoundError as error:
    if not str(error.name).startswith("stable_baselines3"):
        raise
    raise UserError("stable-baselines3 is not installed; `pip install 'digital-dreaming[agents]'` brings it") from None


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment that begins anew in the same step, as stable-baselines3 takes it.

    Info of a step is passed on for environments whose episode is over: nothing else is looked at, and a list of
    dictionaries for thousands of dreams would take longer than to dream them.
    """

    def __init__(self, env: VectorEnv[np.ndarray, np.ndarray, np.ndarray]) -> None:
        if (mode := env.metadata.get("autoreset_mode")) != AutoresetMode.SAME_STEP:
            raise UserError(f"stable-baselines3 needs an environment with autoreset_mode SAME_STEP, not {mode}")
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        observation, infos = self.env.reset(seed=self._seeds[0])
        self.reset_infos = [info_of(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()  # they hold for one reset
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, infos = self.env.step(self.actions)
        over = terminated | truncated
        listed: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(over).tolist():
            listed[row] = {
                **info_of(infos["final_info"], row),
                "terminal_observation": infos["final_obs"][row],
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
            }
        return observation, reward.astype(np.float32), over, listed

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError(f"{attr_name} is not one environment's own: set it in `env`")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError(f"{method_name} is not one environment's own: call it on `env`")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class SB3Policy:
    """What an algorithm has learnt (`envs.record.Policy`): it does not explore, and sees as scaled as in training."""

    def __init__(self, algorithm: BaseAlgorithm) -> None:
        self.algorithm, self.name = algorithm, type(algorithm).__name__

    def reset(self, n: int) -> None:
        """It remembers nothing."""

    def act(self, observation: Arrays, is_first: np.ndarray) -> np.ndarray:
        vector, scaling = observation["vector"], self.algorithm.get_vec_normalize_env()
        if scaling is not None:
            vector = np.asarray(scaling.normalize_obs(vector))
        return self.algorithm.predict(vector, deterministic=True)[0]
