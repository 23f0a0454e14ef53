"""Which physics explains what was seen? Candidates, weighed by how likely the transition holds each step under them.

The transition remembers nothing and takes the physics it is told, so that what it foretells under each candidate can be
held against what came. On held-out logs that told a floor's friction far better than the context head, which has to
learn from labels how memory looks on each floor.

Letters: N machines, P candidates, C factors, D channels.
"""

import torch
from torch import Tensor

from worldmodel.context import PUSH
from worldmodel.model import WorldModel
from worldmodel.transition import Transition

CANDIDATES = 128
TEMPER = 0.2  # steps in a row err alike, and do not tell as much as so many separate ones
FORGET = 0.99  # what is as old as 100 steps counts a third: floors change
FREEDOM = 3.0  # of the Student distribution: a blow that comes one step late says little of the floor
FLOOR = 0.05  # least standard deviation, scaled as the context


class Inference:
    """Keeps the weights of the candidates, which cover the logs' range evenly; pushes, which pass, are left to none."""

    def __init__(self, model: WorldModel, transition: Transition, n: int) -> None:
        self.model, self.transition = model, transition
        factors = len(model.context)
        drawn = torch.quasirandom.SobolEngine(factors, scramble=True, seed=0).draw(CANDIDATES).to(model.mean)
        self.candidates = 2 * drawn - 1  # (P, C)
        if PUSH in model.context.names:
            self.candidates[:, model.context.names.index(PUSH)] = 0
        self.pairs = torch.cat([self.candidates, torch.ones_like(self.candidates)], -1)
        self.score = model.mean.new_zeros(n, CANDIDATES)
        self.before = model.mean.new_zeros(n, model.spaces.vector)

    def step(self, scaled: Tensor, command: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, C), scaled as the context, after observations (N, D) and commands (N, A)."""
        n = len(scaled)
        before = self.before.unsqueeze(1).expand(-1, CANDIDATES, -1)
        action = command.unsqueeze(1).expand(-1, CANDIDATES, -1)
        inputs = torch.cat([action, self.pairs.expand(n, -1, -1)], -1)
        change, log_std = self.transition(before, inputs)
        log_std = self.model.floored(log_std)
        off = ((scaled - self.before) / self.model.step_std).unsqueeze(1) - change
        likely = -(FREEDOM + 1) / 2 * torch.log1p((off * torch.exp(-log_std)) ** 2 / FREEDOM) - log_std  # (N, P, D)
        self.score = torch.where(is_first.unsqueeze(-1), 0.0, FORGET * self.score + TEMPER * likely.sum(-1))
        self.before = scaled
        weight = torch.softmax(self.score, -1)
        mean = weight @ self.candidates
        spread = (weight @ self.candidates**2 - mean**2).clamp(min=0).sqrt()
        return mean, spread + FLOOR
