"""Reads weights of the official DreamerV3 (danijar/dreamerv3 at e3f0224) into a world model that carries nothing.

Weights are numpy arrays by their official names (`dyn/dynin0/kernel`). What that code has no counterpart for stays as
it was made: of the decoder of vectors the half that states its noise. The means that it decodes are the official ones,
symlogs of observations, until it is trained here.
"""

from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from configs import UserError
from worldmodel.model import WorldModel
from worldmodel.nets import MLP, BlockLinear, ChannelNorm, Conv, Head, ImageDecoder, ImageEncoder, NormedLinear, RMSNorm
from worldmodel.rssm import RSSM


class OfficialWeights:
    """Copies official weights into layers of ours; `unread` holds the names that nobody has asked for yet."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.unread = set(weights)

    def __call__(self, name: str) -> Tensor:
        if name not in self.weights:
            near = sorted(other for other in self.weights if other.startswith(name.split("/")[0]))
            raise UserError(f"the official weights lack '{name}'; they have {', '.join(near) or 'nothing like it'}")
        self.unread.discard(name)
        return torch.from_numpy(np.array(self.weights[name], np.float32))

    def copy(self, into: Tensor, value: Tensor, name: str) -> None:
        if into.shape != value.shape:
            raise UserError(
                f"'{name}' is {tuple(value.shape)} and has to be {tuple(into.shape)}: other sizes, or spaces"
            )
        with torch.no_grad():
            into.copy_(value)

    def linear(self, layer: nn.Linear, name: str) -> None:
        """Official kernels are (in, out)."""
        self.copy(layer.weight, self(f"{name}/kernel").T, name)
        self.copy(layer.bias, self(f"{name}/bias"), name)

    def block(self, layer: BlockLinear, name: str) -> None:
        self.copy(layer.weight, self(f"{name}/kernel"), name)
        self.copy(layer.bias, self(f"{name}/bias"), name)

    def conv(self, layer: nn.Module, name: str) -> None:
        assert isinstance(layer, Conv)
        self.copy(layer.weight, rearrange(self(f"{name}/kernel"), "h w i o -> o i h w"), name)
        if layer.bias is not None:
            self.copy(layer.bias, self(f"{name}/bias"), name)

    def norm(self, layer: RMSNorm, name: str) -> None:
        self.copy(layer.scale, self(f"{name}/scale"), name)

    def channel_norm(self, layer: nn.Module, name: str) -> None:
        assert isinstance(layer, ChannelNorm)
        self.norm(layer.norm, name)

    def normed(self, layer: nn.Module, linear: str, norm: str) -> None:
        assert isinstance(layer, NormedLinear)
        self.linear(layer.linear, linear)
        self.norm(layer.norm, norm)

    def mlp(self, layers: MLP, linear: str, norm: str) -> None:
        """Names are patterns: `{}` is the number of the layer."""
        for i, layer in enumerate(layers):
            self.normed(layer, linear.format(i), norm.format(i))

    def head(self, head: Head, name: str, out: str) -> None:
        self.mlp(head.mlp, f"{name}/mlp/linear{{}}", f"{name}/mlp/norm{{}}")
        self.linear(head.out, f"{name}/head/{out}")


def read_world_model(model: WorldModel, weights: Mapping[str, np.ndarray]) -> set[str]:
    """Copy encoder, RSSM, decoders, reward and continuation; returns the official names that were not needed.

    Raises:
        UserError: something is missing, or of another shape.
    """
    if model.carried or len(model.context):
        raise UserError("the official model carries no observation and knows no physics: carry=False, empty context")
    official = OfficialWeights(weights)
    official.mlp(model.encoder, "enc/mlp{}", "enc/mlp{}norm")
    if model.image_encoder is not None:
        _image_encoder(official, model.image_encoder)
    _rssm(official, model.rssm, model.image_encoder.outputs if model.image_encoder else 0)
    _vector_decoder(official, model)
    if model.image_decoder is not None:
        _image_decoder(official, model.image_decoder)
    official.head(model.reward, "rew", "logits")
    official.head(model.continuation, "con", "logit")
    return official.unread


def _rssm(official: OfficialWeights, rssm: RSSM, pixels: int) -> None:
    official.normed(rssm.in_deter, "dyn/dynin0", "dyn/dynin0norm")
    official.normed(rssm.in_stoch, "dyn/dynin1", "dyn/dynin1norm")
    official.normed(rssm.in_action, "dyn/dynin2", "dyn/dynin2norm")
    official.block(rssm.core, "dyn/dynhid0")
    official.norm(rssm.core_norm, "dyn/dynhid0norm")
    official.block(rssm.gates, "dyn/dyngru")
    prior, prior_out = rssm.prior
    assert isinstance(prior, MLP) and isinstance(prior_out, nn.Linear)
    official.mlp(prior, "dyn/prior{}", "dyn/prior{}norm")
    official.linear(prior_out, "dyn/priorlogit")
    # Their one map of deter, encoded vector and encoded image; the last by rows of the picture, ours by channels.
    kernel = official("dyn/obs0/kernel")
    deter = rssm.config.deter
    vector = len(kernel) - deter - pixels
    of_deter, of_vector, of_image = kernel.split([deter, vector, pixels])
    of_image = rearrange(of_image, "(h w c) o -> (c h w) o", h=4, w=4)
    official.copy(rssm.posterior_deter.weight, of_deter.T, "dyn/obs0/kernel")
    official.copy(rssm.posterior_tokens.weight, torch.cat([of_vector, of_image]).T, "dyn/obs0/kernel")
    official.copy(rssm.posterior_deter.bias, official("dyn/obs0/bias"), "dyn/obs0/bias")
    official.norm(rssm.posterior_norm, "dyn/obs0norm")
    official.linear(rssm.posterior_out, "dyn/obslogit")


def _image_encoder(official: OfficialWeights, encoder: ImageEncoder) -> None:
    for i, (conv, norm) in enumerate(zip(encoder.convs, encoder.norms, strict=True)):
        official.conv(conv, f"enc/cnn{i}")
        official.channel_norm(norm, f"enc/cnn{i}norm")


def _image_decoder(official: OfficialWeights, decoder: ImageDecoder) -> None:
    normed, out = decoder.stoch_in
    assert isinstance(out, nn.Linear)
    official.block(decoder.deter_in, "dec/sp0")
    official.normed(normed, "dec/sp1", "dec/sp1norm")
    official.linear(out, "dec/sp2")
    steps = [f"dec/conv{i}" for i in reversed(range(len(decoder.convs) - 1))]  # numbered from the picture inwards
    for norm, name in zip(decoder.norms, ["dec/sp", *steps], strict=True):
        official.channel_norm(norm, f"{name}norm")
    for conv, name in zip(decoder.convs, [*steps, "dec/imgout"], strict=True):
        official.conv(conv, name)


def _vector_decoder(official: OfficialWeights, model: WorldModel) -> None:
    """The means alone; several observations are one vector in the order of their names, as in the encoder."""
    official.mlp(model.decoder.mlp, "dec/mlp/linear{}", "dec/mlp/norm{}")
    first = model.decoder.mlp[0]
    assert isinstance(first, NormedLinear)
    stoch, deter = first.linear.weight.split([model.rssm.flat, model.config.rssm.deter], 1)
    official.copy(first.linear.weight, torch.cat([deter, stoch], 1), "dec/mlp/linear0")  # theirs has stoch first
    preds = sorted(name.removesuffix("/kernel") for name in official.weights if name.startswith("dec/vec/"))
    preds = [name for name in preds if not name.endswith("/bias")]
    kernel, bias = (torch.cat([official(f"{name}/{part}") for name in preds], -1) for part in ("kernel", "bias"))
    means = slice(model.spaces.vector)
    official.copy(model.decoder.out.weight[means], kernel.T, "dec/vec")
    official.copy(model.decoder.out.bias[means], bias, "dec/vec")
