"""From counts to what may be claimed: intervals, verdicts, and the headline."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dreaming.report.data import Cell, Outcome, Report
from dreaming.statistics import wilson


@dataclass(frozen=True)
class Words:
    """A task's own words for what evaluation measures."""

    failure: str = "the task fails"
    lost: str = "lost"  # a failure that cannot be taken back
    event: str = "losses"  # the same, counted
    progress: str = "progress, in the task's own measure"


WORDS = {
    "push-box": Words("the box goes over the edge or is not at the goal at the end", "box over the edge", "boxes lost"),
    "hopper": Words("the robot falls before the episode's end", "falls", "falls", "metres travelled"),
    "ant": Words("the robot falls, or comes less than half as far as it should", "falls", "falls", "metres travelled"),
    "rover": Words(
        "the robot leaves the lane or hardly gets along it", "out of the lane", "lanes left", "metres along the lane"
    ),
}


def words(task: str) -> Words:
    return WORDS.get(task, Words())


@dataclass(frozen=True)
class Share:
    """k of n, with Wilson's 95% interval."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.k, self.n)

    def text(self) -> str:
        return f"{percent(self.value)} of {self.n:,} episodes (95% interval {interval_text(self)})"


def percent(share: float) -> str:
    """Whole per cent, but never '0%' or '100%' for what is not all or nothing."""
    if math.isnan(share):
        return "–"
    if 0 < share < 0.01:
        return "under 1%"
    if 0.99 < share < 1:
        return "over 99%"
    return f"{share * 100:.0f}%"


def interval_text(share: Share) -> str:
    low, high = share.interval
    return f"{low * 100:.0f}–{high * 100:.0f}%"


def failures(outcome: Outcome) -> Share:
    return Share(outcome.failures, outcome.n)


def pooled(outcomes: Iterable[Outcome], what: str = "failures") -> Share:
    """Cells weigh by their episodes, which evaluation gives in equal number."""
    outcomes = list(outcomes)
    return Share(sum(getattr(o, what) for o in outcomes), sum(o.n for o in outcomes))


def difference_interval(after: Share, before: Share) -> tuple[float, float]:
    """95% interval of after - before: Newcombe's hybrid score interval (1998, method 10) of two Wilson intervals.

    It takes the two as independent samples. Where both policies met the same seeds that is on the safe side.
    """
    (a_low, a_high), (b_low, b_high) = after.interval, before.interval
    a, b = after.value, before.value
    return (
        a - b - math.hypot(a - a_low, b_high - b),
        a - b + math.hypot(a_high - a, b - b_low),
    )


def verdict(after: Share, before: Share) -> str:
    """'fewer', 'more' or 'unclear' failures after than before: the interval of the difference must exclude zero."""
    if not after.n or not before.n:
        return "unclear"
    low, high = difference_interval(after, before)
    return "fewer" if high < 0 else "more" if low > 0 else "unclear"


def split(cells: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Worlds that no log holds, and worlds within the logs' range."""
    return [c for c in cells if not c.in_logs], [c for c in cells if c.in_logs]


def mostly_failing(cells: list[Cell]) -> list[Cell]:
    """More failures than successes after the night, worst first."""
    return sorted((c for c in cells if c.after.failures * 2 > c.after.n), key=lambda c: -failures(c.after).value)


def headline(report: Report) -> str:
    """The night's result in one sentence, with its numbers. It claims no more than its interval allows."""
    if not report.audited:
        return f"Not audited in a simulator, so whether the policy survives is not known. {_open_loop_sentence(report)}"
    if not report.survival:
        return "The night ended before survival was measured, so whether the policy survives is not known."
    outside, inside = split(report.survival)
    cells, where = (outside, "in worlds that no log holds") if outside else (inside, "within the logs' range")
    after, before = pooled(c.after for c in cells), pooled(c.before for c in cells)
    opening = {
        "fewer": "Dreaming helped",
        "more": "Dreaming did harm",
        "unclear": "No clear change",
    }[verdict(after, before)]
    return (
        f"{opening}: {where} the policy fails in {after.text()}; "
        f"before dreaming it failed in {percent(before.value)} ({interval_text(before)})."
        f"{_wake_sentence(report, cells)}"
    )


def _wake_sentence(report: Report, cells: list[Cell]) -> str:
    """What no simulator step went into stands apart from what some did."""
    steps = report.spent.simulator_steps.get("learning", 0)
    zero = [cell.zero_step for cell in cells if cell.zero_step is not None]
    if not steps:
        return ""
    said = f" It learnt from {steps:,} simulator steps of a wake"
    if not zero:
        return f"{said}."
    share = pooled(zero)
    return f"{said}; the policy that learnt from none fails in {percent(share.value)} ({interval_text(share)})."


def within_logs_sentence(report: Report) -> str:
    """The price of dreaming, if any, where the logs were already good. Empty if the headline is about nothing else."""
    outside, inside = split(report.survival)
    if not outside or not inside:
        return ""
    after, before = pooled(c.after for c in inside), pooled(c.before for c in inside)
    change = {
        "fewer": "which is better than before",
        "more": "which is worse than before",
        "unclear": "no clear change from before",
    }[verdict(after, before)]
    return (
        f"Within the logs' range it fails in {percent(after.value)} of {after.n:,} ({interval_text(after)}), "
        f"{change}: {percent(before.value)} ({interval_text(before)})."
    )


def nothing_kept_sentence(report: Report) -> str:
    """Why before and after are alike, where trials found no policy better than the one that the night began with."""
    training = report.training
    trials = [row for row in training.selection if row.get("night") == training.night]
    if len(trials) < 2 or not trials[0]["kept"] or any(row["kept"] for row in trials[1:]):
        return ""
    return (
        f"None of {len(trials) - 1} trials of the dreaming policy went better than the policy that the dreams began "
        "with, so that one was kept: before and after are the same."
    )


def _open_loop_sentence(report: Report) -> str:
    loop = report.open_loop
    if loop is None or not loop.horizon or loop.model[-1] is None or not loop.persistence[-1]:
        return "The night ended before the world model was measured on held-out logs."
    ratio = loop.model[-1] / loop.persistence[-1]
    return (
        f"On held-out logs the world model's error {loop.horizon[-1]} steps ahead is {percent(ratio)} "
        "of what standing still would give."
    )
