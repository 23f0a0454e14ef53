"""The transition: how the carried observation changes in a step, from what a simulator sees and from no memory."""

import torch
from einops import rearrange
from torch import Tensor

from worldmodel.nets import Head


class Transition(Head):
    """From a scaled observation (..., D), actions (..., A) and the context's pairs (..., 2C).

    The change is linear in each factor, as forces are, with coefficients that depend on the state: beyond the logs it
    goes on along a straight line.
    """

    def __init__(self, channels: int, actions: int, factors: int, units: int, layers: int) -> None:
        super().__init__(channels + actions + 2 * factors, units, layers, channels * (2 + factors), outscale=0.1)
        self.channels, self.actions, self.factors = channels, actions, factors

    def forward(self, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The scaled change in a step and the logarithm of its standard deviation (..., D), in units of `step_std`.

        Args:
            inputs: (..., A + 2C) the RSSM's, as `WorldModel.action_input` makes them.
        """
        out = super().forward(torch.cat([before.clamp(-8, 8), inputs], -1))
        out = rearrange(out, "... (k d) -> ... k d", d=self.channels)
        told = inputs[..., self.actions : self.actions + self.factors]  # values, zero where unknown
        return out[..., 0, :] + torch.einsum("...c,...cd->...d", told, out[..., 2:, :]), out[..., 1, :]
