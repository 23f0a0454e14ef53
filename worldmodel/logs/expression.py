"""A reward as a small expression over named channels: `-(theta1_rad**2) - 0.01*tau_Nm**2`.

Numbers, the channels' names, + - * / ** and comparisons (1 where true, else 0), and a few functions. Nothing else is
understood, so nothing else can run.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs import UserError, suggest

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "min": lambda *values: np.minimum.reduce(np.broadcast_arrays(*values)),
    "max": lambda *values: np.maximum.reduce(np.broadcast_arrays(*values)),
}
_BINARY: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type, Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
LONGEST = 2000  # characters
DEEPEST = 100  # parts within parts
LARGEST = 1e300  # a number
TOO_DEEP = "the reward is nested too deeply; write it shorter"
ALLOWED = f"numbers, channels, + - * / ** < <= > >=, {', '.join(FUNCTIONS)}"


@dataclass(frozen=True)
class Expression:
    """A checked expression. Calling it gives (T,) float64."""

    text: str
    channels: tuple[str, ...]
    """Those that it uses."""
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, channels: Sequence[str]) -> "Expression":
        """Raises: UserError that names the part that is not allowed, or the channel that there is not."""
        if len(text) > LONGEST:
            raise UserError(f"the reward is {len(text)} characters long; at most {LONGEST} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            used = _check(tree, text.strip(), channels)
        except (SyntaxError, ValueError) as error:
            place = f" at {error.text.strip()!r}" if isinstance(error, SyntaxError) and error.text else ""
            raise UserError(f"the reward {text!r} cannot be read{place}: {getattr(error, 'msg', error)}") from None
        except (RecursionError, MemoryError):  # Python's own parser
            raise UserError(TOO_DEEP) from None
        return cls(text, tuple(used), tree)

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Args: values: (T,) by channel."""
        length = len(next(iter(values.values())))
        doubles = {name: np.asarray(values[name], np.float64) for name in self.channels}
        with np.errstate(all="ignore"):  # what is not finite is the caller's to report, with its place
            return np.broadcast_to(np.asarray(_evaluate(self._tree, doubles), np.float64), (length,)).copy()


def _check(node: ast.expr, text: str, channels: Sequence[str]) -> dict[str, None]:
    """The channels used, in order."""

    def refuse(what: str) -> UserError:
        return UserError(f"the reward {text!r}: {what}; it may hold {ALLOWED}")

    def part(of: ast.expr) -> str:
        return repr(ast.get_source_segment(text, of) or ast.unparse(of))

    def walk(of: ast.expr, depth: int = 0) -> dict[str, None]:
        if depth > DEEPEST:
            raise UserError(TOO_DEEP)
        match of:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                if abs(value) > LARGEST:
                    raise refuse(f"{part(of)[:20]} is larger than {LARGEST:g}")
                return {}
            case ast.Name(id=name):
                if name not in channels:
                    raise UserError(f"the reward {text!r}: channel {suggest(name, channels)}")
                return {name: None}
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                return walk(inner, depth + 1)
            case ast.BinOp(left=left, op=op, right=right):
                if type(op) not in _BINARY:
                    raise refuse(f"{part(of)} uses an operator that is not allowed")
                return walk(left, depth + 1) | walk(right, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(type(op) not in _COMPARE for op in ops) or len(ops) != 1:
                    raise refuse(f"{part(of)} compares in a way that is not allowed")
                return walk(left, depth + 1) | walk(others[0], depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                if name not in FUNCTIONS:
                    raise UserError(f"the reward {text!r}: function {suggest(name, FUNCTIONS)}")
                if not (len(arguments) >= 2 if name in ("min", "max") else len(arguments) == 1):
                    raise refuse(f"{part(of)} has {len(arguments)} arguments")
                return {key: None for argument in arguments for key in walk(argument, depth + 1)}
        raise refuse(f"{part(of)} is not allowed")

    return walk(node)


def _evaluate(node: ast.expr, values: Mapping[str, np.ndarray]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return np.float64(value)
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=inner):
            value = _evaluate(inner, values)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return np.asarray(_COMPARE[type(op)](_evaluate(left, values), _evaluate(right, values)), np.float64)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(_evaluate(argument, values) for argument in arguments))
    raise AssertionError(f"{ast.dump(node)} was not checked")
