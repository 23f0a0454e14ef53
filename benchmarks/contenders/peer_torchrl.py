"""TorchRL's DreamerV3: its modules, wired as `DreamerV3Loss` expects them, and its own optimiser and stepper."""
# pyright: reportMissingImports=false
# TorchRL lives in an environment of its own

import argparse

import torch
from protocol import ACTION, BATCH, HORIZON, LENGTH, OBSERVATION, SIZES, serve
from tensordict import TensorDict
from tensordict.nn import InteractionType, ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Module
from tensordict.nn import TensorDictSequential as Sequential
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import DreamerEnv
from torchrl.modules import (
    DreamerV3MLP,
    RSSMPosteriorV3,
    RSSMPriorV3,
    RSSMRolloutV3,
    RSSMStateEstimatorV3,
    SymExpTwoHot,
    WorldModelWrapper,
)
from torchrl.modules.distributions import IndependentNormal
from torchrl.objectives import (
    DreamerV3ActorLoss,
    DreamerV3Loss,
    DreamerV3ModelLoss,
    DreamerV3ValueLoss,
    SoftUpdate,
    ValueEstimators,
    symexp,
    symlog,
)
from torchrl.trainers.algorithms import DreamerV3OptimizationStepper, DreamerV3Optimizer

LATENT, NEXT_LATENT = ["belief", "state"], [("next", "belief"), ("next", "state")]


class Policy(nn.Module):
    """Bounded normal: mean through tanh, spread in [0.1, 1]; TorchRL's actors have other shapes."""

    def __init__(self, feat: int, units: int) -> None:
        super().__init__()
        self.net = DreamerV3MLP(feat, 2 * ACTION, depth=3, num_cells=units, outscale=0.01)

    def forward(self, belief: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.net(belief, state).chunk(2, -1)
        return torch.tanh(mean), 0.1 + 0.9 * torch.sigmoid(spread + 2)


class TorchRL:
    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        size = SIZES[options.size]
        flat, units = size.stoch * size.classes, size.units
        feat = size.deter + flat
        shared = {"hidden_dim": size.hidden, "rnn_hidden_dim": size.deter, "unimix": 0.01}
        shared |= {"num_categoricals": size.stoch, "num_classes": size.classes}
        self.prior = RSSMPriorV3(
            action_shape=(ACTION,), action_dim=ACTION, recurrent_model="block_gru", num_blocks=size.blocks, **shared
        )
        self.posterior = RSSMPosteriorV3(obs_embed_dim=units, use_rms_norm=True, **shared)
        self.encoder = DreamerV3MLP(OBSERVATION, None, depth=3, num_cells=units)
        decoder = DreamerV3MLP(feat, OBSERVATION, depth=3, num_cells=units)
        reward = DreamerV3MLP(feat, 255, depth=1, num_cells=units, outscale=0.0)
        continuation = DreamerV3MLP(feat, 1, depth=1, num_cells=units)
        critic = DreamerV3MLP(feat, 255, depth=3, num_cells=units, outscale=0.0)
        self.policy_net = Policy(feat, units)
        self.parts = {
            "world model": nn.ModuleList([self.encoder, self.prior, self.posterior, decoder, reward, continuation]),
            "actor": self.policy_net,
            "critic": critic,
        }

        bins = SymExpTwoHot(255)
        prior_out = [("next", "prior_logits"), ("next", "state"), ("next", "belief")]
        posterior_in = [("next", "belief"), ("next", "encoded_latents")]
        model = Sequential(
            Module(lambda x: self.encoder(symlog(x)), [("next", "observation")], [("next", "encoded_latents")]),
            RSSMRolloutV3(
                Module(self.prior, ["state", "belief", "action"], prior_out),
                Module(self.posterior, posterior_in, [("next", "posterior_logits"), ("next", "state")]),
            ),
            Module(lambda *x: symexp(decoder(*x)), NEXT_LATENT, [("next", "reco_pixels")]),
            Module(reward, NEXT_LATENT, [("next", "reward_logits")]),
            Module(bins, [("next", "reward_logits")], [("next", "reward")]),
            Module(continuation, NEXT_LATENT, [("next", "continue_pred")]),
        )
        dream = DreamerEnv(
            WorldModelWrapper(
                Module(self.prior, ["state", "belief", "action"], ["_", "state", "belief"]),
                Sequential(Module(reward, LATENT, ["reward_logits"]), Module(bins, ["reward_logits"], ["reward"])),
            ),
            prior_shape=(flat,),
            belief_shape=(size.deter,),
        )
        dream.observation_spec = Composite(state=Unbounded(flat), belief=Unbounded(size.deter))
        dream.state_spec = dream.observation_spec.clone()
        dream.action_spec, dream.reward_spec = Bounded(-1, 1, (ACTION,)), Unbounded((1,))
        actor = ProbabilisticTensorDictSequential(
            Module(self.policy_net, LATENT, ["loc", "scale"]),
            ProbabilisticTensorDictModule(
                ["loc", "scale"],
                ["action"],
                distribution_class=IndependentNormal,
                default_interaction_type=InteractionType.RANDOM,
                return_log_prob=True,
            ),
        )
        value = Sequential(
            Module(critic, LATENT, ["state_value_logits"]), Module(bins, ["state_value_logits"], ["state_value"])
        )
        alive = Module(lambda *x: torch.sigmoid(continuation(*x)), LATENT, ["continuation"])

        scales = {"lambda_continue": 1.0, "kl_mode": "separate", "unimix": 0.01, "continue_target_scale": 1 - 1 / 333}
        self.model_loss = DreamerV3ModelLoss(model, detach_output=False, **scales)
        self.model_loss.set_keys(pixels="observation")
        actor_loss = DreamerV3ActorLoss(
            actor, value, dream, continuation_model=alive, imagination_horizon=HORIZON, use_reinforce=True
        )
        actor_loss.make_value_estimator(ValueEstimators.TDLambda, gamma=1.0, lmbda=0.95)
        value_loss = DreamerV3ValueLoss(
            value, value_loss="two_hot", actor_loss=actor_loss, slow_critic_regularization=1.0
        )
        loss = DreamerV3Loss(self.model_loss, actor_loss, value_loss)
        trained = list({id(p): p for p in loss.parameters() if p.requires_grad}.values())
        self.optimizer = DreamerV3Optimizer(trained, warmup_steps=0)  # with warm-up the first step moves nothing
        self.stepper = DreamerV3OptimizationStepper(loss, self.optimizer, SoftUpdate(value_loss, tau=0.02))
        self.player = Sequential(
            Module(lambda x: self.encoder(symlog(x)), ["observation"], ["encoded_latents"]),
            RSSMStateEstimatorV3(self.prior, self.posterior),
            actor,
        )

        first = torch.zeros(BATCH, LENGTH, 1, dtype=torch.bool)
        after = {
            "observation": torch.randn(BATCH, LENGTH, OBSERVATION),
            "reward": torch.randn(BATCH, LENGTH, 1),
            "done": torch.zeros_like(first),
            "terminated": torch.zeros_like(first),
        }
        first[:, 0] = True
        zeros = {"state": torch.zeros(BATCH, LENGTH, flat), "belief": torch.zeros(BATCH, LENGTH, size.deter)}
        action = torch.rand(BATCH, LENGTH, ACTION) * 2 - 1
        self.batch = TensorDict({**zeros, "action": action, "is_init": first, "next": after}, [BATCH, LENGTH])
        self.now = TensorDict({name: x[0, :1] for name, x in zeros.items()}, [1])
        self.now["previous_action"], self.now["observation"] = action[0, :1], after["observation"][0, :1]
        self.now["is_init"] = torch.zeros(1, 1, dtype=torch.bool)
        self.starts = {name: x.flatten(0, 1) for name, x in zeros.items()}

    def step(self) -> float:
        losses = self.stepper.step(None, self.batch)
        return sum(float(value) for name, value in losses.items() if name.startswith("loss_"))

    def world_model(self) -> float:
        losses, after = self.model_loss(self.batch)
        loss = torch.cat(list(losses.values())).sum()
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.starts = {name: after["next", name].detach().flatten(0, 1) for name in ("state", "belief")}
        return float(loss.detach())

    @torch.no_grad()
    def imagine(self) -> float:
        """The modules themselves: its environment's rollout adds rewards and a tensordict a step."""
        state, belief = self.starts["state"], self.starts["belief"]
        latents = [torch.cat([belief, state], -1)]
        for _ in range(HORIZON):
            action = torch.normal(*self.policy_net(belief, state))
            _, state, belief = self.prior(state, belief, action)
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
            for name, part in self.parts.items()
        }


if __name__ == "__main__":
    serve(TorchRL)
