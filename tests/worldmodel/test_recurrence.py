"""The unrolled recurrence and its own backward pass, against autograd through one step after the other."""

import pytest
import torch

from worldmodel.distributions import draw
from worldmodel.fused import normed, normed_back
from worldmodel.rssm import RSSM, RSSMConfig, State

pytestmark = pytest.mark.usefixtures("with_and_without_kernel")

SMALL = RSSMConfig(deter=32, hidden=16, stoch=4, classes=6, blocks=4)


@pytest.fixture
def rssm() -> RSSM:
    torch.manual_seed(0)
    made = RSSM(SMALL, tokens=10, actions=3)
    for name, parameter in made.named_parameters():  # biases and norms begin at 0 and 1, where mistakes hide
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("scale") else 0.0, 0.3)
    return made


def sequence(batch: int = 3, length: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = is_first[-1, 4] = True
    return torch.randn(batch, length, 10), torch.rand(batch, length, 3) * 2 - 1, is_first


def step_by_step(
    rssm: RSSM, tokens: torch.Tensor, action: torch.Tensor, is_first: torch.Tensor
) -> tuple[State, torch.Tensor]:
    state, states, log_probs = rssm.initial(len(tokens)), [], []
    for t in range(tokens.shape[1]):
        state = rssm.observe_step(state, tokens[:, t], action[:, t], is_first[:, t])
        states.append(state)
        log_probs.append(rssm._posterior(state.deter, rssm.posterior_tokens(tokens[:, t])))
    deter, stoch = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
    return State(deter, stoch), torch.stack(log_probs, 1)


def outcome(rssm: RSSM, unroll, tokens, action, is_first) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """All outputs, and the gradients of a loss that every one of them takes part in with weights of its own."""
    torch.manual_seed(1)
    tokens, action = tokens.clone().requires_grad_(), action.clone().requires_grad_()
    rssm.zero_grad()
    state, log_probs = unroll(tokens, action, is_first)
    outputs = [state.deter, state.stoch, log_probs]
    torch.manual_seed(2)
    sum((torch.randn(x.shape) * x).sum() for x in outputs).backward()
    grads = {name: p.grad for name, p in rssm.named_parameters() if p.grad is not None}
    assert tokens.grad is not None and action.grad is not None
    return [x.detach() for x in outputs], grads | {"tokens": tokens.grad, "action": action.grad}


def test_outputs_and_every_gradient_equal_those_of_autograd(rssm):
    given = sequence()
    outputs, grads = outcome(rssm, rssm.observe, *given)
    expected_outputs, expected = outcome(rssm, lambda *x: step_by_step(rssm, *x), *given)
    for ours, theirs in zip(outputs, expected_outputs, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert set(grads) == set(expected) and len(grads) > 20
    for name, grad in grads.items():
        scale = expected[name].abs().max()
        assert scale > 0 and (grad - expected[name]).abs().max() < 1e-4 * scale, name


def test_with_matrices_of_bfloat16_gradients_point_the_same_way(rssm):
    given = sequence()
    _, exact = outcome(rssm, rssm.observe, *given)
    rssm.compute = torch.bfloat16
    outputs, grads = outcome(rssm, rssm.observe, *given)
    assert all(x.dtype is torch.float32 for x in (*outputs, *grads.values()))
    for name, grad in grads.items():
        assert torch.cosine_similarity(grad.flatten(), exact[name].flatten(), 0) > 0.97, name
    assert not torch.equal(grads["core.weight"], exact["core.weight"])


def test_what_goes_before_a_first_step_gets_no_gradient(rssm):
    tokens, action, is_first = sequence(batch=1)
    tokens.requires_grad_()
    state, _ = rssm.observe(tokens, action, is_first)
    state.deter[:, 4:].sum().backward()
    assert tokens.grad is not None
    assert not tokens.grad[:, :4].any() and tokens.grad[:, 4:-1].any()


def test_the_norms_way_back_equals_autograd():
    x, scale, grad = torch.randn(5, 8, requires_grad=True), torch.randn(8, requires_grad=True), torch.randn(5, 8)
    normed(x, scale).backward(grad)
    of_x, of_scale = normed_back(grad, x.detach(), scale.detach())
    assert x.grad is not None and scale.grad is not None
    assert torch.allclose(of_x, x.grad, atol=1e-5)
    assert torch.allclose(of_scale, scale.grad, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_classes_are_drawn_as_often_as_they_are_likely(classes):
    torch.manual_seed(0)
    probs = torch.softmax(torch.randn(1, classes, 5), 1)
    drawn = draw(probs.expand(20_000, -1, -1))
    assert torch.equal(drawn.sum(1), torch.ones(20_000, 5)) and set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(drawn.mean(0), probs[0], atol=0.015)


@pytest.mark.parametrize("uniform", [0.0, 1.0])
def test_the_ends_of_the_unit_interval_draw_one_class(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, uniform))
    drawn = draw(torch.softmax(torch.randn(4, 3, 2), 1))
    assert torch.equal(drawn.argmax(1), torch.full((4, 2), 2 * int(uniform))) and (drawn.sum(1) == 1).all()
