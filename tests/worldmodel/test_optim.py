import math

import pytest
import torch
from torch import nn

from worldmodel.optim import LaProp, SafeStep


def scalar_laprop(start: float, gradients: list[float], lr: float, warmup: int, clip: float) -> float:
    """LaProp with adaptive clipping for one number, from the papers' formulas."""
    w, nu, mu = start, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        limit = clip * max(abs(w), 1e-3)
        g = g if abs(g) <= limit else math.copysign(limit, g)
        nu = 0.999 * nu + 0.001 * g * g
        mu = 0.9 * mu + 0.1 * g / (math.sqrt(nu / (1 - 0.999**t)) + 1e-20)
        w -= lr * min(1.0, (t - 1) / warmup) * mu / (1 - 0.9**t)
    return w


@pytest.mark.parametrize("start", [1.0, -3.0, 1e-5])
def test_laprop_agrees_with_a_scalar_derivation(start):
    gradients = [0.1, -0.02, 5.0, 0.3, 0.0, -0.7, 0.01]
    p = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = LaProp([p], lr=0.05, warmup=3, clip=0.3)
    for g in gradients:
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    assert p.item() == pytest.approx(scalar_laprop(start, gradients, 0.05, 3, 0.3), rel=1e-9)


def test_the_first_step_has_the_size_of_the_learning_rate_whatever_the_gradient():
    for gradient in (1e-12, 1e12):
        p = nn.Parameter(torch.tensor([1.0]))
        optimizer = LaProp([p], lr=0.01, warmup=0)
        p.grad = torch.tensor([gradient])
        optimizer.step()
        assert p.item() == pytest.approx(0.99)


def test_a_gradient_is_clipped_by_the_norm_of_its_own_parameter():
    """Second step after a small first one: the clipped gradient decides, so 1e3 and 1e6 come to the same."""
    ends = []
    for large in (1e3, 1e6):
        p = nn.Parameter(torch.ones(4) / 2)  # norm 1, so a gradient's norm is cut to 0.3
        optimizer = LaProp([p], lr=0.01, warmup=0, clip=0.3)
        for gradient in (0.05, large):
            p.grad = torch.full((4,), gradient)
            optimizer.step()
        ends.append(p[0].item())
    assert ends[0] == pytest.approx(ends[1])


def test_warm_up_is_linear_from_zero():
    moves = []
    for step in range(1, 6):
        p = nn.Parameter(torch.tensor([1.0]))
        optimizer = LaProp([p], lr=0.01, warmup=4)
        optimizer.state[p] = {"nu": torch.zeros(1), "mu": torch.zeros(1), "step": torch.tensor(float(step - 1))}
        p.grad = torch.tensor([0.1])
        optimizer.step()
        moves.append((1 - p.item()) / (0.1 / (1 - 0.9**step)) / math.sqrt((1 - 0.999**step) / 0.001))
    assert moves == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01], rel=1e-3)


def test_it_finds_the_bottom_of_a_badly_scaled_valley():
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = LaProp([p], lr=0.05, warmup=10)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        p.grad = torch.tensor([1e4, 1e-4]) * (p.detach() - torch.tensor([1.0, 1.0]))
        optimizer.step()
    assert torch.allclose(p, torch.ones(2), atol=0.01)


def test_its_state_survives_saving():
    def run(saved_after: int | None) -> float:
        p = nn.Parameter(torch.tensor([1.0]))
        optimizer = LaProp([p], lr=0.05, warmup=3)
        for step, gradient in enumerate((0.1, -0.02, 0.3, 0.05)):
            if step == saved_after:
                state = optimizer.state_dict()
                optimizer = LaProp([p], lr=0.05, warmup=3)
                optimizer.load_state_dict(state)
            p.grad = torch.tensor([gradient])
            optimizer.step()
        return p.item()

    assert run(None) == run(2)


def test_each_group_has_its_own_rate_and_one_without_gradients_stays():
    p, q, r = (nn.Parameter(torch.tensor([1.0])) for _ in range(3))
    optimizer = LaProp([{"params": [x]} for x in (p, q, r)], lr=0.01, warmup=0)
    optimizer.param_groups[1]["lr"] = 0.05
    p.grad, q.grad = torch.tensor([0.1]), torch.tensor([0.1])
    optimizer.step()
    assert (p.item(), q.item(), r.item()) == pytest.approx((0.99, 0.95, 1.0))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
    p = nn.Parameter(torch.tensor([4.0]))
    step = SafeStep(LaProp([p], lr=0.1, warmup=0))
    assert step((p * p).sum())
    before = p.item()
    for count in (1, 2):
        loss = p.sum() * float("nan") if bad == "loss" else torch.sqrt(p - p).sum()  # slope of a root at 0: infinite
        assert not step(loss)
        assert (p.item(), step.skipped) == (before, count)
    assert step((p * p).sum())
    assert step.skipped == 2
