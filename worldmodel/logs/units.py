"""Units that logs come in, as factors to SI."""

import math
import re

from configs import UserError

BASE = ("m", "s", "rad", "N", "Nm", "A", "V", "W", "Hz", "Pa", "g", "J", "K", "T")
PREFIX = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "c": 1e-2, "d": 1e-1, "": 1.0, "k": 1e3, "M": 1e6}
OTHER = {
    "deg": math.pi / 180,
    "°": math.pi / 180,
    "rev": 2 * math.pi,
    "turn": 2 * math.pi,
    "rpm": 2 * math.pi / 60,
    "min": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "day": 86400.0,
    "sec": 1.0,
    "in": 0.0254,
    "ft": 0.3048,
    "g0": 9.80665,  # accelerometers; plain g is the gram
    "%": 0.01,
    "1": 1.0,
    "": 1.0,
}
_PART = re.compile(r"([^\d^*]+|1)(?:\^|\*\*)?(-?\d)?", re.UNICODE)


def factor(unit: str) -> float:
    """What a number in this unit is multiplied by to be in SI: `factor("deg/s")` is 0.01745.

    Quotients and small powers are read: mm/s^2, kg m2 is not (one unit a side).
    """
    above, *below = unit.replace(" ", "").replace("²", "2").split("/")
    value = _power(above, unit)
    for part in below:
        value /= _power(part, unit)
    return value


def _power(text: str, unit: str) -> float:
    match = _PART.fullmatch(text) if text else None
    name = match[1] if match else text
    known = OTHER.get(name)
    if known is None:
        for base in BASE:
            if name.endswith(base) and name.removesuffix(base) in PREFIX:
                known = PREFIX[name.removesuffix(base)] * (1e-3 if base == "g" else 1.0)
                break
    if known is None:
        raise UserError(
            f'the unit "{unit}" is unknown; there are {", ".join(filter(None, OTHER))}, {", ".join(BASE)} '
            "with n, u, m, c, k or M before them, and their quotients; or give a `scale` instead"
        )
    return known ** int(match[2] or 1) if match else known
