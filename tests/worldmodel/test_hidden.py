"""Hidden factors: found again where they are known, with the uncertainty that they deserve."""

import numpy as np
import pytest

from configs import UserError
from worldmodel.hidden import AHEAD, BACK, HiddenFactors

DRAG = {"ice": 0.02, "snow": 0.06, "asphalt": 0.1, "gravel": 0.14, "sand": 0.18}


def slid(floors, seed=0, rows=30):
    """Masses that a held command pushes and the floor's drag slows: windows (N, T, 1), commands (N, T, 1)."""
    rng = np.random.default_rng(seed)
    drag = np.array([DRAG[floor] for floor in floors])
    speed, command = rng.normal(0, 2, len(floors)), rng.normal(0, 1, len(floors))
    seen = []
    for _ in range(rows):
        seen.append(speed)
        speed = speed + 0.2 * command - drag * speed + 0.02 * rng.normal(size=len(floors))
    return np.stack(seen, 1)[..., None], np.repeat(command[:, None, None], rows, 1)


@pytest.fixture(scope="module")
def found():
    floors = np.repeat(list(DRAG), 40)
    return HiddenFactors.find(*slid(floors), floors)


def test_values_order_the_floors_by_their_drag(found):
    values = np.array([found.values[floor][0] for floor in DRAG])
    assert abs(np.corrcoef(values, list(DRAG.values()))[0, 1]) > 0.98
    assert values.mean() == pytest.approx(0, abs=1e-9)
    assert values.std() == pytest.approx(1)


@pytest.mark.parametrize("floor", ["ice", "sand"])
def test_a_new_window_tells_its_floor(found, floor):
    value, std = found.infer(*slid(np.repeat(floor, 60), seed=1))
    others = [v[0] for name, v in found.values.items() if name != floor]
    nearest = np.abs(np.median(value) - np.array(others)).min()
    assert abs(np.median(value) - found.values[floor][0]) < nearest
    assert (std > 0).all()
    assert (std < 1).all()


def test_a_machine_at_rest_tells_nothing(found):
    rows = BACK + AHEAD + 3
    centre = np.tile(found.centre, (1, rows, 1))
    value, std = found.infer(centre[..., :1], centre[..., 1:])
    assert abs(value[0, 0]) < 0.5
    assert std[0, 0] > 0.9


def test_what_cannot_be_found_is_said():
    floors = np.repeat(["ice"], 4)
    with pytest.raises(UserError, match="1 groups"):
        HiddenFactors.find(*slid(floors), floors)
    floors = np.repeat(["ice", "sand"], 4)
    with pytest.raises(UserError, match="must have 16"):
        HiddenFactors.find(*slid(floors, rows=15), floors)
