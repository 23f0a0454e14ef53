"""Every operation as the C kernels do it, against what it is defined as in PyTorch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldmodel import distributions, fused, kernel

WIDTHS = [torch.float32, torch.bfloat16]
SIZES = [(1, 1), (3, 17), (5, 64), (130, 100), (0, 8)]  # rows and columns; more rows than are summed at once, and none
BLOCKS = [(1, 1, 1), (3, 4, 5), (70, 8, 64), (0, 2, 8)]  # rows, blocks, and columns of a block


@pytest.fixture
def twice(library, monkeypatch) -> Callable:
    """Calls an operation with the kernels and without, with the same random numbers."""

    def call(operation: Callable, *given: object) -> list[tuple[Tensor, Tensor]]:
        outcomes = []
        for chosen in (library, None):
            monkeypatch.setattr(kernel, "LIBRARY", chosen)
            torch.manual_seed(1)
            outcomes.append(operation(*given))
        ours, expected = (x if isinstance(x, tuple) else (x,) for x in outcomes)
        return list(zip(ours, expected, strict=True))

    return call


def same(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for ours, expected in pairs:
        assert ours.shape == expected.shape and ours.dtype is expected.dtype
        close = 2e-6 if ours.dtype is torch.float32 else 2**-7  # one unit in the last place of bfloat16
        size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        assert torch.allclose(ours.float(), expected.float(), rtol=close, atol=close * size)


@pytest.mark.parametrize("to", WIDTHS)
@pytest.mark.parametrize("of", WIDTHS)
@pytest.mark.parametrize("size", SIZES)
def test_norms_and_their_way_back(twice, size, of, to):
    x, scale, grad = (3 * torch.randn(size)).to(of), torch.randn(size[1]), torch.randn(size).to(to)
    same(twice(fused.normed, x, scale, to))
    same(twice(fused.normed_back, grad, x, scale))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", BLOCKS)
def test_sums_that_are_normed(twice, size, width):
    rows, blocks, d = size
    x, own = torch.randn(rows, blocks * d).to(width), torch.randn(blocks, rows, d).to(width)
    same(twice(fused.normed_sum, x, own, torch.randn(blocks * d), torch.randn(blocks * d), True))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", BLOCKS)
def test_gates_and_their_way_back(twice, size, width):
    rows, blocks, d = size
    gates, bias = torch.randn(blocks, rows, 3 * d).to(width), torch.randn(3 * blocks * d)
    deter, grad = torch.randn(rows, blocks * d), torch.randn(rows, blocks * d)
    same(twice(fused.gated, gates, bias, deter))
    same(twice(fused.gated_back, grad, gates, bias, deter))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [0, 1, 300])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (32, 16)])
def test_the_same_classes_are_drawn(twice, shape, rows, width):
    logits = 3 * torch.randn(rows, shape[0] * shape[1]).to(width)
    (ours, expected), probs = twice(distributions.drawn, logits, shape, True)
    same([probs])
    assert ours.dtype is width and torch.equal(ours.sum(1), torch.ones(rows, shape[0], dtype=width))
    assert (ours != expected).any(1).float().sum() <= 1e-4 * rows * shape[0]  # where rounding decides


@pytest.mark.parametrize("shape", [(), (1,), (3, 200)])
def test_two_hot_means_and_losses(twice, shape):
    bins, logits = distributions.twohot_bins(), 5 * torch.randn(*shape, distributions.BINS)
    targets, weight = 10 * torch.randn(2, *shape), torch.randn(shape)

    def loss_and_gradient() -> tuple[Tensor, ...]:
        given = logits.clone().requires_grad_()
        losses = distributions.twohot_losses(given, targets, bins)
        return losses.detach(), *torch.autograd.grad((weight * losses).sum(), given)

    same(twice(loss_and_gradient))
    ((ours, expected),) = twice(distributions.twohot_mean, logits, bins)
    assert torch.allclose(
        ours, expected, rtol=1e-4, atol=1e-6 * float((torch.softmax(logits, -1) * bins.abs()).sum(-1).max())
    )


def test_gradients_of_a_norm_are_those_of_autograd(with_kernel, monkeypatch):
    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad((fused.normed(x, scale) * weight).sum(), (x, scale))

    x, scale, weight = torch.randn(4, 6, 10, requires_grad=True), torch.randn(10, requires_grad=True), torch.randn(10)
    ours = gradients()
    monkeypatch.setattr(kernel, "LIBRARY", None)
    same(list(zip(ours, gradients(), strict=True)))


def test_rows_that_lie_apart_are_understood(twice):
    x, scale = torch.randn(6, 40)[:, 10:30], torch.randn(20)
    same(twice(fused.normed, x, scale, torch.float32))
    same(twice(fused.normed_back, torch.randn(20, 6).mT, x, scale))


def test_extreme_numbers(twice):
    gates, bias = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 200.0]).view(1, 2, 3), torch.zeros(3)
    same(twice(fused.gated, gates, bias, torch.ones(2, 1)))
    same(twice(fused.normed, torch.tensor([[0.0, 0.0], [1e15, -1e15], [1e-30, 0.0]]), 100 * torch.ones(2)))


def test_a_number_that_is_none_is_not_hidden(with_kernel):
    none = torch.tensor([[1.0, float("nan"), 2.0]])
    for width in WIDTHS:
        assert fused.normed(none.to(width), torch.ones(3), width).isnan().all()
    gates = torch.zeros(1, 1, 12)
    for at in range(0, 12, 4):
        arrived, narrow = fused.gated(
            gates.index_fill(-1, torch.tensor(at), float("nan")), torch.zeros(12), torch.zeros(1, 4)
        )
        assert arrived[0, 0].isnan() and not arrived[0, 1:].isnan().any() and narrow is arrived


def test_two_threads_give_the_same_bits(with_kernel):
    def outcome() -> list[Tensor]:
        torch.manual_seed(0)
        x, scale = torch.randn(1025, 128), torch.randn(128)
        back = fused.normed_back(x + 1, x, scale)
        gates, bias = torch.randn(4, 1025, 96), torch.randn(384)
        moved = *fused.gated(gates, bias, x), *fused.gated_back(x, gates, bias, x)
        drawn, _ = distributions.drawn(x, (16, 8))
        return [fused.normed(x, scale), *back, *moved, drawn]

    one = outcome()
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(*pair) for pair in zip(one, outcome(), strict=True))
    finally:
        torch.set_num_threads(1)


def test_other_widths_go_the_other_way(with_kernel):
    x, scale = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert fused.normed(x, scale, torch.float64).dtype is torch.float64


def test_a_folder_without_a_library_or_with_a_broken_one_gives_none(tmp_path):
    assert kernel.load(tmp_path) is None
    (tmp_path / "_kernel.so").write_text("not a library")
    assert kernel.load(tmp_path) is None


def test_a_library_of_another_source_is_left_alone(library, tmp_path, monkeypatch):
    folder = Path(library._name).parent
    assert kernel.load(folder) is not None
    (tmp_path / "kernel.c").write_text("int changed;")
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    assert kernel.load(folder) is None


@pytest.mark.parametrize("x", [torch.randn(6, 40)[:, :20], torch.randn(6, 20).double(), torch.randn(6, 20).to("meta")])
def test_what_the_library_cannot_read_it_is_not_given(with_kernel, x):
    assert kernel.library(x) is None and kernel.library(torch.ones(3), x) is None
    assert kernel.library(torch.ones(3), torch.ones(3).bfloat16()) is None


def test_what_does_not_fit_is_refused_and_not_read():
    with pytest.raises(ValueError, match=r"norm of shapes \(4, 10\)"):
        fused.normed(torch.zeros(4, 10), torch.ones(5))
    with pytest.raises(ValueError, match="norm of a sum"):
        fused.normed_sum(torch.zeros(4, 10), torch.zeros(2, 4, 3), torch.zeros(10), torch.ones(10), keep=False)
    with pytest.raises(ValueError, match="gates of shapes"):
        fused.gated(torch.zeros(2, 4, 15), torch.zeros(30), torch.zeros(4, 8))
