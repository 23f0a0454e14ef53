"""TorchRL's DreamerV3: its modules, wired as its `DreamerV3Loss` expects them, and its own optimiser and stepper."""
# pyright: reportMissingImports=false
# TorchRL lives in an environment of its own

import argparse

import torch
from protocol import ACTION, BATCH, HORIZON, LENGTH, OBSERVATION, SIZES, Size, serve
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Module
from tensordict.nn import TensorDictSequential as Sequential
from torch import Tensor, nn
from torchrl import modules, objectives
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import DreamerV3MLP
from torchrl.modules.distributions import IndependentNormal
from torchrl.objectives import symexp, symlog
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

LATENT, NEXT_LATENT = ["belief", "state"], [("next", "belief"), ("next", "state")]
DYNAMICS = ["state", "belief", "action"]


class Networks(nn.Module):
    """Everything with weights, by DreamerV3's sizes."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.flat, self.deter, cells = size.stoch * size.classes, size.deter, {"num_cells": size.units}
        feat = size.deter + self.flat
        shared = {"hidden_dim": size.hidden, "rnn_hidden_dim": size.deter, "unimix": 0.01}
        shared |= {"num_categoricals": size.stoch, "num_classes": size.classes}
        recurrence = {"recurrent_model": "block_gru", "num_blocks": size.blocks}
        self.prior = modules.RSSMPriorV3(action_shape=(ACTION,), action_dim=ACTION, **recurrence, **shared)
        self.posterior = modules.RSSMPosteriorV3(obs_embed_dim=size.units, use_rms_norm=True, **shared)
        self.encoder = DreamerV3MLP(OBSERVATION, None, depth=3, **cells)
        self.decoder = DreamerV3MLP(feat, OBSERVATION, depth=3, **cells)
        self.reward = DreamerV3MLP(feat, 255, depth=1, outscale=0.0, **cells)
        self.continuation = DreamerV3MLP(feat, 1, depth=1, **cells)
        self.actor = DreamerV3MLP(feat, 2 * ACTION, depth=3, outscale=0.01, **cells)
        self.critic = DreamerV3MLP(feat, 255, depth=3, outscale=0.0, **cells)
        self.bins = modules.SymExpTwoHot(255)


def bounded(raw: Tensor) -> tuple[Tensor, Tensor]:
    """DreamerV3's bounded normal: mean through tanh, spread in [0.1, 1]."""
    mean, spread = raw.chunk(2, -1)
    return torch.tanh(mean), 0.1 + 0.9 * torch.sigmoid(spread + 2)


def encoder(nets: Networks, observation: str | tuple, token: str | tuple) -> Sequential:
    return Sequential(Module(symlog, [observation], ["symlog"]), Module(nets.encoder, ["symlog"], [token]))


def world_model(nets: Networks) -> Sequential:
    prior_out = [("next", "prior_logits"), ("next", "state"), ("next", "belief")]
    posterior_in = [("next", "belief"), ("next", "encoded_latents")]
    return Sequential(
        encoder(nets, ("next", "observation"), ("next", "encoded_latents")),
        modules.RSSMRolloutV3(
            Module(nets.prior, DYNAMICS, prior_out),
            Module(nets.posterior, posterior_in, [("next", "posterior_logits"), ("next", "state")]),
        ),
        Module(nets.decoder, NEXT_LATENT, ["decoded"]),
        Module(symexp, ["decoded"], [("next", "reco_pixels")]),
        Module(nets.reward, NEXT_LATENT, [("next", "reward_logits")]),
        Module(nets.bins, [("next", "reward_logits")], [("next", "reward")]),
        Module(nets.continuation, NEXT_LATENT, [("next", "continue_pred")]),
    )


def dream_environment(nets: Networks) -> DreamerEnv:
    device = next(nets.parameters()).device
    transition = Module(nets.prior, DYNAMICS, ["_", "state", "belief"])
    reward = Sequential(Module(nets.reward, LATENT, ["logits"]), Module(nets.bins, ["logits"], ["reward"]))
    shapes = {"prior_shape": (nets.flat,), "belief_shape": (nets.deter,)}
    dream = DreamerEnv(modules.WorldModelWrapper(transition, reward), device=device, **shapes)
    dream.observation_spec = Composite(state=Unbounded(nets.flat), belief=Unbounded(nets.deter)).to(device)
    dream.state_spec = dream.observation_spec.clone()
    dream.action_spec, dream.reward_spec = Bounded(-1, 1, (ACTION,)).to(device), Unbounded((1,)).to(device)
    return dream


def actor(nets: Networks) -> ProbabilisticTensorDictSequential:
    drawn = {"distribution_class": IndependentNormal, "default_interaction_type": InteractionType.RANDOM}
    draw = ProbabilisticTensorDictModule(["loc", "scale"], ["action"], return_log_prob=True, **drawn)
    choice = Module(nets.actor, LATENT, ["raw"]), Module(bounded, ["raw"], ["loc", "scale"])
    return ProbabilisticTensorDictSequential(*choice, draw)


def whole_loss(nets: Networks) -> objectives.DreamerV3Loss:
    """World model, actor, critic on dreams and on the replay, with the official weights."""
    scales = {"lambda_continue": 1.0, "kl_mode": "separate", "unimix": 0.01, "continue_target_scale": 1 - 1 / 333}
    model = objectives.DreamerV3ModelLoss(world_model(nets), detach_output=False, **scales)
    model.set_keys(pixels="observation")
    logits = ["state_value_logits"]
    value = Sequential(Module(nets.critic, LATENT, logits), Module(nets.bins, logits, ["state_value"]))
    logit, alive = ["continue_logit"], ["continuation"]
    going_on = Sequential(Module(nets.continuation, LATENT, logit), Module(nn.Sigmoid(), logit, alive))
    behaviour = {"continuation_model": going_on, "imagination_horizon": HORIZON, "use_reinforce": True}
    policy = objectives.DreamerV3ActorLoss(actor(nets), value, dream_environment(nets), **behaviour)
    policy.make_value_estimator(objectives.ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)
    slow = {"actor_loss": policy, "slow_critic_regularization": 1.0}
    critic = objectives.DreamerV3ValueLoss(value, value_loss="two_hot", **slow)
    return objectives.DreamerV3Loss(model, policy, critic)


def make_batch(nets: Networks) -> TensorDict:
    shape = (BATCH, LENGTH)
    no = torch.zeros(*shape, 1, dtype=torch.bool)
    first = no.clone()
    first[:, 0] = True
    seen = {"observation": torch.randn(*shape, OBSERVATION), "reward": torch.randn(*shape, 1)}
    latent = {"state": torch.zeros(*shape, nets.flat), "belief": torch.zeros(*shape, nets.deter)}
    action = torch.rand(*shape, ACTION) * 2 - 1
    after = seen | {"done": no, "terminated": no.clone()}
    return TensorDict({**latent, "action": action, "is_init": first, "next": after}, shape)


class TorchRL:
    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("medium" if options.dtype == "float32-tuned" else "highest")
        torch.manual_seed(0)
        self.nets = nets = Networks(SIZES[options.size]).to(options.device)
        loss = whole_loss(nets)
        self.model_loss = loss.model_loss
        self.optimizer = DreamerV3Optimizer(nets.parameters(), warmup_steps=0)  # else the first step moves nothing
        slow_critic = objectives.SoftUpdate(loss.value_loss, tau=0.02)
        self.stepper = DreamerV3OptimizationStepper(loss, self.optimizer, slow_critic)
        estimator = modules.RSSMStateEstimatorV3(nets.prior, nets.posterior)
        self.player = Sequential(encoder(nets, "observation", "encoded_latents"), estimator, actor(nets))
        with torch.device(options.device):  # a TensorDict that is moved would check where each entry lies
            self.batch = make_batch(nets)
        self.starts = self.batch.select("state", "belief").flatten()
        row = self.batch[0, :1]
        now = {"observation": row["next", "observation"], "previous_action": row["action"]}
        self.now = row.select("state", "belief").update(now | {"is_init": torch.zeros_like(row["is_init"])})

    def step(self) -> float:
        losses = self.stepper.step(None, self.batch)
        return sum(float(value) for name, value in losses.items() if name.startswith("loss_"))

    def world_model(self) -> float:
        losses, after = self.model_loss(self.batch)
        loss = torch.cat(list(losses.values())).sum()
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.starts = after["next"].select("state", "belief").detach().flatten()
        return float(loss.detach())

    @torch.no_grad()
    def imagine(self) -> float:
        """The networks themselves: the rollout of its environment adds rewards, and a tensordict a step."""
        state, belief = self.starts["state"], self.starts["belief"]
        latents = [torch.cat([belief, state], -1)]
        for _ in range(HORIZON):
            action = torch.normal(*bounded(self.nets.actor(belief, state)))
            _, state, belief = self.nets.prior(state, belief, action)
            latents.append(torch.cat([belief, state], -1))
        return float(torch.stack(latents, 1).mean())

    @torch.no_grad()
    def policy(self) -> float:
        self.now["previous_action"] = self.player(self.now)["action"]
        return float(self.now["action"].mean())

    def weights(self) -> dict[str, tuple[int, float]]:
        return {
            name: (
                sum(p.numel() for p in part.parameters()),
                sum(float(p.detach().double().sum()) for p in part.parameters()),
            )
            for name, part in self.nets.named_children()
            if name != "bins"
        }


if __name__ == "__main__":
    serve(TorchRL)
