import math

import pytest
import torch
from torch import nn

from worldmodel.nets import (
    MLP,
    BlockLinear,
    ChannelNorm,
    Conv,
    Head,
    ImageDecoder,
    ImageEncoder,
    Linear,
    RMSNorm,
    compute_in,
    products,
    products_size,
    truncated_normal_,
)


def test_rms_norm_by_hand():
    norm = RMSNorm(2)
    assert torch.allclose(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([2.0, 0.5]))
    assert torch.allclose(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[6.0, 2.0]]) / math.sqrt(12.5))


def test_rms_norm_keeps_tiny_inputs_tiny():
    out = RMSNorm(2)(torch.full((1, 2), 1e-4))
    assert torch.allclose(out, torch.full((1, 2), 1e-4 / math.sqrt(1e-8 + 1e-4)))


def test_rms_norm_does_not_depend_on_the_scale_of_its_input():
    x = torch.randn(5, 16)
    assert torch.allclose(RMSNorm(16)(x), RMSNorm(16)(1000 * x), atol=1e-3)


def test_products_by_hand_and_none_where_there_would_be_too_many():
    expected = torch.tensor([[1.0, -2.0, 4.0, 1.0, -2.0, 4.0, 4.0, -8.0, 8.0]])  # 16 is cut at 8
    assert torch.equal(products(torch.tensor([[1.0, -2.0, 4.0]])), expected) and products_size(3) == 9
    wide = torch.randn(2, 65)
    assert torch.equal(products(wide), wide) and products_size(65) == 65


def test_block_linear_is_a_dense_block_diagonal_matrix():
    layer = BlockLinear(12, 8, 4)
    nn.init.normal_(layer.bias)
    dense = torch.block_diag(*layer.weight)  # (12, 8)
    x = torch.randn(5, 12)
    assert torch.allclose(layer(x), x @ dense + layer.bias, atol=1e-6)


def test_block_linear_refuses_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="10 inputs and 8 outputs do not divide into 4 blocks"):
        BlockLinear(10, 8, 4)


def test_initial_weights_have_the_variance_of_one_over_fan_in_and_no_tails():
    weight = torch.empty(400, 400)
    truncated_normal_(weight, 400)
    assert weight.var().item() == pytest.approx(1 / 400, rel=0.02)
    assert weight.abs().max().item() <= 2 * 1.1368 / 20 + 1e-6


def test_initial_weights_count_all_inputs_of_blocks_and_all_pixels_of_kernels():
    assert BlockLinear(512, 512, 8).weight.var().item() == pytest.approx(1 / 512, rel=0.05)
    assert Conv(16, 64).weight.var().item() == pytest.approx(1 / (16 * 25), rel=0.05)


def test_a_head_of_outscale_zero_begins_at_zero():
    assert torch.equal(Head(6, 8, 2, 3, outscale=0.0)(torch.randn(4, 6)), torch.zeros(4, 3))


def test_a_head_told_its_first_product_gives_the_same_and_the_same_gradients():
    head, x = Head(6, 8, 2, 3), torch.randn(2, 4, 6, requires_grad=True)
    known = head.first(x).detach()
    expected, told = head(x), head(x, known)
    assert torch.equal(told, expected)
    inputs = (x, *head.parameters())
    grads = (torch.autograd.grad(out.square().sum(), inputs) for out in (told, expected))
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_head_that_does_not_learn_passes_back_what_one_that_does_would(compute):
    head, x = Head(6, 8, 2, 3), torch.randn(2, 4, 6, requires_grad=True)
    compute_in(compute, head)
    found = []
    for learns in (True, False):
        out = head.requires_grad_(learns)(torch.cat([x[..., :2].detach(), x[..., 2:]], -1), fixed=2)
        found.append((out, *torch.autograd.grad(out.square().sum(), x)))
    (expected, of_expected), (out, of_out) = found
    assert torch.equal(out, expected)
    torch.testing.assert_close(of_out, of_expected, rtol=1e-5, atol=1e-5 if compute is torch.float32 else 1e-2)


def test_linear_begins_without_bias_and_layers_are_linear_norm_silu():
    mlp = MLP(3, 5, 1)
    layer = mlp[0]
    x = torch.randn(2, 3)
    y = x @ layer.linear.weight.T
    y = y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-4)
    assert torch.allclose(mlp(x), y * torch.sigmoid(y), atol=1e-6)
    assert torch.equal(Linear(3, 5).bias, torch.zeros(5))


def test_channel_norm_works_on_channels_alone():
    x = torch.randn(2, 6, 3, 3)
    y = x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-4)
    assert torch.allclose(ChannelNorm(6)(x), y * torch.sigmoid(y), atol=1e-6)


def test_image_encoder_sees_shifted_pictures_shifted():
    """Convolution and pooling commute with a shift by 16 pixels, one cell of the last map; away from the borders."""
    encoder = ImageEncoder(2)
    image = torch.zeros(1, 64, 64, 3) + 0.5
    image[:, 20:28, 20:28] = torch.rand(8, 8, 3)
    moved = torch.roll(image, 16, 1)
    a, b = (encoder(x).reshape(8, 4, 4) for x in (image, moved))
    changed = (a[:, 1] - a[:, 3]).abs().max()
    assert changed > 0.1  # the spot is visible at all
    assert torch.allclose(a[:, 1, 1], b[:, 2, 1], atol=1e-5)


def test_image_networks_have_matching_shapes_and_the_decoder_gives_pictures():
    assert ImageEncoder(2)(torch.rand(3, 64, 64, 3)).shape == (3, 2 * 4 * 16)
    image = ImageDecoder(16, 12, 2, 8)(torch.randn(3, 16), torch.randn(3, 12))
    assert image.shape == (3, 64, 64, 3)
    assert image.min() >= 0 and image.max() <= 1
