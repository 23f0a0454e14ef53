"""What an audit found, as plain data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs import from_dict, to_dict

Curve = list[float | None]  # one entry a horizon; None where no dream is left, or where the dream is not finite


@dataclass
class ErrorCurve:
    """Root mean square over channels, each divided by its standard deviation; median and mean over dreams."""

    median: Curve
    mean: Curve


@dataclass
class ChannelError:
    """Root mean square over dreams, in the channel's own unit."""

    name: str
    dream: Curve
    persistence: Curve


@dataclass
class Falls:
    """Imagined (`Comparison` says how they are told) against true, each by `horizon`; None for 0 of 0.

    Dreams whose truth was cut off earlier, without a fall, are left out: nobody knows.
    """

    horizon: int
    hits: int
    false_alarms: int
    missed: int
    neither: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass
class ScenarioAudit:
    """Curves run over `horizon`, 1 to H control steps; all are empty where no dream could be repeated."""

    scenario: str
    dreams: int
    horizon: list[int]
    compared: list[int]
    error: ErrorCurve
    persistence: ErrorCurve
    sensitivity: ErrorCurve | None
    channels: list[ChannelError]
    falls: list[Falls]
    reward_bias_per_step: float | None
    """Imagined minus true, mean over the compared steps."""
    reward_bias_per_dream: float | None
    """Imagined return (each reward weighted by the chance, as dreamt, of getting there) minus true return, mean over
    dreams. Here a dream pays for rewards that it imagines after the true robot fell."""
    true_reward_per_step: float | None
    trusted: bool
    reason: str
    not_replayed: int = 0
    """Dreams of this scenario beside `dreams`; AuditReport.not_replayed says why."""
    falls_within_trust: Falls | None = None
    """Each dream up to its own trust horizon, of which `horizon` is the median; None where no dream has one."""

    @property
    def disagreement(self) -> float | None:
        """The dreams' error over that of standing still, medians, at the last step that at least half of them reach."""
        at = max((h for h, n in enumerate(self.compared) if 2 * n >= self.dreams), default=None)
        if at is None:
            return None
        dreamt, still = self.error.median[at], self.persistence.median[at]
        return dreamt / still if dreamt is not None and still else None

    @classmethod
    def of_nothing(cls, scenario: str) -> "ScenarioAudit":
        """Where no dream could be repeated."""
        empty = ErrorCurve([], [])
        return cls(scenario, 0, [], [], empty, empty, None, [], [], None, None, None, False, "nothing was repeated")


@dataclass
class NotReplayed:
    """A dream that could not be repeated in the simulator."""

    scenario: str
    episode: int
    step: int
    reason: str  # one of few, to count by
    detail: str  # what is particular to this dream; may be empty


@dataclass
class AuditReport:
    simulator: bool
    """False: the truth was the held-out log; nothing beyond the logs was checked."""
    note: str
    overall: ScenarioAudit
    scenarios: list[ScenarioAudit] = field(default_factory=list)
    simulator_steps: int = 0
    sensitivity_eps: float | None = None
    replicas: int = 0
    not_replayed: list[NotReplayed] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "AuditReport":
        return from_dict(cls, mapping, "audit")


def why_not_replayed(missing: Sequence[NotReplayed]) -> list[str]:
    """A line a reason, the commonest first: how many dreams, of which scenarios, and in what words one was refused."""
    by_reason: dict[str, list[NotReplayed]] = {}
    for one in missing:
        by_reason.setdefault(one.reason, []).append(one)
    lines = []
    for reason, those in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        counts = Counter(one.scenario for one in those)
        of = ", ".join(f"{count} of {scenario}" for scenario, count in counts.items())
        detail = next((one.detail for one in those if one.detail), "")
        lines.append(f"{of}: {reason}" + (f" ({detail})" if detail else ""))
    return lines
