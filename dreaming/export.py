"""A policy as one ONNX file, which onnxruntime runs on the robot: no torch, no Python, none of this package.

Its input is what the log folder holds of a robot, in its channels, order and units (of imported logs: what the mapping
made of them); its output is the command, likewise. So the file holds all that a command depends on: scales, bounds and
network, and its metadata say what each number is. The extra `export` installs what writes and checks it.
"""
# pyright: reportMissingImports=false

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import UserError
from dreaming.agent import Agent
from worldmodel.checkpoint import write_atomically
from worldmodel.distributions import ActionMixture
from worldmodel.fused import RMS_EPS
from worldmodel.nets import NormedLinear, products_size, within

OBSERVATION, COMMAND = "observation", "command"
TOLERANCE = 1e-4  # of a command's range, between this file in onnxruntime and the policy it was made of
# Old ones, so that an onnxruntime of years ago on the robot reads them.
OPSET, IR_VERSION = 18, 8


class Onboard(nn.Module):
    """What a blind agent does with one observation, written in plain operators.

    Args:
        low, high: bounds of the command (A,) in the log folder.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    pairs: Tensor

    def __init__(self, agent: Agent, low: Tensor, high: Tensor) -> None:
        super().__init__()
        model, actor = agent.model, agent.actor
        self.config, self.actions = actor.config, actor.actions
        self.layers = [layer for layer in actor.head.mlp if isinstance(layer, NormedLinear)]
        self.head = actor.head  # owns their weights
        for name, value in (("mean", model.mean), ("std", model.std), ("low", low), ("high", high)):
            self.register_buffer(name, value.detach().clone().float())
        # `products` remembers its indices between calls, and those of a trace must not get there.
        self.multiplied = products_size(len(self.mean)) > len(self.mean)
        self.register_buffer("pairs", torch.triu_indices(len(self.mean), len(self.mean)))

    def forward(self, observation: Tensor) -> Tensor:
        """(N, D) as the log folder has them to commands (N, A)."""
        x = within((observation - self.mean) / self.std)
        if self.multiplied:
            x = torch.cat([x, within(x.index_select(-1, self.pairs[0]) * x.index_select(-1, self.pairs[1]))], -1)
        for layer in self.layers:
            x = F.linear(x, layer.linear.weight, layer.linear.bias)
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPS) * layer.norm.scale
            x = x * torch.sigmoid(x)
        raw = F.linear(x, self.head.out.weight, self.head.out.bias)
        mixture = ActionMixture(raw, self.actions, self.config.min_std, self.config.max_std)
        return self.low + (within(mixture.mode(), 1.0) + 1) / 2 * (self.high - self.low)


@dataclass
class Exported:
    """Where it is, its size, and by how much its commands differ from the policy's, as a share of their range."""

    path: Path
    bytes: int
    difference: float


def export(agent: Agent, meta: Mapping[str, Any], path: Path, told: Mapping[str, Any], seed: int = 0) -> Exported:
    """Writes the file, once it has been seen to give the policy's own commands.

    Args:
        meta: of the policy's checkpoint.
        told: more that the file is to say of itself.

    Raises:
        UserError: the policy needs a memory, which the file has not; its checkpoint does not say what its commands are;
            a library is missing, or does something else.
    """
    _check(agent, meta)
    low, high = (torch.as_tensor(np.asarray(meta["action"][end], np.float32)) for end in ("low", "high"))
    onboard = Onboard(agent, low, high).eval()
    about = {
        "task": meta["task"],
        "control_hz": meta["control_hz"],
        "observation_names": meta["observation_names"],
        "action_names": meta["action"].get("names"),
        "action_low": low.tolist(),
        "action_high": high.tolist(),
        **told,
    }
    held = _written(onboard, about)
    difference = _difference(held, onboard, agent, seed)
    if not difference <= TOLERANCE:
        raise UserError(
            f"onnxruntime's commands differ from the policy's by {difference:.2g} of their range; nothing was written. "
            "This is a fault of these versions of torch, onnx or onnxruntime together: try others"
        )
    write_atomically(path, held)
    return Exported(path, len(held), difference)


def _check(agent: Agent, meta: Mapping[str, Any]) -> None:
    if agent.actor.view != "blind":
        raise UserError(
            "this policy sees an estimate of its physics, which takes the whole world model with its memory; only "
            "policies of --view blind, the default, can be exported"
        )
    action = meta.get("action")
    if not action:
        raise UserError(
            "this policy's checkpoint does not say what its commands are, as those of 0.1 do not; dream again"
        )
    if not all(low < high for low, high in zip(action["low"], action["high"], strict=True)):
        raise UserError(
            f"the logs bound a command by {action['low']} and {action['high']}: the first has to be below the second; "
            "import them again with other bounds, and learn and dream again"
        )
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; `pip install 'digital-dreaming[export]'` brings what is needed"
        ) from None


def _observations(onboard: Onboard, count: int, seed: int) -> Tensor:
    """About as the logs', and beyond."""
    rng = torch.Generator().manual_seed(seed)
    return onboard.mean + 3 * torch.randn(count, len(onboard.mean), generator=rng) * onboard.std


def _written(onboard: Onboard, about: Mapping[str, Any]) -> bytes:
    import onnx

    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():  # of torch's own libraries about each other
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            onboard, (_observations(onboard, 3, 0),), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=[OBSERVATION], output_names=[COMMAND], dynamic_shapes=[{0: batch}],
        )  # fmt: skip
    assert program is not None
    made = program.model_proto
    made.ir_version = IR_VERSION
    for node in made.graph.node:
        del node.metadata_props[:]  # which hold lines and paths of this program
    for key, value in about.items():
        made.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(made)
    return made.SerializeToString()


def _difference(held: bytes, onboard: Onboard, agent: Agent, seed: int, count: int = 512) -> float:
    """The largest between onnxruntime and the agent's own network."""
    import onnxruntime

    observation = _observations(onboard, count, seed)
    session = onnxruntime.InferenceSession(held, providers=["CPUExecutionProvider"])
    (found,) = session.run([COMMAND], {OBSERVATION: observation.numpy()})
    with torch.no_grad():
        nothing = observation.new_zeros(count, len(agent.model.context))
        mixture = agent.actor(agent.model.scale(observation), nothing)
        weights = mixture.log_weight.sort(-1, descending=True).values
        clear = (weights[:, :1] - weights[:, 1:2] > 1e-5).all(-1)  # of two as likely, rounding may choose the other
        commands = onboard.low + (mixture.mode().clamp(-1, 1) + 1) / 2 * (onboard.high - onboard.low)
    # A command far from 0 has no more digits than float32 gives it.
    digits = torch.finfo(torch.float32).eps * torch.maximum(onboard.low.abs(), onboard.high.abs())
    apart = ((torch.as_tensor(found) - commands).abs() - 2 * digits).clamp(min=0) / (onboard.high - onboard.low)
    return float(apart[clear].max())
