"""A reward as a Python function of the user's own, `reward(observation, action)` over named channels, in a small file.

The file runs with all that Python can do. So it is only ever read if the user named it: on the command line, or in a
mapping that the user gave and that does not lie with the logs (`worldmodel.logs.mapping.find_mapping`).
"""

import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError

NAME = "reward"


class RewardFunction:
    """The function that a file defines. `observation` is what was seen after each step, `action` what led there.

    Both are dicts of (T,) float64 arrays by channel, T steps of one episode; it returns (T,) numbers, one a step.

    Raises:
        UserError: there is no such file or function, or it cannot be read; the message names file and line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"{path} does not exist; it should define {NAME}(observation, action)")
        module = types.ModuleType(path.stem)
        module.__file__ = str(path)
        try:
            # Not imported, as that would leave a __pycache__ beside the user's file.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        except SyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
        except (Exception, SystemExit) as error:
            raise UserError(f"{self._place(error)}: {_said(error)}") from None
        function = getattr(module, NAME, None)
        if not callable(function):
            raise UserError(f"{path} defines no function {NAME}; write: def {NAME}(observation, action): ...")
        self._function: Callable[..., Any] = function
        code = getattr(function, "__code__", None)
        self.line = code.co_firstlineno if code is not None and code.co_filename == str(path) else 1
        self._episodes, self._low, self._high = 0, np.inf, -np.inf

    def __call__(
        self, observation: Mapping[str, np.ndarray], action: Mapping[str, np.ndarray], where: str
    ) -> np.ndarray:
        """(T,) float64, of the next episode.

        Args:
            where: the recording, for messages.
        """
        where = f"episode {self._episodes} ({where})"
        self._episodes += 1
        length = len(next(iter(observation.values())))
        # Copies: what the function does to its arguments stays there.
        given = [{name: np.array(value, np.float64) for name, value in one.items()} for one in (observation, action)]
        try:
            with np.errstate(all="ignore"):  # what is not finite is reported below, with its place
                reward = np.asarray(self._function(*given))
                if reward.dtype.kind not in "fiub":
                    raise TypeError(f"it returns {reward.dtype}, expected numbers")
        except (Exception, SystemExit) as error:
            known = f"; observation has {_listed(given[0])}, action {_listed(given[1])}" * isinstance(error, KeyError)
            raise UserError(f"{self._place(error)}: {_said(error)}{known} (in {where})") from None
        at = f"{self.path}, line {self.line}: in {where}, {NAME}"
        if reward.shape != (length,):
            raise UserError(f"{at} returns the shape {reward.shape}, expected ({length},): one number a step")
        reward = reward.astype(np.float64)
        if not np.isfinite(reward).all():
            row = int(np.flatnonzero(~np.isfinite(reward))[0])
            held = ", ".join(f"{name} {value[row]:g}" for one in (observation, action) for name, value in one.items())
            raise UserError(f"{at} is {reward[row]} in row {row} ({held})")
        self._low, self._high = min(self._low, reward.min()), max(self._high, reward.max())
        return reward

    def check_varies(self, data: Path) -> None:
        """After all logs. Raises: UserError: it gave the same everywhere, and nothing can be learnt from that."""
        if self._low == self._high:
            raise UserError(
                f"{self.path}, line {self.line}: {NAME} is {self._low:g} in every row of every episode of {data}; "
                "a policy has nothing to learn from it"
            )

    def _place(self, error: BaseException) -> str:
        """The file, and the last of its lines that took part."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f"{self.path}, line {lines[-1] if lines else getattr(self, 'line', 1)}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)
