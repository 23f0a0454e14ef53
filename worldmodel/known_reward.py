"""A reward that logs say themselves, as an expression over their channels: then it need not be learnt.

A network learns where a goal begins to pay from the few rows that lie just beside it, and beyond the logs nothing. What
the expression leaves out, the end of an episode say, the world model's heads learn as the rest. An episode says it as
`info["reward"]`; one that an import found no reward for says "none".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from worldmodel.logs.expression import NUMPY, Arithmetic, Expression
from worldmodel.storage import LogReader

EDGE = 0.05  # width of a comparison's slope, in standard deviations of what is compared, over the logs
ALIKE = 1e-3  # of the rewards' standard deviation: what counts as the same reward
BORNE_OUT = 0.98  # share of the logged rewards that have to be what the expression says


@dataclass(frozen=True)
class KnownReward:
    """What arriving at an observation pays, in the log's own units."""

    text: str
    channels: tuple[str, ...]  # of the observation
    commands: tuple[str, ...]
    low: tuple[float, ...]  # bounds of the commands
    high: tuple[float, ...]
    edges: tuple[float, ...] = ()  # width of the slope of each comparison, in the order in which they are worked out
    least: float = -np.inf  # it pays no less and no more than this, however far a dream strays
    most: float = np.inf

    @classmethod
    def of(cls, reader: LogReader, episodes: Sequence[int]) -> "KnownReward | None":
        """What these episodes say; None if they say nothing.

        Raises:
            UserError: they do not all say the same, it is not understood, or the logged rewards do not bear it out.
        """
        said = [reader.episodes[i]["info"].get("reward") for i in episodes]
        texts = {text for text in said if isinstance(text, str) and text != "none"}
        names, action = reader.schema["observation"]["vector"].get("names"), reader.schema["action"]
        if not texts or not names:
            return None
        if len(texts) > 1 or len({str(text) for text in said}) > 1:
            raise UserError("episodes do not all say the same of what a step pays")
        low, high = (tuple(float(bound) for bound in action[key]) for key in ("low", "high"))
        found = cls(texts.pop(), tuple(names), tuple(action["names"]), low, high)
        return found._held_to(reader, episodes)

    def _held_to(self, reader: LogReader, episodes: Sequence[int]) -> "KnownReward":
        """With what the logs show of its comparisons and its range."""
        ended = [e["start"] + e["length"] for e in (reader.episodes[i] for i in episodes) if e["terminated"]]
        rows, begins = reader.some_rows(episodes)
        after = rows[~begins & ~np.isin(rows, ended)]  # what an end pays beside is left to be learnt
        vector, paid = reader.spikes.mend(reader.rows["vector"][after], after), reader.rows["reward"][after - 1]
        edges: list[float] = []

        def compared(compare: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
            edges.append(EDGE * float(np.std(left - right)))
            return NUMPY.compared(compare, left, right)

        says = self._worked_out(vector, reader.rows["action"][after - 1], NUMPY._replace(compared=compared))
        with np.errstate(all="ignore"):
            alike = np.abs(says - paid) <= ALIKE * np.std(paid) + 1e-5 * np.abs(paid)
        if not len(paid) or alike.mean() < BORNE_OUT:
            raise UserError(
                f"{len(paid) - int(alike.sum())} of {len(paid)} rewards are not what the logs say that a step pays, "
                f"{self._expression}"
            )
        least, most = float(says[alike].min()), float(says[alike].max())
        beyond, widths = most - least, tuple(edge if np.isfinite(edge) else 0.0 for edge in edges)
        return replace(self, text=str(self._expression), edges=widths, least=least - beyond, most=most + beyond)

    @cached_property
    def _expression(self) -> Expression:
        return Expression.parse(self.text, [*self.channels, *self.commands])

    def _worked_out(self, vector: np.ndarray, action: np.ndarray, arithmetic: Arithmetic) -> np.ndarray:
        columns = [*vector.T.astype(np.float64), *action.T.astype(np.float64)]
        values = dict(zip([*self.channels, *self.commands], columns, strict=True))
        with np.errstate(all="ignore"):
            found = np.asarray(self._expression.evaluate(values, arithmetic), np.float64)
        return np.broadcast_to(found, len(vector))

    def rest(self, reward: np.ndarray, vector: np.ndarray, action: np.ndarray) -> np.ndarray:
        """What the heads are to say of logged rewards (...) for arriving at `vector` (..., D) by `action`.

        Args:
            action: (..., A) in the log's own units, as it was when the reward was reckoned.
        """
        says = self._worked_out(vector.reshape(-1, vector.shape[-1]), action.reshape(-1, action.shape[-1]), NUMPY)
        says = says.reshape(reward.shape)
        return np.where(np.isfinite(says), reward - says, reward).astype(np.float32)

    def __call__(self, vector: Tensor, action: Tensor) -> Tensor:
        """Rewards (...) for arriving at observations (..., D) by commands (..., A), shares of their bounds in [-1, 1].

        With gradients in both. A comparison has those of a slope at its edge, which say on which side it pays.
        """
        values = dict(zip(self.channels, vector.unbind(-1), strict=True))
        for name, given, low, high in zip(self.commands, action.unbind(-1), self.low, self.high, strict=True):
            values[name] = (low + high) / 2 + given * ((high - low) / 2 if high > low else 1.0)
        edges = iter(self.edges)
        arithmetic = TORCH._replace(compared=lambda how, left, right: _compared(how, left, right, next(edges, 0.0)))
        found = self._expression.evaluate(values, arithmetic).to(vector.device).expand(vector.shape[:-1])
        return torch.nan_to_num(found, nan=0.0).clamp(self.least, self.most)


def _root(value: Tensor) -> Tensor:
    """Whose gradient at nothing is nothing."""
    return torch.sqrt(value.clamp(min=torch.finfo(value.dtype).tiny))


def _compared(compare: Callable[[Any, Any], Any], left: Tensor, right: Tensor, width: float) -> Tensor:
    """1 where it holds, else 0; with the gradient of a sigmoid of that width."""
    holds = compare(left, right).to(torch.float32)
    if not torch.is_grad_enabled() or width <= 0:
        return holds
    slope = torch.sigmoid((left - right if compare(1.0, 0.0) else right - left) / width)
    return holds + torch.where(slope.isfinite(), slope - slope.detach(), 0.0)


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
        "min": lambda *values: reduce(torch.minimum, values),
        "max": lambda *values: reduce(torch.maximum, values),
    },
    compared=lambda compare, left, right: _compared(compare, left, right, 0.0),
)
