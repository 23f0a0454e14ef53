import json

import numpy as np
import pytest

from dreaming.search import Axis, Space
from dreaming.territory import CALIBRATED, REFUSED, UNKNOWN, WIDENED, Cell, Territory

SLOPE = Axis("slope_deg", -8.0, 8.0, (-2.0, 2.0))  # cells of 0.8 degrees
PAYLOAD = Axis("payload_kg", 0.0, 2.0, (0.0, 0.5))  # of a tenth of a kilogram, above the logs only
SPACE = Space((SLOPE, PAYLOAD))
BELOW, ABOVE, HEAVIER = 0, 1, 3


@pytest.fixture
def territory() -> Territory:
    """Held-out logs vouch for slopes up to 4 degrees."""
    found = Territory(SPACE)
    found.calibrate(lambda points: (np.abs(points[:, 0]) <= 4.0) & (points[:, 1] <= 0.5))
    return found


def test_cells_begin_at_the_logs_and_end_with_the_space():
    territory = Territory(SPACE)
    assert [territory.cells(side) for side in range(4)] == [8, 8, 0, 15]
    assert territory.bounds(Cell(BELOW, 0)) == pytest.approx((-2.8, -2.0))
    assert territory.bounds(Cell(ABOVE, 7)) == pytest.approx((7.6, 8.0))  # what is left over
    assert territory.scenario(Cell(HEAVIER, 1), "hopper").physics_for("hopper") == {
        "payload_kg": (pytest.approx(0.6), pytest.approx(0.7))
    }


def test_nothing_beyond_the_logs_is_trusted_until_somebody_vouches_for_it():
    odd = Space((Axis("floor_friction", 0.07, 1.7, (0.15, 0.8)), SLOPE))
    assert (Territory(odd).ends() == np.stack(odd.logged())).all()


def test_calibration_is_asked_at_outer_ends_with_the_other_factors_in_the_middle(territory):
    # Cells end at 2.8, 3.6, 4.4 degrees: two lie wholly within 4.
    assert territory.standing[BELOW][:3] == territory.standing[ABOVE][:3] == [CALIBRATED, CALIBRATED, UNKNOWN]
    np.testing.assert_allclose(territory.ends(), [[-3.6, 0.0], [3.6, 0.5]])
    seen = []
    Territory(SPACE).calibrate(lambda points: seen.append(points) or np.zeros(len(points), bool))
    np.testing.assert_allclose(seen[0][:2], [[-2.8, 0.25], [-3.6, 0.25]])
    np.testing.assert_allclose(seen[0][-1], [0.0, 2.0])


def test_what_is_trusted_beyond_a_gap_does_not_count():
    territory = Territory(SPACE)
    territory.calibrate(lambda points: ~np.isclose(points[:, 0], 3.6))
    assert territory.ends()[1, 0] == pytest.approx(2.8)
    territory.judge(Cell(ABOVE, 2), True, "")
    assert territory.ends()[1, 0] == pytest.approx(2.8)
    territory.judge(Cell(ABOVE, 1), True, "")
    assert territory.ends()[1, 0] == pytest.approx(4.4)


def test_audits_widen_and_refuse_and_the_calibrated_border_stays_as_it_was(territory):
    territory.judge(Cell(ABOVE, 2), True, "well dreamt")
    territory.judge(Cell(BELOW, 1), False, "worse than standing still")
    assert territory.standing[ABOVE][2] == WIDENED and territory.standing[BELOW][1] == REFUSED
    np.testing.assert_allclose(territory.ends(), [[-2.8, 0.0], [4.4, 0.5]])
    np.testing.assert_allclose(territory.calibrated(), [[-3.6, 0.0], [3.6, 0.5]])
    assert territory.refusals() == [
        "not learnable from these logs: record some with slope_deg below -2.8 deg (worse than standing still)"
    ]


def test_a_world_beyond_the_logs_in_several_factors_inherits_from_each(territory):
    points = np.array([[3.0, 0.2], [3.0, 0.6], [3.7, 0.2], [0.0, 0.5]])
    assert territory.holds(points).tolist() == [True, False, False, True]
    territory.judge(Cell(HEAVIER, 0), True, "")
    assert territory.holds(points).tolist() == [True, True, False, True]
    assert territory.within().axes[1].high == pytest.approx(0.6)


def test_it_goes_on_from_its_state(territory):
    territory.judge(Cell(ABOVE, 2), True, "well dreamt")
    territory.judge(Cell(HEAVIER, 0), False, "not so")
    other = Territory(SPACE)
    other.load_state_dict(json.loads(json.dumps(territory.state_dict())))
    assert other.state_dict() == territory.state_dict() and other.looks == {Cell(ABOVE, 2): 1, Cell(HEAVIER, 0): 1}
    assert (other.ends() == territory.ends()).all()
