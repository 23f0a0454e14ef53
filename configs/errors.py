"""Mistakes a user can make and mend."""

import difflib
from collections.abc import Iterable

SEEDS = 2**31  # so many: products with some thousands still fit what generators of random numbers take

class UserError(Exception):
    """One clear line that names the offender and what would have worked. Commands print it and exit with code 2."""


def suggest(name: object, options: Iterable[str]) -> str:
    """Says that `name` is unknown, which option comes closest, and what there is.

    >>> suggest("slipery", ["payload", "slippery"])
    '"slipery" is unknown; did you mean "slippery"? There are: payload, slippery'
    """
    options = list(options)
    if not options:
        return f'"{name}" is unknown; there are none'
    by_lower_case = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(name).lower().replace("_", "-"), by_lower_case, n=1, cutoff=0.6)
    close = close or difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.6)
    guess = f'; did you mean "{by_lower_case[close[0]]}"?' if close else "."
    return f'"{name}" is unknown{guess} There are: {", ".join(options)}'


def check_seed(seed: int) -> None:
    """Raises:
    UserError: what is asked for with --seed is no seed.
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"--seed is {seed}; give 0 to {SEEDS - 1}")
