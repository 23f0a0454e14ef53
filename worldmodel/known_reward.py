"""A reward that logs say themselves, as an expression over their channels: then it need not be learnt.

Where a goal begins to pay a network learns from the few rows that lie just beside it, and a policy that hurries stops
where it errs. What the expression leaves out, the end of an episode say, the world model's heads learn as the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor

from configs import UserError
from worldmodel.logs.expression import Arithmetic, Expression
from worldmodel.storage import LogReader

EDGE = 0.05  # width of a comparison's slope, in standard deviations of the difference between its sides


@dataclass(frozen=True)
class KnownReward:
    """What arriving at an observation pays, in the log's own units."""

    text: str
    channels: tuple[str, ...]  # of the observation
    commands: tuple[str, ...]
    low: tuple[float, ...]  # bounds of the commands
    high: tuple[float, ...]

    @classmethod
    def of(cls, reader: LogReader, episodes: Sequence[int]) -> "KnownReward | None":
        """None where these episodes do not all say the same, or say nothing that is understood."""
        texts = {str(reader.episodes[i]["info"].get("reward", "")) for i in episodes}
        names, action = reader.schema["observation"]["vector"].get("names"), reader.schema["action"]
        if len(texts) != 1 or not names:
            return None
        bounds = (tuple(float(bound) for bound in action[key]) for key in ("low", "high"))
        found = cls(texts.pop(), tuple(names), tuple(action["names"]), *bounds)
        try:
            return found if found._expression else None
        except UserError:
            return None

    @cached_property
    def _expression(self) -> Expression:
        return Expression.parse(self.text, [*self.channels, *self.commands])

    def __call__(self, vector: Tensor, action: Tensor) -> Tensor:
        """Rewards (...) for arriving at observations (..., D) by commands (..., A), shares of their bounds in [-1, 1].

        With gradients in both. A comparison has those of a slope at its edge, which say on which side it pays.
        """
        low, high = (torch.tensor(bound, device=action.device) for bound in (self.low, self.high))
        commanded = low + (action + 1) / 2 * (high - low)
        columns = [*vector.unbind(-1), *commanded.unbind(-1)]
        values = dict(zip([*self.channels, *self.commands], columns, strict=True))
        return self._expression.evaluate(values, TORCH).expand(vector.shape[:-1])


def _root(value: Tensor) -> Tensor:
    """Whose gradient at nothing is nothing."""
    return torch.sqrt(value.clamp(min=torch.finfo(value.dtype).tiny))


def _compared(compare: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """1 where it holds, else 0; with the gradient of a sigmoid."""
    holds = compare(left, right).to(torch.float32)
    if not torch.is_grad_enabled():
        return holds
    apart = left - right
    width = EDGE * apart.detach().std(correction=0)
    slope = torch.sigmoid(apart / width.clamp(min=torch.finfo(width.dtype).tiny))
    slope = slope if compare(torch.ones(()), torch.zeros(())) else -slope
    return holds + (slope - slope.detach())


def _least(*values: Tensor) -> Tensor:
    return reduce(torch.minimum, values)


def _greatest(*values: Tensor) -> Tensor:
    return reduce(torch.maximum, values)


def _number(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


TORCH = Arithmetic(
    number=_number,
    functions={
        "sin": torch.sin,
        "cos": torch.cos,
        "tanh": torch.tanh,
        "exp": torch.exp,
        "sqrt": _root,
        "abs": torch.abs,
        "min": _least,
        "max": _greatest,
    },
    compared=_compared,
)
