"""The official DreamerV3 (danijar/dreamerv3 at e3f0224): its agent and its `train`, compiled whole, nothing around it.

Its own outer agent adds devices, threads and checks; its policy takes 1 ms longer for them.
"""
# pyright: reportMissingImports=false
# JAX and the official code live in an environment of their own: tests/reference/README.md

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import dreamerv3.agent as official
import elements
import embodied.jax
import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
import ruamel.yaml
from protocol import ACTION, BATCH, HORIZON, LENGTH, OBSERVATION, serve

FLAGS = ("is_first", "is_last", "is_terminal")
PARTS = ("enc", "dyn", "dec", "rew", "con", "pol", "val")


def make_agent(size: str, observation: int, action: int, changes: dict) -> official.Agent:
    """The agent without what it trains in, with changes to its settings; as in tests/reference/record.py."""
    settings = ruamel.yaml.YAML(typ="safe").load((Path(str(official.__file__)).parent / "configs.yaml").read_text())
    config = elements.Config(settings["defaults"]).update(settings[f"size{size}"]).update(changes)
    observations = {
        "vector": elements.Space(np.float32, (observation,)),
        "reward": elements.Space(np.float32),
        **{name: elements.Space(bool) for name in FLAGS},
    }
    agent = object.__new__(official.Agent)
    actions = {"action": elements.Space(np.float32, (action,), -1, 1)}
    # Segments begin afresh, as everywhere here.
    agent.__init__(observations, actions, elements.Config(**config.agent, replay_context=0))
    return agent


def reading(function: Callable) -> Callable:
    """Compiled, of the form f(state, *inputs, seed); the state is read, and not handed back as `nj.pure` does."""
    return jax.jit(lambda state, *inputs, seed: nj.pure(function)(state, *inputs, seed=seed)[1])


class Official:
    def __init__(self, options: argparse.Namespace) -> None:
        embodied.jax.nets.COMPUTE_DTYPE = getattr(jnp, options.dtype)
        self.calls, rng = 0, np.random.default_rng(0)
        # Warm-up would keep the first step from moving anything.
        self.agent = make_agent(options.size, OBSERVATION, ACTION, {"agent.opt.warmup": 0})
        shape = (BATCH, LENGTH)
        batch = {
            "vector": rng.normal(size=(*shape, OBSERVATION)).astype(np.float32),
            "reward": rng.normal(size=shape).astype(np.float32),
            "action": rng.uniform(-1, 1, (*shape, ACTION)).astype(np.float32),
            **{name: np.zeros(shape, bool) for name in FLAGS},
        }
        batch["is_first"][:, 0] = True
        self.now = {name: jnp.asarray(x[:1, -1]) for name, x in batch.items() if name != "action"}
        self.batch = jax.tree.map(jnp.asarray, batch | {"stepid": np.zeros((*shape, 20), np.uint8)})
        self.carry, self.belief = self.agent.init_train(BATCH), self.agent.init_policy(1)
        self.starts = self.agent.dyn.initial(BATCH * LENGTH)
        self.state = nj.init(self.agent.train)({}, self.carry, self.batch, seed=0)
        self.compiled_step = jax.jit(nj.pure(self.agent.train), donate_argnums=0)
        self.compiled_world_model = reading(self.world_model_gradient)
        self.compiled_imagine, self.compiled_policy = reading(self.dream), reading(self.agent.policy)

    def seed(self) -> int:
        self.calls += 1
        return self.calls

    def step(self) -> float:
        self.state, out = self.compiled_step(self.state, self.carry, self.batch, seed=self.seed())
        jax.block_until_ready(self.state)
        self.acting = {name: x for name, x in self.state.items() if re.match(self.agent.policy_keys, name)}
        return float(out[2]["opt/loss"])

    def world_model_gradient(self, batch: dict) -> tuple:
        """Loss, gradient and posterior states: the first third of its `loss`."""
        agent, first = self.agent, batch["is_first"]

        def loss_of(batch: dict) -> tuple:
            previous = {"action": jnp.pad(batch["action"][:, :-1], [(0, 0), (1, 0), (0, 0)])}
            tokens = agent.enc({}, batch, first, True)[2]
            _, entries, losses, feat, _ = agent.dyn.loss(agent.dyn.initial(BATCH), tokens, previous, first, True)
            inputs = agent.feat2tensor(feat)
            decoded = agent.dec({}, feat, first, True)[2]
            losses["vector"] = decoded["vector"].loss(batch["vector"])
            losses["rew"] = agent.rew(inputs, 2).loss(batch["reward"])
            losses["con"] = agent.con(inputs, 2).loss(jnp.float32(~batch["is_terminal"]) * (1 - 1 / 333))
            return sum(value.mean() * agent.scales[name] for name, value in losses.items()), entries

        modules = [agent.dyn, agent.enc, agent.dec, agent.rew, agent.con]
        loss, _, grads, entries = nj.grad(loss_of, modules, has_aux=True)(batch)
        return loss, grads, jax.tree.map(lambda x: x.reshape(BATCH * LENGTH, *x.shape[2:]), entries)

    def world_model(self) -> float:
        out = self.compiled_world_model(self.state, self.batch, seed=self.seed())
        loss, _, self.starts = jax.block_until_ready(out)
        return float(loss)

    def dream(self, starts: dict) -> dict:
        agent = self.agent

        def act(feat: dict) -> dict:
            return official.sample(agent.pol(agent.feat2tensor(feat), 1))

        return agent.dyn.imagine(starts, act, HORIZON, training=False)[1]

    def imagine(self) -> float:
        feat = jax.block_until_ready(self.compiled_imagine(self.acting, self.starts, seed=self.seed()))
        return float(feat["deter"].astype(jnp.float32).mean())

    def policy(self) -> float:
        out = self.compiled_policy(self.acting, self.belief, self.now, seed=self.seed())
        self.belief, action, _ = jax.block_until_ready(out)
        return float(np.asarray(action["action"]).mean())

    def weights(self) -> dict[str, tuple[int, float]]:
        found = {part: [x for name, x in self.state.items() if name.startswith(f"{part}/")] for part in PARTS}
        return {
            part: (sum(x.size for x in arrays), sum(float(np.asarray(x, np.float64).sum()) for x in arrays))
            for part, arrays in found.items()
        }


if __name__ == "__main__":
    serve(Official)
