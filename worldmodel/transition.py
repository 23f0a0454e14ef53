"""The transition: how the carried observation changes in a step and what that pays, from no memory at all."""

import torch
from einops import rearrange
from torch import Tensor, nn

from worldmodel.distributions import BINS
from worldmodel.nets import Head, products, products_size


class Transition(nn.Module):
    """From a scaled observation (..., D), actions (..., A) and the context's pairs (..., 2C).

    The change is linear in each factor, as forces are, with coefficients that depend on the state: beyond the logs it
    goes on along a straight line.
    """

    def __init__(self, channels: int, actions: int, factors: int, units: int, layers: int) -> None:
        super().__init__()
        self.channels, self.actions, self.factors = channels, actions, factors
        inputs = products_size(channels + actions) + 2 * factors
        self.head = Head(inputs, units, layers, channels * (2 + factors), outscale=0.1)
        self.pay = Head(products_size(channels), units, 2, BINS, outscale=0.0)

    def forward(self, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled change in a step and the logarithm of its standard deviation (..., D), in units of `step_std`.

        Args:
            inputs: (..., A + 2C) the RSSM's, as `WorldModel.action_input` makes them.
        """
        action, pairs = inputs.split([self.actions, 2 * self.factors], -1)
        seen = products(torch.cat([before.clamp(-8, 8), action], -1))
        out = rearrange(self.head(torch.cat([seen, pairs], -1)), "... (k d) -> ... k d", d=self.channels)
        told = pairs[..., : self.factors]  # values, zero where unknown
        return out[..., 0, :] + torch.einsum("...c,...cd->...d", told, out[..., 2:, :]), out[..., 1, :]

    def reward(self, arrived: Tensor) -> Tensor:
        """Two-hot logits (..., 255) of the reward for arriving at a scaled observation (..., D)."""
        return self.pay(products(arrived.clamp(-8, 8)))
