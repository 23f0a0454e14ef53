"""The official DreamerV3 (danijar/dreamerv3 at e3f0224), learning by acting."""
# pyright: reportMissingImports=false
# JAX and the official code live in an environment of their own: tests/reference/README.md

import argparse

import embodied.jax
import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
from online import ACTION, BATCH, HORIZON, LENGTH, LR, OBSERVATION, SIZE, UNITS, WARMUP, Arrays, serve_online
from peer_official import FLAGS, make_agent, reading


class Official:
    def __init__(self, options: argparse.Namespace) -> None:
        embodied.jax.nets.COMPUTE_DTYPE = getattr(jnp, options.dtype)
        changes = {
            r".*\.rssm": SIZE,
            r".*\.units": UNITS,
            "agent.imag_length": HORIZON,
            "agent.opt.lr": LR,
            "agent.opt.warmup": WARMUP,
        }
        self.agent = make_agent("1m", OBSERVATION, ACTION, changes)
        self.carry, self.belief, self.calls = self.agent.init_train(BATCH), self.agent.init_policy(1), 0
        self.initial = options.seed * 1_000_000
        shape = (BATCH, LENGTH)
        batch = {
            "vector": np.zeros((*shape, OBSERVATION), np.float32),
            "action": np.zeros((*shape, ACTION), np.float32),
            "reward": np.zeros(shape, np.float32),
            **{name: np.zeros(shape, bool) for name in FLAGS},
        }
        self.state = nj.init(self.agent.train)({}, self.carry, self.complete(batch), seed=self.seed())
        self.compiled_train = jax.jit(nj.pure(self.agent.train), donate_argnums=0)
        self.compiled_policy = reading(self.agent.policy)

    def seed(self) -> int:
        self.calls += 1
        return self.initial + self.calls

    def complete(self, batch: Arrays) -> dict:
        stepid = np.zeros((*batch["reward"].shape, 20), np.uint8)
        return {name: jnp.asarray(value) for name, value in (batch | {"stepid": stepid}).items()}

    def act(self, observation: np.ndarray, is_first: bool) -> np.ndarray:
        flags = {"is_first": is_first, "is_last": False, "is_terminal": False}
        now = {"vector": observation[None], "reward": np.zeros(1, np.float32)}
        now |= {name: np.array([value]) for name, value in flags.items()}
        self.belief, action, _ = self.compiled_policy(self.state, self.belief, now, seed=self.seed())
        return np.clip(np.asarray(action["action"])[0], -1, 1)

    def train(self, batch: Arrays) -> None:
        self.state, _ = self.compiled_train(self.state, self.carry, self.complete(batch), seed=self.seed())


if __name__ == "__main__":
    serve_online(Official)
