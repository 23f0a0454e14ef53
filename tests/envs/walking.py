"""What tests of the walking robots share: an episode as a log holds it, and PyBullet's own old environments."""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pybullet_data

from worldmodel.episode import Episode


def roll_out(env, seed, policy, steps=1000, **physics) -> Episode:
    observation, _ = env.reset(seed=seed, options={"physics": physics})
    observations, actions, applied, rewards, ended = [observation], [], [], [], False
    while not ended and len(actions) < steps:
        actions.append(policy(observations[-1]))
        observation, reward, ended, _, info = env.step(actions[-1])
        observations.append(observation)
        applied.append(info["applied_action"])
        rewards.append(reward)
    return Episode(
        observation={"vector": np.stack(observations)},
        action=np.stack(actions),
        applied_action=np.stack(applied),
        reward=np.array(rewards, np.float32),
        push=np.zeros(len(actions), np.float32),
        terminated=ended,
        truncated=not ended,
        physics=env.physics.to_dict(),
        info={"seed": seed},
    )


def old_walker(name):
    """pybullet_envs' own environment of that name, its imports of the gym of 2017 answered with the little it uses."""

    class Box:
        def __init__(self, low, high, dtype=None):
            self.low, self.high, self.shape = low, high, low.shape

    def module(name, **contents):
        made = types.ModuleType(name)
        made.__dict__.update(contents)
        return made

    seeding = module("gym.utils.seeding", np_random=lambda seed=None: (np.random.RandomState(seed), seed))
    spaces, utils = module("gym.spaces", Box=Box), module("gym.utils", seeding=seeding)
    gym = module("gym", Env=object, __version__="0.21.0", spaces=spaces, utils=utils)
    package = module("pybullet_envs")  # its __init__ registers environments with gym; only its folder is needed
    folder = Path(pybullet_data.getDataPath()).parent / "pybullet_envs"
    package.__path__ = [str(folder)]
    stand_ins = {"gym": gym, "gym.spaces": spaces, "gym.utils": utils, "gym.utils.seeding": seeding}
    stand_ins |= {"pybullet_envs": package, "pkg_resources": module("pkg_resources", parse_version=lambda text: text)}
    modules, path = dict(sys.modules), list(sys.path)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(folder))
    try:
        return getattr(importlib.import_module("pybullet_envs.gym_locomotion_envs"), name)()
    finally:
        sys.path[:] = path
        for added in set(sys.modules) - set(modules):
            del sys.modules[added]
        sys.modules.update(modules)
