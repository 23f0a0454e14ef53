"""The ensemble: networks like the transition that share nothing. Where they disagree, the logs have not settled it.

Ensembles on a shared trunk were measured to go blind exactly before a fall (a robot walks into what no log holds, and
the trunk has one opinion on it). Sources: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty
Estimation using Deep Ensembles" (2017); Chua et al., "Deep Reinforcement Learning in a Handful of Trials" (2018).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.fused import RMS_EPS
from worldmodel.nets import truncated_normal_
from worldmodel.transition import changed, outputs_size, seen, seen_size

UNITS, LAYERS = 64, 2


class Ensemble(nn.Module):
    """K members side by side, each a small Transition without the reward: weights are (K, in, out).

    Letters: N rows, D channels, A actions, C factors, I = A + 2C inputs.
    """

    def __init__(self, members: int, channels: int, actions: int, factors: int) -> None:
        super().__init__()
        self.members, self.channels, self.actions, self.factors = members, channels, actions, factors
        sizes = [seen_size(channels, actions, factors), *[UNITS] * LAYERS]
        pairs = zip(sizes, [*sizes[1:], outputs_size(channels, factors)], strict=True)
        self.weights = nn.ParameterList(torch.empty(members, n, m) for n, m in pairs)
        self.biases = nn.ParameterList(torch.zeros(members, 1, weight.shape[-1]) for weight in self.weights)
        self.scales = nn.ParameterList(torch.ones(members, 1, UNITS) for _ in range(LAYERS))
        for weight in self.weights:
            truncated_normal_(weight, weight.shape[1])

    def forward(self, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Changes and their log standard deviations (K, N, D) as the Transition gives them, each member its own.

        Args:
            before: (K, N, D) scaled observations, or (1, N, D) the same for all.
            inputs: (K, N, I) or (1, N, I), of `WorldModel.action_input`.
        """
        x = seen(before, inputs, self.actions, self.factors)
        *hidden, (last, bias) = zip(self.weights, self.biases, strict=True)
        for (weight, offset), scale in zip(hidden, self.scales, strict=True):
            x = F.silu(F.rms_norm(x @ weight + offset, (UNITS,), eps=RMS_EPS) * scale)
        return changed(x @ last + bias, inputs, self.channels, self.factors)

    def disagreement(self, before: Tensor, inputs: Tensor) -> Tensor:
        """Standard deviation (..., D) of the members' expected changes, in units of `step_std`.

        Of the expected ones only: what all call noise, no further log would settle.

        Args:
            before: (..., D) scaled observations.
            inputs: (..., I)
        """
        flat = (x.reshape(1, -1, x.shape[-1]) for x in (before, inputs))
        change, _ = self(*flat)
        # Not `std`, whose gradient is not finite where all agree.
        return (change.var(0) + 1e-12).sqrt().reshape(before.shape)
