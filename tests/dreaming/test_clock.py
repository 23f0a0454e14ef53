"""Dividing up the hours, with a clock of our own."""

import os
import signal

import pytest

from dreaming.clock import Budget, Jumps, Place, Share, allot, process_age, stop_on_signals

SHARES = [Share("learn", 0.5), Share("dream", 0.3), Share("report", 0.2)]


class Hands:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_shares_are_shares():
    assert allot(200, SHARES) == pytest.approx({"learn": 100, "dream": 60, "report": 40})


def test_at_least_and_at_most():
    shares = [Share("learn", 0.5), Share("dream", 0.3), Share("report", 0.2, least=30, most=50)]
    assert allot(100, shares) == pytest.approx({"learn": 70 * 5 / 8, "dream": 70 * 3 / 8, "report": 30})
    assert allot(1000, shares) == pytest.approx({"learn": 950 * 5 / 8, "dream": 950 * 3 / 8, "report": 50})
    assert allot(200, shares)["report"] == pytest.approx(40)


@pytest.mark.parametrize("seconds", [40, 60, 100, 576, 3600, 8 * 3600])
def test_all_is_given_away(seconds):
    from dreaming.night import SHARES as REAL

    given = allot(seconds, REAL)
    assert sum(given.values()) == pytest.approx(seconds)
    assert set(given) == {share.name for share in REAL}
    assert all(value > 0 for value in given.values())


def test_where_the_leasts_do_not_fit_all_are_cut():
    shares = [Share("learn", 1.0), Share("audit", 0.0, least=10), Share("report", 0.0, least=30)]
    assert allot(20, shares) == pytest.approx({"learn": 0, "audit": 5, "report": 15})
    assert allot(-3, shares) == {"learn": 0, "audit": 0, "report": 0}


def test_a_phase_that_ran_long_is_made_good_by_the_rest():
    now = Hands()
    budget = Budget(100, SHARES, now)
    learn = budget.phase("learn")
    assert learn.seconds == pytest.approx(50)
    now.at += 25
    assert learn.spent() == pytest.approx(0.5)
    assert learn.left() == pytest.approx(25)
    now.at += 50
    dream = budget.phase("dream")
    assert dream.seconds == pytest.approx(25 * 0.6)
    now.at += 5
    assert budget.phase("report").seconds == pytest.approx(20)
    now.at += 50
    assert budget.phase("report").spent() == 1.0
    assert budget.remaining() == pytest.approx(-30)


def test_time_before_counts():
    now = Hands()
    assert Budget(100, SHARES, now, used=20).phase("learn").seconds == pytest.approx(40)


def test_a_phase_that_was_cut_off_goes_on_where_it_was():
    now = Hands()
    budget = Budget(100, SHARES, now)
    learn = budget.phase("learn")
    now.at += 30
    place = learn.place()
    assert (place.elapsed, place.seconds, place.left) == pytest.approx((30, 50, 70))
    same = Budget(100, SHARES, now, used=30).phase("learn", place)
    assert (same.seconds, same.elapsed(), same.spent()) == (learn.seconds, learn.elapsed(), learn.spent())
    # What was left, 20, 30 and 20 of 70 seconds, is stretched to 140.
    longer = Budget(140, SHARES, now).phase("learn", place)
    assert longer.spent() == pytest.approx(0.6) and longer.left() == pytest.approx(40)
    now.at += 20
    assert longer.spent() == pytest.approx(0.8)
    now.at += 20
    assert longer.budget.phase("dream").seconds == pytest.approx(60)


def test_the_most_and_the_least_of_a_phase_that_was_cut_off_are_its_own_in_all():
    for share in (Share("clone", 0.9, most=40), Share("clone", 0.1, least=40)):
        rest = Budget(200, [share, Share("dream", 0.5)], Hands()).phase("clone", Place(30.0, 40.0, 170.0))
        assert rest.left() == pytest.approx(10) and rest.spent() == pytest.approx(0.75)


def test_a_phase_that_was_cut_off_takes_what_later_ones_may_not():
    shares = [Share("dream", 0.8), Share("report", 0.2, most=20)]
    now = Hands()
    place = Budget(100, shares, now).phase("dream").place()
    assert place.seconds == pytest.approx(80)
    now.at += 60
    rest = Budget(1000, shares, now).phase("dream", Place(60.0, 80.0, 40.0))
    assert rest.left() == pytest.approx(980) and rest.spent() == pytest.approx(0.75)


def test_a_wish_to_stop_ends_every_phase():
    budget = Budget(100, SHARES, Hands())
    phase = budget.phase("learn")
    budget.ask_to_stop("Ctrl-C")
    budget.ask_to_stop("SIGTERM")
    assert phase.spent() == 1.0 and phase.left() == 0.0
    assert budget.stop_reason == "Ctrl-C"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_signals_ask_once_and_then_insist(number, name):
    budget = Budget(100, SHARES, Hands())
    before = signal.getsignal(number)
    with stop_on_signals(budget):
        os.kill(os.getpid(), number)
        assert budget.stop.is_set() and budget.stop_reason == name and budget.stop_signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_jumps_of_the_wall_clock_are_told_from_halts():
    now, wall = Hands(), Hands()
    jumps = Jumps(now, wall)
    for seconds, on_the_wall, told in (
        (60, 60, ""),
        (60, 61, ""),  # it is being slewed
        (60, 60 + 3600, "forward by 3600 seconds"),
        (60, 60 - 86_400, "back by 86400 seconds"),
        (60, 60, ""),
        (600, 600, "nothing happened for 600 seconds"),
    ):
        now.at, wall.at = now.at + seconds, wall.at + on_the_wall
        text = jumps.look()
        assert told in text if told else not text


def test_this_process_has_an_age():
    assert 0.0 <= process_age() < 3600
