"""The transition: how the carried observation changes in a step and what that pays, from no memory at all."""

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.distributions import BINS
from worldmodel.nets import Head, products, products_size, within


def seen(before: Tensor, inputs: Tensor, actions: int, factors: int) -> Tensor:
    """What a network that takes a step is given: observation, action, their products, and the context's pairs."""
    action, pairs = inputs.split([actions, 2 * factors], -1)
    return torch.cat([products(torch.cat([within(before), action], -1)), pairs], -1)


def seen_size(channels: int, actions: int, factors: int) -> int:
    return products_size(channels + actions) + 2 * factors


def changed(out: Tensor, inputs: Tensor, channels: int, factors: int) -> tuple[Tensor, Tensor]:
    """A network's numbers (..., `outputs_size`) read as a change, linear in each factor, and its log deviation."""
    out = rearrange(out, "... (k d) -> ... k d", d=channels)
    pairs = inputs[..., inputs.shape[-1] - 2 * factors :]
    told = pairs[..., :factors]  # values, zero where unknown
    return out[..., 0, :] + torch.einsum("...c,...cd->...d", told, out[..., 2:, :]), out[..., 1, :]


def outputs_size(channels: int, factors: int) -> int:
    return channels * (2 + factors)


class Transition(nn.Module):
    """From a scaled observation (..., D), actions (..., A) and the context's pairs (..., 2C).

    The change is linear in each factor, as forces are, with coefficients that depend on the state: beyond the logs it
    goes on along a straight line.
    """

    def __init__(self, channels: int, actions: int, factors: int, units: int, layers: int) -> None:
        super().__init__()
        self.channels, self.actions, self.factors = channels, actions, factors
        inputs = seen_size(channels, actions, factors)
        self.head = Head(inputs, units, layers, outputs_size(channels, factors), outscale=0.1)
        self.pay = Head(products_size(channels), units, 2, BINS, outscale=0.0)

    def forward(self, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled change in a step and the logarithm of its standard deviation (..., D), in units of `step_std`.

        Args:
            inputs: (..., A + 2C) the RSSM's, as `WorldModel.action_input` makes them.
        """
        out = self.head(seen(before, inputs, self.actions, self.factors))
        return changed(out, inputs, self.channels, self.factors)

    def reward(self, arrived: Tensor) -> Tensor:
        """Two-hot logits (..., 255) of the reward for arriving at a scaled observation (..., D)."""
        return self.pay(products(within(arrived)))
