"""Which physics explains what was seen, where the law is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from worldmodel.context import ContextSpec
from worldmodel.inference import FLOOR, Inference
from worldmodel.model import ModelConfig, Spaces, WorldModel
from worldmodel.rssm import RSSMConfig

NOISE = 0.1


class Law(nn.Module):
    """In a step the only channel moves by command times factor; the second factor, a push, adds itself."""

    def forward(self, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        command, factor, push = inputs[..., :1], inputs[..., 1:2], inputs[..., 2:3]
        return command * factor + push, torch.full_like(command, math.log(NOISE))


def watch(truth: Tensor, inference: Inference, seed: int = 0, at: float = 0.0) -> tuple[Tensor, Tensor]:
    """(T, N, C) means and deviations where the factor is `truth` (T, N)."""
    random = torch.Generator().manual_seed(seed)
    x, told = torch.full((truth.shape[1], 1), at), []
    for t, factor in enumerate(truth.unsqueeze(-1)):
        command = torch.rand(x.shape, generator=random) * 2 - 1
        if t:
            x = x + command * factor + NOISE * torch.randn(x.shape, generator=random)
        told.append(inference.step(x, command, torch.full((len(x),), t == 0)))
    mean, std = zip(*told, strict=True)
    return torch.stack(mean), torch.stack(std)


@pytest.fixture
def inference() -> Inference:
    context = ContextSpec(("floor_friction", "push"), (0.5, 0.0), (0.25, 1.0))
    model = WorldModel(ModelConfig(RSSMConfig(32, 16, 4, 4, 4), units=16, layers=1), Spaces(1, 1), context)
    return Inference(model, Law(), 3)  # pyright: ignore[reportArgumentType]


def test_it_begins_with_the_logs_range_and_closes_in_on_the_truth(inference):
    truth = torch.tensor([-0.8, 0.0, 0.6])
    mean, std = watch(truth.expand(80, 3), inference)
    assert mean[0, :, 0].abs().max() < 0.02 and std[0, :, 0] == pytest.approx(1 / math.sqrt(3) + FLOOR, abs=0.02)
    assert (mean[-1, :, 0] - truth).abs().max() < 0.08 and std[-1, :, 0].max() < 0.15
    assert not mean[..., 1].any()  # pushes pass, and are left to the head


def test_a_new_episode_forgets(inference):
    first, _ = watch(torch.tensor([-0.8, 0.0, 0.6]).expand(60, 3), inference)
    again, _ = watch(torch.tensor([0.8, 0.3, -0.6]).expand(60, 3), inference, at=5.0)
    torch.testing.assert_close(again[0], first[0])
    assert (again[-1, :, 0] - torch.tensor([0.8, 0.3, -0.6])).abs().max() < 0.1


def test_a_floor_that_changes_on_the_way_is_noticed(inference):
    truth = torch.cat([torch.full((100, 3), 0.8), torch.full((250, 3), -0.5)])
    mean, _ = watch(truth, inference)
    assert (mean[99, :, 0] - 0.8).abs().max() < 0.08 and (mean[-1, :, 0] + 0.5).abs().max() < 0.15
