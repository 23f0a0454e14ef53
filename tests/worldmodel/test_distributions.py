import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from worldmodel.distributions import (
    BINS,
    UNIMIX,
    ActionMixture,
    categorical_kl,
    categorical_log_probs,
    mode_one_hot,
    sample_one_hot,
    symexp,
    symlog,
    twohot_bins,
    twohot_loss,
    twohot_mean,
)


@given(st.floats(-1e6, 1e6))
def test_symexp_undoes_symlog(x):
    assert symexp(symlog(torch.tensor(x, dtype=torch.float64))).item() == pytest.approx(x, abs=1e-9, rel=1e-9)


def test_symlog_by_hand():
    x = torch.tensor([0.0, math.e - 1, 1 - math.e])
    assert torch.allclose(symlog(x), torch.tensor([0.0, 1.0, -1.0]))


# -- categoricals ----------------------------------------------------------------------------------------------------


def test_no_class_is_ever_impossible():
    log_probs = categorical_log_probs(torch.tensor([[[1000.0, 0.0, 0.0, 0.0]]]))
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(1, 1))
    assert log_probs[0, 0, 1].exp().item() == pytest.approx(UNIMIX / 4)
    assert log_probs[0, 0, 0].exp().item() == pytest.approx(1 - UNIMIX * 3 / 4)


def test_kl_agrees_with_torch():
    p, q = (categorical_log_probs(torch.randn(7, 5, 6)) for _ in range(2))
    expected = kl_divergence(Independent(Categorical(logits=p), 1), Independent(Categorical(logits=q), 1))
    assert torch.allclose(categorical_kl(p, q), expected, atol=1e-5)
    assert torch.equal(categorical_kl(p, p), torch.zeros(7))


def test_sampler_draws_each_class_as_often_as_its_probability_says():
    probs = torch.tensor([0.0025, 0.5, 0.1975, 0.3])
    n = 200_000
    samples = sample_one_hot(probs.log().expand(n, 1, 4))
    assert torch.equal(samples.sum(-1), torch.ones(n, 1))
    error = (samples.mean((0, 1)) - probs).abs()
    assert (error < 4 * torch.sqrt(probs * (1 - probs) / n)).all(), error


def test_sampler_stays_inside_when_rounding_leaves_the_total_short_of_one():
    log_probs = torch.full((50_000, 1, 3), math.log(1 / 3)) - 1e-3  # the probabilities sum to 0.999
    assert torch.equal(sample_one_hot(log_probs).sum(-1), torch.ones(50_000, 1))


def test_samples_pass_the_gradient_straight_through():
    logits = torch.randn(4, 3, 5, requires_grad=True)
    log_probs = categorical_log_probs(logits)
    sample = sample_one_hot(log_probs)
    assert set(sample.detach().unique().tolist()) == {0.0, 1.0}
    weight = torch.randn(4, 3, 5)
    (got,) = torch.autograd.grad((sample * weight).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((log_probs.exp() * weight).sum(), logits)
    assert torch.allclose(got, expected, atol=1e-6)


def test_mode_is_the_likeliest_class():
    assert torch.equal(mode_one_hot(torch.tensor([[0.1, 0.7, 0.2]]).log()), torch.tensor([[0.0, 1.0, 0.0]]))


# -- two-hot ---------------------------------------------------------------------------------------------------------


def test_bins_are_symmetric_sorted_and_reach_far():
    bins = twohot_bins()
    assert bins.shape == (BINS,) and bins[BINS // 2] == 0
    assert torch.equal(bins, -bins.flip(0)) and (bins.diff() > 0).all()
    assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-5)


def test_uniform_logits_mean_exactly_zero():
    """Tails of half a billion must cancel: values and rewards begin at zero, not at noise."""
    assert twohot_mean(torch.zeros(3, BINS), twohot_bins()).tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_of_a_two_hot_mean_agrees_with_float64():
    logits, bins = torch.randn(2, 3, BINS, requires_grad=True), twohot_bins()
    exact = logits.detach().double().requires_grad_()
    (found,) = torch.autograd.grad(twohot_mean(logits, bins).sin().sum(), logits)
    mean = (torch.softmax(exact, -1) * bins).sum(-1)
    factor = twohot_mean(logits.detach(), bins).cos()  # in float32, as a mean of half-billions is known to no better
    (expected,) = torch.autograd.grad((mean * factor).sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


def test_two_hot_by_hand():
    bins = twohot_bins()
    low, high = bins[130], bins[131]
    target = low + 0.25 * (high - low)
    logits = torch.randn(BINS)
    log_probs = torch.log_softmax(logits, -1)
    expected = -(0.75 * log_probs[130] + 0.25 * log_probs[131])
    assert twohot_loss(logits, target, bins).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("index", [0, 1, 127, 253, 254])
def test_a_target_on_a_bin_asks_for_that_bin_alone(index):
    bins, logits = twohot_bins(), torch.randn(BINS)
    assert twohot_loss(logits, bins[index], bins).item() == pytest.approx(-torch.log_softmax(logits, -1)[index].item())


@pytest.mark.parametrize("target,index", [(1e12, 254), (-1e12, 0)])
def test_targets_beyond_the_bins_count_as_the_last_bin(target, index):
    bins, logits = twohot_bins(), torch.randn(BINS)
    expected = -torch.log_softmax(logits, -1)[index].item()
    assert twohot_loss(logits, torch.tensor(target), bins).item() == pytest.approx(expected)


@pytest.mark.parametrize("target", [-400.0, -0.3, 0.0, 0.02, 1.0, 77.0])
def test_fitting_one_target_predicts_it(target):
    """The minimum of the two-hot loss has the target as its mean."""
    bins = twohot_bins()
    above = int(torch.searchsorted(bins, torch.tensor(target), right=True))
    weight = ((target - bins[above - 1]) / (bins[above] - bins[above - 1])).item()
    probs = torch.full((BINS,), 1e-30)
    probs[above - 1], probs[above] = max(1 - weight, 1e-30), max(weight, 1e-30)
    assert twohot_mean(probs.log(), bins).item() == pytest.approx(target, rel=1e-4, abs=1e-4)
    logits = probs.log().requires_grad_()
    (gradient,) = torch.autograd.grad(twohot_loss(logits, torch.tensor(target), bins), logits)
    assert gradient.abs().max() < 1e-3


# -- the actor's mixture ---------------------------------------------------------------------------------------------


def mixture(n: int = 6, components: int = 3, actions: int = 2) -> tuple[torch.Tensor, ActionMixture, MixtureSameFamily]:
    raw = torch.randn(n, components * (1 + 2 * actions))
    ours = ActionMixture(raw, actions, 0.1, 1.0)
    theirs = MixtureSameFamily(Categorical(logits=ours.log_weight), Independent(Normal(ours.mean, ours.std), 1))
    return raw, ours, theirs


def test_mixture_agrees_with_torch():
    _, ours, theirs = mixture()
    action = torch.randn(6, 2)
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-5)


def test_mixture_stays_within_its_bounds():
    _, ours, _ = mixture()
    assert (ours.mean.abs() < 1).all() and (ours.std > 0.1).all() and (ours.std < 1).all()


def test_samples_have_the_moments_of_the_mixture():
    raw, ours, theirs = mixture(n=1)
    samples = ActionMixture(raw.expand(100_000, -1), 2, 0.1, 1.0).sample()
    assert torch.allclose(samples.mean(0), theirs.mean[0], atol=0.02)
    assert torch.allclose(samples.var(0), theirs.variance[0], atol=0.03)


def test_mode_is_an_answer_not_the_mean_of_two():
    """Left or right around the box: the middle would be neither."""
    raw = torch.tensor([[0.1, 0.0, 3.0, -3.0, -9.0, -9.0]])  # two components of one action, at +-tanh(3)
    assert ActionMixture(raw, 1, 0.05, 1.0).mode().item() == pytest.approx(math.tanh(3.0))


def test_entropy_estimate_is_a_lower_bound_and_exact_for_one_component():
    raw, ours, theirs = mixture()
    samples = theirs.sample((50_000,))
    truth = -theirs.log_prob(samples).mean(0)
    assert (ours.entropy_estimate() <= truth + 0.02).all()
    assert (ours.entropy_estimate() >= truth - math.log(3) - 0.02).all()
    single = ActionMixture(raw[:, :5], 2, 0.1, 1.0)
    expected = Normal(single.mean, single.std).entropy().sum((-2, -1))
    assert torch.allclose(single.entropy_estimate(), expected, atol=1e-5)


def test_a_sample_moves_with_the_mean_and_spread_of_the_chosen_component_alone():
    torch.manual_seed(0)
    raw = torch.randn(1, 3 * 3, requires_grad=True)  # 3 components of one action
    ours = ActionMixture(raw, 1, 0.1, 1.0)
    drawn = ours.sample()
    d_mean, d_std = torch.autograd.grad(drawn.sum(), [ours.mean, ours.std], retain_graph=True)
    chosen = d_mean.flatten()
    assert sorted(chosen.tolist()) == [0.0, 0.0, 1.0]
    z = (drawn - (ours.mean.flatten() * chosen).sum()) / (ours.std.flatten() * chosen).sum()
    assert torch.allclose(d_std.flatten(), z.flatten() * chosen, atol=1e-5)
    (d_raw,) = torch.autograd.grad(drawn.sum(), raw)
    assert (d_raw[0, :3] == 0).all()  # which one is drawn has no gradient


def test_the_least_spread_widens_the_narrow_and_leaves_the_wide():
    raw = torch.tensor([[0.0, 0.0, 0.5, -0.5, -9.0, 2.0]])
    free, held = ActionMixture(raw, 1, 0.05, 1.0), ActionMixture(raw, 1, 0.05, 1.0, least=0.15)
    assert free.std.flatten()[0].item() == pytest.approx(0.05, abs=1e-3)
    assert held.std.flatten()[0].item() == pytest.approx(0.15)
    assert held.std.flatten()[1].item() == free.std.flatten()[1].item()
    assert torch.equal(held.mean, free.mean)
