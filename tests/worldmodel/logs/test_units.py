import math

import pytest

from configs import UserError
from worldmodel.logs.units import factor


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("deg", math.pi / 180),
        ("deg/s", math.pi / 180),
        ("rpm", math.pi / 30),
        ("ms", 1e-3),
        ("us", 1e-6),
        ("ns", 1e-9),
        ("mm/s^2", 1e-3),
        ("mm/s²", 1e-3),
        ("km/h", 1 / 3.6),
        ("mNm", 1e-3),
        ("kg", 1.0),
        ("g", 1e-3),
        ("1/min", 1 / 60),
        ("cm2", 1e-4),
        ("%", 0.01),
    ],
)
def test_to_si(unit, expected):
    assert factor(unit) == pytest.approx(expected)


@pytest.mark.parametrize("unit", ["furlong", "m/fortnight", "/", "deg//s", "m^99"])
def test_an_unknown_unit_lists_what_there_is(unit):
    with pytest.raises(UserError, match="is unknown; there are deg, .* or give a `scale`"):
        factor(unit)
