"""Ways to call an imagined fall, as benchmarks/falls.py compares them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from falls import best_level, called, calls, counted, falls_at, markdown  # noqa: E402

from dreaming.truth import Dream, Truth  # noqa: E402

STEPS = 15
HALF_WIDTH_M = 0.35  # of the rover's lane


def pair(continuation: list[float], offset_m: float, fell_at: int | None, scenario: str = "ice") -> tuple[Dream, Truth]:
    """A rover's dream that ends as the numbers say, at `offset_m` from the lane's middle, and its truth."""
    observation = np.zeros((STEPS + 1, 16))
    truth = Truth(observation.copy(), np.zeros(STEPS), fell_at or STEPS, fell_at is not None)
    observation[-1, 0] = offset_m
    going_on = np.ones(STEPS)
    going_on[-len(continuation) :] = continuation
    dream = Dream(0, 0, scenario, {}, np.zeros((STEPS, 2)), observation, np.zeros(STEPS), going_on, trust_horizon=STEPS)
    return dream, truth


PAIRS = [
    pair([0.4], 0.0, 9),  # by a half: right
    pair([0.7, 0.7], 0.4, 12),  # adds up, and is out of the lane
    pair([0.8], 0.0, 15),  # by a level above a half alone
    pair([0.9], 0.36, None),  # a false alarm of the rule
    pair([1.0], 0.1, None, "payload"),
]
DREAMS, TRUTHS = ([one[k] for one in PAIRS] for k in range(2))


def told(way: str) -> list[Dream]:
    call = calls("rover", 0.85)[way]
    return [called(dream, call(dream)) for dream in DREAMS]


@pytest.mark.parametrize(
    ("way", "hits", "alarms", "missed"),
    [("half", 1, 0, 2), ("level", 3, 0, 0), ("adds up", 2, 0, 1), ("rule", 1, 1, 2), ("either", 2, 1, 1)],
)
def test_ways_to_call_a_fall_worked_by_hand(way, hits, alarms, missed):
    found = counted(told(way), TRUTHS)
    for falls in (found["15"], found["trusted"]):
        assert falls is not None
        assert (falls.hits, falls.false_alarms, falls.missed, falls.neither) == (
            hits,
            alarms,
            missed,
            5 - hits - alarms - missed,
        )


def test_truths_foretell_themselves():
    found = counted([called(dream, falls_at(truth)) for dream, truth in PAIRS], TRUTHS)
    assert found["15"] is not None and (found["15"].f1, found["15"].hits) == (1.0, 3)


def test_the_level_is_the_one_that_foretells_logs_best():
    assert best_level(DREAMS, TRUTHS) == 0.9  # which calls all three falls, and nothing else
    assert best_level(DREAMS[:1], TRUTHS[:1]) == 0.5  # of equals the nearest to a half


def test_the_table_has_a_row_for_each_scenario_and_horizon():
    lines = markdown({way: told(way) for way in calls("rover", 0.85)}, TRUTHS).splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        [f"| {name}", within, f"{fell} of {n}"]
        for name, fell, n in (("all", 3, 5), ("ice", 3, 4), ("payload", 0, 1))
        for within in ("15", "trusted")
    ]
    assert "0.80 (0.67, 1.00)" not in lines[2] and "1.00 (1.00, 1.00)" in lines[2]
