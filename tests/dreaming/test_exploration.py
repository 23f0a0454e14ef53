import json

import numpy as np
import pytest
from report_fixture import make_report

from configs import UserError
from dreaming.exploration import FAR, Exploration, Verdict, fits, found_scenarios
from dreaming.findings import explored
from dreaming.report.explored import explored_section
from dreaming.scenario import asked
from dreaming.search import Axis, Space
from dreaming.territory import REFUSED, Cell

SLOPE = Axis("slope_deg", -8.0, 8.0, (-2.0, 2.0))
PAYLOAD = Axis("payload_kg", 0.0, 2.0, (0.0, 0.5))
SPACE = Space((SLOPE, PAYLOAD))
TASK = "hopper"


def steep(space: Space, points: np.ndarray) -> np.ndarray:
    """Fails the more, the steeper uphill; by half at 4 degrees."""
    assert "slope_deg" in space.names  # what matters is never left out
    return np.clip(points[:, space.names.index("slope_deg")] / 8, 0, 1)


def nowhere(space: Space, points: np.ndarray) -> np.ndarray:
    return np.zeros(len(points))


def honest(scenario, look) -> Verdict:
    """Dreams come true up to 5 degrees and 1 kg."""
    (low, high), *_ = scenario.physics_for(TASK).values()
    most = 5.0 if "slope_deg" in scenario.physics_for(TASK) else 1.0
    return Verdict(max(abs(low), abs(high)) <= most, f"looked at {look} times before")


def explore(exploration: Exploration, turns: int, audit=honest) -> None:
    for _ in range(turns):
        exploration.think()
        exploration.survey(audit)


def test_the_reach_never_leaves_the_territory_and_refused_cells_are_never_dreamt():
    rng = np.random.default_rng(0)
    exploration = Exploration(SPACE, TASK, lambda space, points: rng.uniform(0, 0.7, len(points)))
    fickle = lambda scenario, look: Verdict(rng.random() < 0.7, "")  # noqa: E731
    withdrawn = False
    for _ in range(150):
        before = exploration.territory.ends()
        explore(exploration, 1, fickle)
        low, high = exploration.territory.ends()
        withdrawn |= bool((low > before[0]).any() or (high < before[1]).any())
        assert (exploration.reach.ends[0] >= low).all() and (exploration.reach.ends[1] <= high).all()
        refused = [
            exploration.territory.bounds(Cell(side, number))
            for side in (0, 1) for number, one in enumerate(exploration.territory.standing[side]) if one == REFUSED
        ]  # fmt: skip
        for scenario in exploration.scenarios():
            ranges = scenario.physics_for(TASK)
            corners = [ranges.get("slope_deg", (0.0, 0.0)), ranges.get("payload_kg", (0.0, 0.0))]
            assert exploration.territory.holds(np.array(corners).T).all()
            for a, b in refused:
                assert corners[0][1] <= a + 1e-9 or corners[0][0] >= b - 1e-9
    assert withdrawn


def test_dreams_grow_to_where_audits_bear_them_out():
    exploration = Exploration(SPACE, TASK, nowhere)
    explore(exploration, 200)
    # Cells end at 4.4 degrees before 5, and at 1 kg.
    np.testing.assert_allclose(exploration.territory.ends(), [[-4.4, 0.0], [4.4, 1.0]])
    np.testing.assert_allclose(exploration.reach.ends, [[-4.4, 0.0], [4.4, 1.0]])
    assert [s.name for s in exploration.scenarios()] == ["reach"]  # as nothing fails anywhere
    assert "record some with slope_deg above 4.4 deg (looked at" in exploration.territory.refusals()[1]


def test_no_cell_is_audited_that_the_policy_has_not_come_to():
    exploration, asked_for = Exploration(SPACE, TASK, steep), []

    def audit(scenario, look):
        asked_for.append((scenario.name, look))
        return Verdict(True, "")

    explore(exploration, 100, audit)
    uphill = {name for name, _ in asked_for if name.startswith("slope_deg") and not name.startswith("slope_deg -")}
    # By half it fails at 4 degrees: the reach stops at 4.4, and the next cell is looked at no more than that.
    assert exploration.reach.ends[1, 0] == pytest.approx(4.4)
    assert uphill == {"slope_deg 2 to 2.8", "slope_deg 2.8 to 3.6", "slope_deg 3.6 to 4.4", "slope_deg 4.4 to 5.2"}
    assert exploration.failing[1] == pytest.approx(0.55)
    # The side where it fails most comes first, and a second look takes other seeds.
    assert asked_for[0][0] == "slope_deg -2.8 to -2" or asked_for[0][1] == 0
    assert max(look for _, look in asked_for) > 0


def test_worst_worlds_are_searched_for_and_proposed_within_reach():
    exploration = Exploration(SPACE, TASK, steep)
    exploration.territory.calibrate(lambda points: np.ones(len(points), bool))
    for _ in range(10):
        exploration.think()
    assert exploration.archive is not None
    (first, *_) = exploration.proposed()
    low, high = first.physics_for(TASK)["slope_deg"]  # pyright: ignore[reportGeneralTypeIssues]
    assert low >= 2.0 and high <= 4.4 + 1e-9


def test_trials_are_on_the_sides_where_the_first_policy_failed_and_stay_the_same():
    exploration = Exploration(SPACE, TASK, steep)
    assert [s.name for s in exploration.trials()] == ["slope_deg above 2"]
    (trial,) = exploration.trials()
    assert trial.physics_for(TASK)["slope_deg"] == (pytest.approx(2.0), pytest.approx(2.0 + FAR * 0.8))
    exploration.imagined = lambda space, points: points[:, 1]
    assert exploration.trials() == [trial]
    # Payloads begin at none in the logs, and nobody carries less.
    exploration = Exploration(SPACE, TASK, lambda space, points: np.full(len(points), 0.5))
    assert "payload_kg below 0" not in [s.name for s in exploration.trials()]


def test_it_begins_with_something_to_dream_where_it_may():
    exploration = Exploration(SPACE, TASK, steep)
    exploration.territory.calibrate(lambda points: np.abs(points[:, 0]) < 3.0)
    exploration.begin()
    assert [s.name for s in exploration.scenarios()] == ["slope_deg above 2"]
    assert Exploration(SPACE, TASK, steep).scenarios() == []


def test_it_goes_on_to_the_same_numbers():
    whole = Exploration(SPACE, TASK, steep, seed=3)
    explore(whole, 30)
    state = json.loads(json.dumps(whole.state_dict()))
    other = Exploration(SPACE, TASK, steep, seed=9)
    assert fits(state, SPACE) and not fits(state, Space((SLOPE,))) and not fits({}, SPACE)
    other.load_state_dict(state)
    for exploration in (whole, other):
        explore(exploration, 40)
    assert other.state_dict() == whole.state_dict()
    assert found_scenarios(state, TASK) and found_scenarios({}, TASK) == []


def test_another_night_begins_where_the_last_one_had_got_to_and_believes_none_of_its_audits():
    last = Exploration(SPACE, TASK, nowhere)
    explore(last, 200)
    night = Exploration(SPACE, TASK, nowhere)
    night.territory.calibrate(lambda points: points[:, 0] <= 3.7)
    night.begin_anew(last.state_dict())
    np.testing.assert_allclose(night.reach.ends, [[-4.4, 0.0], [3.6, 1.0]])
    assert night.tried is None and not night.territory.reasons


def test_a_night_is_asked_to_search_alone_or_beside_what_is_written():
    assert asked("search", "hopper") == ([], True)
    written, searches = asked("slippery, search", "hopper")
    assert [scenario.name for scenario in written] == ["slippery"] and searches
    assert asked("slippery", "hopper")[1] is False
    with pytest.raises(UserError, match="serch"):
        asked("serch", "hopper")


def test_the_page_shows_both_borders_and_what_failed():
    exploration = Exploration(SPACE, TASK, steep)
    exploration.territory.calibrate(lambda points: np.abs(points[:, 0]) <= 3.0)
    for second in range(60):
        explore(exploration, 1)
        exploration.note(float(second))
    found = explored(exploration)
    slope, payload = found.factors
    assert slope.logged == [-2.0, 2.0] and slope.calibrated == pytest.approx([-2.8, 2.8])
    assert slope.trusted == pytest.approx([-4.4, 4.4]) and slope.refused and payload.reach[1] > 0.5
    assert len(found.growth) > 3 and found.failing[0].endswith("%") is False
    report = make_report()
    report.explored = found
    html = explored_section(report)
    for text in ("slope_deg, deg", "refused by an audit: 4.40 to 5.20 deg", "The reach over time", "failure with"):
        assert text in html
    assert explored_section(make_report()) == ""
