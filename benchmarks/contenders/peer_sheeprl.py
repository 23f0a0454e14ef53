"""sheeprl's DreamerV3 as published in Nature (`dreamer_v3_5`), its own `train` and player; without logs and buffer."""
# pyright: reportMissingImports=false
# sheeprl lives in an environment of its own

import argparse

import gymnasium
import hydra
import torch
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from protocol import ACTION, BATCH, HORIZON, LENGTH, OBSERVATION, serve
from sheeprl.algos.dreamer_v3_5 import dreamer_v3_5
from sheeprl.algos.dreamer_v3_5.agent import build_agent
from sheeprl.algos.dreamer_v3_5.utils import Moments
from sheeprl.utils.fabric import autocast_cache_scope
from sheeprl.utils.utils import dotdict

PRECISION = {"float32": "32-true", "float32-tuned": "32-true", "bfloat16": "bf16-true", "bfloat16-mixed": "bf16-mixed"}
SETTINGS = (
    "exp=dreamer_v3_5",
    "env=gym",
    "env.num_envs=1",
    "algo.mlp_keys.encoder=[state]",
    "algo.cnn_keys.encoder=[]",
    "algo.replay_context=0",  # segments of LENGTH begin afresh, as everywhere here
    "algo.optimizer.warmup=0",  # else the first step moves nothing
)


def make_batch() -> dict[str, torch.Tensor]:
    flags = {name: torch.zeros(LENGTH, BATCH, 1) for name in ("terminated", "truncated", "is_first")}
    flags["is_first"][0] = 1
    return {
        "state": torch.randn(LENGTH, BATCH, OBSERVATION),
        "actions": torch.rand(LENGTH, BATCH, ACTION) * 2 - 1,
        "rewards": torch.randn(LENGTH, BATCH, 1),
        **flags,
    }


class SheepRL:
    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("medium" if options.dtype == "float32-tuned" else "highest")
        torch.manual_seed(0)
        with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
            composed = hydra.compose("config", [*SETTINGS, f"algo=dreamer_v3_5_{options.size.upper()}"])
        self.config = dotdict({"algo": OmegaConf.to_container(composed.algo, resolve=True)})
        self.config.env = dotdict({"num_envs": 1})
        self.config.fabric = dotdict({"precision": PRECISION[options.dtype]})
        self.fabric = Fabric(devices=1, accelerator=options.device, precision=self.config.fabric.precision)
        spaces = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-1, 1, (OBSERVATION,))})
        agent = build_agent(self.fabric, (ACTION,), True, self.config, spaces)
        self.model, self.actor, self.critic, self.slow, self.player = agent
        trained = [parameter for part in (self.model, self.actor, self.critic) for parameter in part.parameters()]
        optimizer = hydra.utils.instantiate(self.config.algo.optimizer, params=trained, _convert_="all")
        self.optimizer = self.fabric.setup_optimizers(optimizer)
        scale = self.config.algo.actor.moments
        self.moments = Moments(scale.decay, scale.max, scale.percentile.low, scale.percentile.high)
        self.batch = {name: values.to(self.fabric.device) for name, values in make_batch().items()}
        self.player.init_states()

    def step(self) -> float:
        parts = (self.model, self.actor, self.critic, self.slow, self.optimizer, self.moments)
        dreamer_v3_5.train(self.fabric, self.config, *parts, dict(self.batch), None, (ACTION,))
        dreamer_v3_5.update_target_critic(self.critic, self.slow, self.config.algo.critic.tau)
        return float(self.moments.high)

    def world_model(self) -> float:
        algo, batch = self.config.algo, self.batch
        zeros = torch.zeros(1, BATCH, 1, device=self.fabric.device)
        recurrent = zeros.repeat(1, 1, algo.world_model.recurrent_model.recurrent_state_size)
        stoch = zeros.repeat(1, 1, algo.world_model.stochastic_size * algo.world_model.discrete_size)
        actions = torch.cat([torch.zeros_like(batch["actions"][:1]), batch["actions"][:-1]])
        seen = ({"state": batch["state"]}, actions, batch["is_first"], batch["rewards"], batch["terminated"])
        settings = dreamer_v3_5.world_model_loss_kwargs(self.config)
        with autocast_cache_scope(self.fabric):
            loss, _, posteriors, states, _ = dreamer_v3_5.world_model_loss(
                self.model, *seen, recurrent, stoch, **settings, entropies=False
            )
        self.fabric.backward(loss)
        self.optimizer.zero_grad(set_to_none=True)
        self.starts = posteriors.detach(), states.detach()
        return float(loss.detach())

    @torch.no_grad()
    def imagine(self) -> float:
        """The loop of its `imagine`, which goes on to reward, continuation and values."""
        stoch, recurrent = (part.reshape(1, BATCH * LENGTH, -1) for part in self.starts)
        latent = torch.cat([stoch, recurrent], -1)
        latents = [latent]
        with autocast_cache_scope(self.fabric):
            for _ in range(HORIZON):
                action = torch.cat(self.actor(latent)[0], -1)
                stoch, recurrent = self.model.rssm.imagination(stoch, recurrent, action)
                latent = torch.cat([stoch, recurrent], -1)
                latents.append(latent)
        return float(torch.cat(latents).mean())

    @torch.inference_mode()
    def policy(self) -> float:
        return float(self.player.get_actions({"state": self.batch["state"][:1, :1]})[0].mean())

    def weights(self) -> dict[str, tuple[int, float]]:
        parts = dict(self.model.named_children()) | {"actor": self.actor, "critic": self.critic}
        return {
            name: (
                sum(p.numel() for p in part.parameters()),
                sum(float(p.detach().double().sum()) for p in part.parameters()),
            )
            for name, part in parts.items()
        }


if __name__ == "__main__":
    serve(SheepRL)
