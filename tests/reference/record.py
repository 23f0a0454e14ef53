"""Records what the official DreamerV3 computes from given weights and inputs, into the .npz files beside this one.

Runs in an environment of its own (README.md); of this project it imports nothing. All numbers that go in come from
numpy's seeded generator, so that a second recording on the same machine gives the same files.
"""

import argparse
import shutil
from pathlib import Path

import dreamerv3.agent as official
import elements
import embodied.jax
import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
import optax
import ruamel.yaml

embodied.jax.nets.COMPUTE_DTYPE = jnp.float32  # bfloat16 by default

B, T, N, H = 2, 5, 6, 4  # segments by time, dreams by steps
VECTORS, ACTION = {"angles": 2, "speeds": 4}, 3
SETTINGS = {
    "agent.dyn.rssm": {"deter": 64, "hidden": 16, "stoch": 8, "classes": 4},
    "agent.enc.simple": {"depth": 2, "units": 16},
    "agent.dec.simple": {"depth": 2, "units": 16},
    "agent.(rewhead|conhead|policy|value)": {"units": 16},
    # Ours discounts where returns are summed, not in the continuation's target, and has no critic loss on replays.
    "agent": {"contdisc": False, "horizon": 50, "repval_loss": False},
    "agent.opt": {"lr": 1e-3, "warmup": 2},
}
# Two-hot logits fall by this from the middle outwards: steeply enough for means of unit scale, gently enough for
# gradients whose squares float32 can hold.
TAIL = 1.3 * np.abs(np.linspace(-20, 20, 255))
Arrays = dict[str, np.ndarray]


def settings() -> tuple[dict, dict, elements.Config]:
    """Spaces of observations and actions, and the official configuration made small."""
    text = (Path(official.__file__).parent / "configs.yaml").read_text()
    config = elements.Config(ruamel.yaml.YAML(typ="safe").load(text)["defaults"])
    for pattern, values in SETTINGS.items():
        config = config.update({rf"{pattern}\.{key}": value for key, value in values.items()})
    observations = {
        **{name: elements.Space(np.float32, (size,)) for name, size in VECTORS.items()},
        "image": elements.Space(np.uint8, (64, 64, 3)),
        "reward": elements.Space(np.float32),
        **{name: elements.Space(bool) for name in ("is_first", "is_last", "is_terminal")},
    }
    actions = {"action": elements.Space(np.float32, (ACTION,), -1, 1)}
    return observations, actions, elements.Config(**config.agent, replay_context=0)


def make_agent() -> official.Agent:
    """The official agent without what it trains in: no devices, no compilation, no environment."""
    agent = object.__new__(official.Agent)
    agent.__init__(*settings())
    # Our vector decoder states its noise and our optimiser has no policy in it; the rest of the loss is the same.
    agent.scales = {"dyn": 1.0, "rep": 0.1, "rew": 1.0, "con": 1.0, "image": 1.0}
    agent.scales |= dict.fromkeys([*VECTORS, "policy", "value"], 0.0)
    return agent


def make_batch(rng: np.random.Generator) -> Arrays:
    """Segments with a new episode in the middle; actions are those before each observation."""
    first = np.zeros((B, T), bool)
    first[:, 0] = first[1, 3] = True
    terminal = np.zeros((B, T), bool)
    terminal[1, 2] = terminal[0, 4] = True
    cells = rng.integers(0, 256, (B, T, 8, 8, 3), np.uint8)
    return {
        **{name: rng.normal(size=(B, T, size)).astype(np.float32) for name, size in VECTORS.items()},
        "image": cells.repeat(8, 2).repeat(8, 3),  # coarse, so that the file stays small
        "reward": rng.normal(size=(B, T)).astype(np.float32),
        "is_first": first,
        "is_last": terminal,
        "is_terminal": terminal,
        "action": rng.uniform(-1, 1, (B, T, ACTION)).astype(np.float32),
    }


def make_weights(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Nothing at 0 or 1, where mistakes hide; two-hot heads say about zero, as trained ones do."""
    weights = {}
    for name, shape in sorted(shapes.items()):
        values = rng.normal(size=shape)
        if name.endswith("/scale"):
            values = 1 + 0.3 * values
        elif name.endswith("/bias"):
            values *= 0.3
        else:
            values /= np.sqrt(np.prod(shape[:-1]))
        if name.endswith("head/logits/bias"):
            values -= TAIL
        weights[name] = values.astype(np.float32)
    return weights


def named(prefix: str, tree: dict) -> Arrays:
    return {f"{prefix}/{key}": np.asarray(value) for key, value in tree.items()}


def world_model_parts(agent: official.Agent, batch: dict, dream: jax.Array) -> dict:
    """Every part of the world model on the batch, and an open loop under the actions `dream` (B, T, A)."""
    first, still = batch["is_first"], dict(training=False)
    _, _, tokens = agent.enc({}, batch, first, **still)
    actions = {"action": batch["action"]}
    carry, _, losses, feat, _ = agent.dyn.loss(agent.dyn.initial(B), tokens, actions, first, **still)
    _, imagined, _ = agent.dyn.imagine(carry, {"action": dream}, T, **still)
    _, _, decoded = agent.dec({}, feat, first, **still)
    inputs = agent.feat2tensor(feat)
    reward, going_on = agent.rew(inputs, 2), agent.con(inputs, 2)
    return {
        "tokens": tokens,
        **{f"observe/{key}": value for key, value in feat.items()},
        **{f"imagine/{key}": value for key, value in imagined.items()},
        "prior": agent.dyn._prior(feat["deter"]),
        **losses,
        **{f"decoder/{name}": decoded[name].pred() for name in VECTORS},
        "decoder/image": decoded["image"].pred()[0, :2],
        "decoder/image_loss": decoded["image"].loss(jnp.float32(batch["image"]) / 255),
        "reward/logits": reward.logits,
        "reward/mean": reward.pred(),
        "reward/loss": reward.loss(batch["reward"]),
        "continuation/logit": going_on.logit,
        "continuation/loss": going_on.loss(jnp.float32(~batch["is_terminal"])),
    }


def record_world_model(rng: np.random.Generator, steps: int = 3) -> Arrays:
    """The parts, and some whole training steps on one batch."""
    agent, batch = make_agent(), make_batch(rng)
    dream = rng.uniform(-1, 1, (B, T, ACTION)).astype(np.float32)

    def step(batch: dict):
        carry = (agent.enc.initial(B), agent.dyn.initial(B), agent.dec.initial(B))
        actions = {"action": batch["action"]}
        metrics, (_, _, outs, _) = agent.opt(agent.loss, carry, batch, actions, training=True, has_aux=True)
        return metrics["opt/loss"], outs

    state, _ = nj.pure(step)({}, batch, seed=0, create=True)
    model = tuple(f"{part}/" for part in ("enc", "dyn", "dec", "rew", "con"))
    weights = make_weights(rng, {name: x.shape for name, x in state.items() if name.startswith(model)})
    # The optimiser's counts and averages were made by a step that must not have happened.
    state = {name: jnp.zeros_like(x) if name.startswith("opt/") else x for name, x in state.items()} | weights
    _, parts = nj.pure(world_model_parts)(state, agent, batch, dream, seed=1)
    recorded = named("weights", weights) | named("batch", batch) | {"dream": dream} | named("parts", parts)
    for index in range(steps):
        state, (loss, outs) = nj.pure(step)(state, batch, seed=10 + index)
        feat = {key: outs["repfeat"][key] for key in ("stoch", "logit")}
        recorded |= named(f"step{index}", {"loss": loss, **feat})
    return recorded | named("after", {name: state[name] for name in weights})


def record_checkpoint(rng: np.random.Generator, out: Path, steps: int = 3) -> Arrays:
    """A checkpoint as the official trainer saves it, after some steps from its own initial weights, and its parts."""
    observations, actions, config = settings()
    plain = {"platform": "cpu", "compute_dtype": "float32", "transfer_guard": False}
    quick = {"precompile": False, "profiler": False, "enable_policy": False}
    whole = elements.Config(
        **config.update(repval_loss=True), logdir=str(out), seed=0, batch_size=B, batch_length=T, jax=plain | quick
    )
    agent, batch = official.Agent(observations, actions, whole), make_batch(rng)
    extra = {"consec": np.zeros((B, T), np.int32), "stepid": np.zeros((B, T, 20), np.uint8)}
    carry = agent.init_train(B)
    for step in range(steps):
        seed = agent._seeds(step, agent.train_mirrored)
        carry, _, _ = agent.train(carry, jax.device_put(batch | extra, agent.train_sharded) | {"seed": seed})
    folder = out / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    saved = elements.Checkpoint()
    saved.agent = agent
    saved.save(folder)
    dream = rng.uniform(-1, 1, (B, T, ACTION)).astype(np.float32)
    state = {name: jnp.asarray(value) for name, value in agent.save()["params"].items()}
    _, parts = nj.pure(world_model_parts)(state, agent.model, batch, dream, seed=1)
    del parts["reward/mean"]  # of bins up to 5e8 that almost have equal shares, rounding is all that is left
    return named("batch", batch) | {"dream": dream} | named("parts", parts)


def record_actor_critic(rng: np.random.Generator, steps: int = 3) -> Arrays:
    """Actor and critic loss on made-up dreams, training steps on them, return normalisation, the slow critic."""
    agent = make_agent()
    feat_size = agent.dyn.deter + agent.dyn.stoch * agent.dyn.classes
    optimizer = embodied.jax.Optimizer([agent.pol, agent.val], agent._make_opt(**agent.config.opt), name="opt")

    def loss(dream: dict, training: bool):
        losses, outs, _ = official.imag_loss(
            {"action": dream["action"]},
            dream["reward"],
            dream["continuation"],
            agent.pol(dream["feat"], 2),
            agent.val(dream["feat"], 2),
            agent.slowval(dream["feat"], 2),
            *(agent.retnorm, agent.valnorm, agent.advnorm),
            update=training,
            contdisc=agent.config.contdisc,
            horizon=agent.config.horizon,
            **agent.config.imag_loss,
        )
        return losses["policy"].mean() + losses["value"].mean(), losses | outs

    def step(dream: dict):
        metrics, outs = optimizer(loss, dream, training=True, has_aux=True)
        agent.slowval.update()
        low, high = agent.retnorm.lo.read(), agent.retnorm.hi.read()
        return {"loss": metrics["opt/loss"], "low": low, "high": high, **outs}

    def parts(dream: dict):
        policy, value = agent.pol(dream["feat"], 2)["action"], agent.val(dream["feat"], 2)
        log_prob = policy.logp(dream["action"])
        shared = {"log_prob": log_prob, "entropy": policy.entropy(), "predicted": value.pred()}
        return shared | loss(dream, False)[1]

    continuation = rng.uniform(0.2, 1, (N, H + 1)).astype(np.float32)
    continuation[:, 0] = 1  # ours counts a dream's start in full, whatever the continuation head says of it
    dream = {
        "feat": np.tanh(rng.normal(size=(N, H + 1, feat_size))).astype(np.float32),
        "action": rng.normal(size=(N, H + 1, ACTION)).astype(np.float32),
        "reward": 2 * rng.normal(size=(N, H + 1)).astype(np.float32),
        "continuation": continuation,
    }
    state, _ = nj.pure(step)({}, dream, seed=0, create=True)
    nets = ("pol/", "val/", "slowval/")
    shapes = {name: x.shape for name, x in state.items() if name.startswith(nets) and x.dtype == jnp.float32}
    weights = make_weights(rng, shapes)
    state = {name: jnp.zeros_like(x) for name, x in state.items()} | weights
    state |= {"retnorm/lo/value": jnp.float32(-1.5), "retnorm/hi/value": jnp.float32(2.0)}
    recorded = named("weights", weights) | named("dream", dream) | {"low": -1.5, "high": 2.0}
    recorded |= named("parts", nj.pure(parts)(state, dream, seed=1)[1])
    for index in range(steps):
        state, outs = nj.pure(step)(state, dream, seed=10 + index)
        recorded |= named(f"step{index}", outs)
    return recorded | named("after", {name: state[name] for name in weights})


def record_functions(rng: np.random.Generator, steps: int = 6) -> Arrays:
    """What has no weights: categoricals and their KL, two-hot, the optimiser, percentile normalisation."""
    p, q = (3 * rng.normal(size=(7, 8, 4)).astype(np.float32) for _ in range(2))
    first, second = (embodied.jax.outs.Agg(embodied.jax.outs.OneHot(x, 0.01), 1, jnp.sum) for x in (p, q))
    half = embodied.jax.nets.symexp(jnp.linspace(-20, 0, 128, dtype=jnp.float32))
    bins = jnp.concatenate([half, -half[:-1][::-1]])
    targets = np.array([0, 0.01, -0.3, 1, -1, 3.7, 250, -1e4, 1e12, -1e12, bins[140]], np.float32)
    logits = rng.normal(size=(len(targets), 255)) - TAIL
    twohot = embodied.jax.outs.TwoHot(jnp.float32(logits), bins)
    recorded = {
        **{"p": p, "q": q, "kl": first.kl(second), "p_entropy": first.entropy()},
        **{"bins": bins, "targets": targets, "logits": np.float32(logits)},
        **{"twohot_loss": twohot.loss(targets), "twohot_mean": twohot.pred()},
    }

    # A usual weight, one that is almost zero, one that begins at zero; gradients from far too small to far too large.
    params = {"usual": rng.normal(size=(4, 3)), "tiny": 1e-5 * rng.normal(size=5), "zero": np.zeros(3)}
    params = {name: jnp.float32(value) for name, value in params.items()}
    optimizer = make_agent()._make_opt(lr=0.05, warmup=3)
    state = optimizer.init(params)
    recorded |= named("params", params)
    for index, size in enumerate((1.0, 0.01, 100.0, 0.0, 1e-6, 1.0)[:steps]):
        grads = {name: jnp.float32(size * rng.normal(size=value.shape)) for name, value in params.items()}
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        recorded |= named(f"grads{index}", grads) | named(f"params{index}", params)

    returns = 3 * rng.normal(size=(steps, 20, 5)).astype(np.float32)
    norm = embodied.jax.Normalize("perc", rate=0.01, limit=1.0, debias=False, name="norm")
    state, ranges = {"norm/lo/value": jnp.float32(-1.0), "norm/hi/value": jnp.float32(1.5)}, []
    for values in returns:
        state, (_, scale) = nj.pure(lambda x: norm(x, True))(state, values, seed=0)
        ranges.append([state["norm/lo/value"], state["norm/hi/value"], scale])
    return recorded | {"returns": returns, "ranges": np.array(ranges, np.float32)}


RECORDINGS = {"world_model": record_world_model, "actor_critic": record_actor_critic, "functions": record_functions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    recordings = {name: record(np.random.default_rng(seed)) for seed, (name, record) in enumerate(RECORDINGS.items())}
    recordings["checkpoint"] = record_checkpoint(np.random.default_rng(3), out)
    for name, arrays in recordings.items():
        path = out / f"{name}.npz"
        np.savez_compressed(path, **{key: np.asarray(value) for key, value in arrays.items()})
        print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
