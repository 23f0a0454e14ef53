"""The stated rule, in numbers worked by hand and in laws that hold for any clock."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.logs import resampling
from worldmodel.logs.resampling import EDGE, Series, age, clean, held_mean, interpolate, nearest, pieces, runs, summed


def series(time, *columns) -> Series:
    return Series(np.array(time, float), np.array(columns, float).T)


def test_a_command_is_held_and_weighted_by_time():
    # 1 from 0 s, 3 from 0.25 s, 5 from 1.5 s; steps of 1 s from 0.
    command = series([0.0, 0.25, 1.5], [1.0, 3.0, 5.0])
    mean = held_mean(command, np.array([0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(mean[:, 0], [0.25 * 1 + 0.75 * 3, 0.5 * 3 + 0.5 * 5, 5.0])


def test_an_observation_is_interpolated_and_a_reward_summed():
    seen = series([0.0, 0.1, 0.4], [0.0, 1.0, 4.0])
    np.testing.assert_allclose(interpolate(seen, np.array([0.05, 0.25]))[:, 0], [0.5, 2.5])
    reward = series([0.0, 0.1, 0.4, 0.5], [1.0, 2.0, 4.0, 8.0])  # half of the 2 lies in either step
    np.testing.assert_allclose(summed(reward, np.array([0.0, 0.25, 0.5]), 1.0)[:, 0], [1.0 + 1.0, 1.0 + 4.0])


CLOCKS = {  # as they are logged, and the rate that they are of
    "exact": (0.1 * np.arange(400), 10),
    "seconds since 1970": (1_700_000_000 + 0.02 * np.arange(400) - 1_700_000_000, 50),
    "microseconds": (np.round(np.arange(400) / 60, 6), 60),
    "jitter": (0.02 * np.arange(400) + np.random.default_rng(0).uniform(-5e-4, 5e-4, 400), 50),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_a_rounded_clock_puts_nothing_into_the_step_beside(kind):
    """A grid point and the stamp of its row are never quite the same."""
    time, hz = CLOCKS[kind]
    assert pieces([series(time, np.ones(400))], 0.0, 1 / hz, 1.0) == [(time[0], 400)]  # and the last step is there
    grid = time[0] + np.arange(399) / hz
    np.testing.assert_allclose(summed(series(time, np.ones(400)), grid, 1.0)[:, 0], 1.0, atol=0.11)
    assert nearest(series(time, np.arange(400)), grid)[:, 0].tolist() == list(range(399))


def test_what_is_paid_now_and_then_stays_where_it_was():
    """Rows far apart, and the last of all, are of a step; the 3 is of the 0.3 s until the next row."""
    reward = series([0.0, 10.0, 10.3, 20.05], [5.0, 3.0, 7.0, 9.0])
    paid = summed(reward, 0.1 * np.arange(300), 0.5)[:, 0]
    assert {i: round(one, 6) for i, one in enumerate(paid) if one > 1e-6} == {
        **{0: 5.0, 100: 1.0, 101: 1.0, 102: 1.0, 103: 7.0},
        **{200: 4.5, 201: 4.5},
    }
    assert not summed(series([], []), 0.1 * np.arange(3), 0.5).any()


def test_of_pictures_the_nearest_that_does_not_show_what_comes():
    grid = np.array([0.0, 0.1, 0.2, 0.3])
    fast, slow = np.array([0.0, 0.07, 0.09, 0.13, 0.26]), np.array([0.0, 0.24, 0.36])
    # At 0.2 s that of 0.26 s would be nearer, but is more than half a step later.
    assert nearest(series(fast, np.arange(5)), grid)[:, 0].tolist() == [0, 2, 3, 4]
    assert nearest(series(slow, np.arange(3)), grid)[:, 0].tolist() == [0, 0, 1, 1]
    assert nearest(series([0.15], [7]), grid)[:, 0].tolist() == [7] * 4
    assert nearest(series(slow + 0.3, np.arange(3)), grid)[:, 0].tolist() == [0, 0, 0, 0]


clocks = st.lists(st.floats(0.001, 0.5), min_size=2, max_size=40).map(lambda steps: np.cumsum(steps))
values = st.floats(-100, 100)


@given(clocks, st.data())
def test_no_command_is_lost(time, data):
    """What was commanded over the whole grid is the same before and after: the area under the held command."""
    held = np.array(data.draw(st.lists(values, min_size=len(time), max_size=len(time))))
    grid = np.linspace(time[0], time[-1], data.draw(st.integers(2, 30)))
    after = (held_mean(series(time, held), grid)[:, 0] * np.diff(grid)).sum()
    assert after == pytest.approx((held[:-1] * np.diff(time)).sum(), abs=1e-6)
    inside = held_mean(series(time, held), grid)
    assert inside.min() >= held.min() - 1e-6 and inside.max() <= held.max() + 1e-6


@given(clocks, values, values)
def test_what_changes_evenly_is_found_between_the_rows(time, slope, offset):
    grid = np.linspace(time[0], time[-1], 17)
    line = interpolate(series(time, slope * time + offset), grid)[:, 0]
    np.testing.assert_allclose(line, slope * grid + offset, atol=1e-6)


@given(clocks, st.data())
def test_every_reward_inside_the_grid_is_counted_once(time, data):
    reward = np.array(data.draw(st.lists(values, min_size=len(time), max_size=len(time))))
    grid = np.linspace(time[0], time[-1], 9)
    paid = summed(series(time, reward), grid, data.draw(st.floats(0.01, 1)))
    assert paid.sum() == pytest.approx(reward[time < time[-1] - 1e-9].sum(), abs=1e-6)


def test_repairs_of_a_clock_are_counted():
    repairs = Counter()
    time = np.array([0.0, 0.1, 0.1, 0.2, 0.15, 0.3, np.nan, 0.4])
    value = np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [np.nan], [9.0], [4.0]])
    found = clean(time, value, repairs)
    np.testing.assert_array_equal(found.time_s, [0.0, 0.1, 0.2, 0.4])
    np.testing.assert_array_equal(found.value[:, 0], [0.0, 2.0, 3.0, 4.0])  # of equal times the later row
    assert repairs == {resampling.SAME_TIME: 1, resampling.BACK: 1}


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40))
def test_a_cleaned_clock_ascends(time):
    found = clean(np.array(time), np.zeros((len(time), 1)))
    assert (np.diff(found.time_s) > 0).all() and np.isfinite(found.time_s).all()


def test_a_clock_that_starts_again_is_a_new_recording():
    assert runs(np.array([0.0, 1.0, 2.0, 0.0, 1.0, 0.9, 2.0]), 0.5) == [slice(0, 3), slice(3, 7)]
    assert runs(np.array([0.0, np.nan, 1.0]), 0.5) == [slice(0, 3)]


def test_gaps_split_and_the_grid_starts_anew_behind_them():
    seen = series([0.0, 0.1, 0.2, 1.0, 1.1, 1.25], np.zeros(6))
    slow = series([0.05, 0.15, 0.95, 1.3], np.zeros(4))
    assert pieces([seen], 0.0, 0.1, 0.5) == [(0.0, 3), (1.0, 3)]
    # Of two channels the one that begins last and the one that ends first count, and gaps of both.
    assert pieces([seen, slow], 0.1, 0.05, 0.5) == [(0.1, 2), (1.0, 6)]


@given(st.lists(clocks, min_size=1, max_size=3), st.floats(0.01, 0.3), st.floats(0.02, 1.0))
def test_a_piece_is_never_far_from_what_was_seen(times, step, gap):
    seen = [series(time, np.zeros(len(time))) for time in times]
    for start, count in pieces(seen, 0.0, step, gap):
        grid = start + step * np.arange(count)
        for one in seen:
            near = 1.01 * EDGE * step
            at = np.searchsorted(one.time_s, grid - near)
            assert grid[0] >= one.time_s[0] and grid[-1] <= one.time_s[-1] + near
            inner = (at > 0) & (at < len(one.time_s)) & (grid < one.time_s[np.minimum(at, len(one.time_s) - 1)] - near)
            assert (one.time_s[at[inner]] - one.time_s[at[inner] - 1] <= gap + 1e-9).all()


def test_steps_whose_command_is_old_are_counted():
    assert age(series([0.0, 1.0], [3.0, 4.0]), np.array([0.0, 0.5, 1.0, 3.0])).tolist() == [0.0, 0.5, 0.0, 2.0]


def test_pictures_have_clocks_too():
    pictures = np.zeros((3, 64, 64, 3), np.uint8)
    assert clean(np.array([0.0, 0.1, 0.1]), pictures).value.shape == (2, 64, 64, 3)
