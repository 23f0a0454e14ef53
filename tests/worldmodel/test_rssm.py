import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, Independent, kl_divergence

from worldmodel.nets import RMSNorm
from worldmodel.rssm import RSSM, RSSMConfig, State

SMALL = RSSMConfig(deter=32, hidden=16, stoch=4, classes=6, blocks=4)


@pytest.fixture
def rssm() -> RSSM:
    made = RSSM(SMALL, tokens=10, actions=3)
    for name, parameter in made.named_parameters():  # biases and norms begin at 0 and 1, where mistakes hide
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("scale") else 0.0, 0.3)
    return made.requires_grad_(False)


def sequence(batch: int = 2, length: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    return torch.randn(batch, length, 10), torch.randn(batch, length, 3).clamp(-1, 1), is_first


def norm_silu(norm: RMSNorm, x: torch.Tensor) -> torch.Tensor:
    y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-4) * norm.scale
    return y * torch.sigmoid(y)


def test_the_recurrent_step_is_the_official_codes(rssm):
    """`_core` of dreamerv3/rssm.py, written out group by group with dense matrices, for actions within [-1, 1]."""
    state = State(torch.randn(5, 32), F.one_hot(torch.randint(6, (5, 4)), 6).float().flatten(1))
    action = torch.rand(5, 3) * 2 - 1
    inputs = []
    for layer, x in ((rssm.in_deter, state.deter), (rssm.in_stoch, state.stoch), (rssm.in_action, action)):
        inputs.append(norm_silu(layer.norm, x @ layer.linear.weight.T + layer.linear.bias))
    hidden = []
    for g in range(4):
        x = torch.cat([state.deter[:, 8 * g : 8 * g + 8], *inputs], -1)
        hidden.append(x @ rssm.core.weight[g])
    x = norm_silu(rssm.core_norm, torch.cat(hidden, -1) + rssm.core.bias)
    reset, candidate, update = [], [], []
    for g in range(4):
        y = x[:, 8 * g : 8 * g + 8] @ rssm.gates.weight[g] + rssm.gates.bias[24 * g : 24 * g + 24]
        for part, piece in zip((reset, candidate, update), y.split(8, -1), strict=True):
            part.append(piece)
    reset, candidate, update = (torch.cat(part, -1) for part in (reset, candidate, update))
    update = torch.sigmoid(update - 1)
    expected = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * state.deter
    assert torch.allclose(rssm.imagine_step(state, action).deter, expected, atol=1e-5)


def test_the_posterior_is_one_linear_map_of_deter_and_tokens(rssm):
    tokens, action, is_first = sequence()
    states, log_probs = rssm.observe(tokens, action, is_first)
    weight = torch.cat([rssm.posterior_deter.weight, rssm.posterior_tokens.weight], -1)
    x = torch.cat([states.deter, tokens], -1) @ weight.T + rssm.posterior_deter.bias
    x = norm_silu(rssm.posterior_norm, x) @ rssm.posterior_out.weight.T + rssm.posterior_out.bias
    probs = 0.99 * torch.softmax(x.reshape(2, 6, 4, 6), -1) + 0.01 / 6
    assert torch.allclose(log_probs.exp(), probs, atol=1e-5)


def test_the_posteriors_two_weights_begin_as_one():
    rssm = RSSM(RSSMConfig(), tokens=300, actions=1)
    for part in (rssm.posterior_deter, rssm.posterior_tokens):
        assert part.weight.var().item() == pytest.approx(1 / (512 + 300), rel=0.05)


def test_observing_a_sequence_equals_observing_step_by_step(rssm):
    tokens, action, is_first = sequence()
    is_first[1, 3] = True
    torch.manual_seed(1)
    whole, _ = rssm.observe(tokens, action, is_first)
    torch.manual_seed(1)
    state = rssm.initial(2)
    for t in range(6):
        state = rssm.observe_step(state, tokens[:, t], action[:, t], is_first[:, t])
        assert torch.allclose(state.deter, whole.deter[:, t], atol=1e-6)
        assert torch.equal(state.stoch, whole.stoch[:, t])


def test_is_first_in_mid_sequence_equals_two_separate_runs(rssm):
    tokens, action, is_first = sequence(batch=1)
    is_first[0, 3] = True
    torch.manual_seed(1)
    whole, log_probs = rssm.observe(tokens, action, is_first)
    torch.manual_seed(1)
    parts = [rssm.observe(tokens[:, part], action[:, part], is_first[:, part]) for part in (slice(0, 3), slice(3, 6))]
    assert torch.allclose(whole.deter, torch.cat([state.deter for state, _ in parts], 1), atol=1e-6)
    assert torch.allclose(log_probs, torch.cat([log_prob for _, log_prob in parts], 1), atol=1e-6)


def test_is_first_forgets_the_state_and_the_previous_action(rssm):
    tokens, action, is_first = sequence(batch=1, length=1)
    torch.manual_seed(1)
    blank, _ = rssm.observe(tokens, action, is_first)
    torch.manual_seed(1)
    state = State(torch.randn(1, 32), torch.randn(1, 24))
    other, _ = rssm.observe(tokens, action + 5, is_first, state)
    assert torch.equal(blank.deter, other.deter)


def test_a_sequence_goes_on_from_a_given_state(rssm):
    tokens, action, is_first = sequence()
    torch.manual_seed(1)
    whole, _ = rssm.observe(tokens, action, is_first)
    torch.manual_seed(1)
    first, _ = rssm.observe(tokens[:, :4], action[:, :4], is_first[:, :4])
    second, _ = rssm.observe(tokens[:, 4:], action[:, 4:], is_first[:, 4:], first[:, -1])
    assert torch.allclose(whole.deter[:, 4:], second.deter, atol=1e-6)


def test_imagining_is_repeated_steps_and_without_sampling_deterministic(rssm):
    start = State(torch.randn(3, 32), F.one_hot(torch.randint(6, (3, 4)), 6).float().flatten(1))
    action = torch.randn(3, 5, 3)
    a, b = rssm.imagine(start, action, sample=False), rssm.imagine(start, action, sample=False)
    assert torch.equal(a.feat(), b.feat())
    state = start
    for t in range(5):
        state = rssm.imagine_step(state, action[:, t], sample=False)
        assert torch.equal(state.deter, a.deter[:, t])
    torch.manual_seed(1)
    c = rssm.imagine(start, action)
    torch.manual_seed(1)
    d = rssm.imagine(start, action)
    assert torch.equal(c.feat(), d.feat())
    assert not torch.equal(a.feat(), c.feat())


def test_imagining_does_not_see_later_actions(rssm):
    start, action = rssm.initial(1), torch.randn(1, 5, 3)
    changed = action.clone()
    changed[:, 3] += 0.5
    a, b = rssm.imagine(start, action, sample=False), rssm.imagine(start, changed, sample=False)
    assert torch.equal(a.deter[:, :3], b.deter[:, :3])
    assert not torch.equal(a.deter[:, 3], b.deter[:, 3])


def test_rows_of_a_batch_do_not_mix(rssm):
    start, action = rssm.initial(3), torch.randn(3, 4, 3)
    whole = rssm.imagine(start, action, sample=False)
    alone = rssm.imagine(start[1:2], action[1:2], sample=False)
    assert torch.allclose(whole.deter[1:2], alone.deter, atol=1e-6)


def test_kl_agrees_with_torch_above_the_free_nats(rssm):
    tokens, action, is_first = sequence()
    states, posterior = rssm.observe(tokens * 30, action, is_first)
    dynamics, representation = rssm.kl(posterior, states.deter)
    p, q = (Independent(Categorical(logits=x), 1) for x in (posterior, rssm.prior_log_probs(states.deter)))
    expected = kl_divergence(p, q).clamp(min=1.0)
    assert (expected > 1).any()
    assert torch.allclose(dynamics, expected, atol=1e-5)
    assert torch.equal(dynamics, representation)


def test_kl_balance_sends_each_gradient_to_its_own_side():
    rssm = RSSM(SMALL, tokens=10, actions=3)
    tokens, action, is_first = sequence()
    states, posterior = rssm.observe(tokens * 30, action, is_first)
    dynamics, representation = rssm.kl(posterior, states.deter.detach())
    prior_weight, token_weight = rssm.prior[1].weight, rssm.posterior_out.weight
    sides = [prior_weight, token_weight]
    by_dynamics = torch.autograd.grad(dynamics.sum(), sides, retain_graph=True, allow_unused=True)
    by_representation = torch.autograd.grad(representation.sum(), sides, allow_unused=True)
    assert by_dynamics[0] is not None and by_dynamics[1] is None
    assert by_representation[0] is None and by_representation[1] is not None


def test_free_nats_give_no_gradient():
    rssm = RSSM(RSSMConfig(deter=32, hidden=16, stoch=4, classes=6, blocks=4, free_nats=1e6), tokens=10, actions=3)
    tokens, action, is_first = sequence()
    states, posterior = rssm.observe(tokens, action, is_first)
    dynamics, representation = rssm.kl(posterior, states.deter)
    assert (dynamics == 1e6).all()
    (dynamics + representation).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in rssm.parameters())


def test_stochastic_latents_are_one_hot(rssm):
    tokens, action, is_first = sequence()
    states, _ = rssm.observe(tokens, action, is_first)
    grouped = states.stoch.reshape(2, 6, 4, 6)
    assert torch.equal(grouped.sum(-1), torch.ones(2, 6, 4)) and torch.equal(grouped.amax(-1), torch.ones(2, 6, 4))
