"""The audit: dreams against the truth, from the same start, under the same commands and the same physics.

A dream's error is read between two others. *Persistence* is the guess that nothing moves from the start on: a dream no
better than that has taught nothing. The *sensitivity* is how far the simulator strays from itself when its start is
kicked by a hundredth of each channel's standard deviation: below that, agreement point by point means nothing.

Medians are given beside means because a few dreams in which an impact comes one step late rule the mean. States after
the truth has ended are compared no further; `compared` says how many dreams a figure rests on, and where falls thin
them out, the rest are those that stood.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from configs import UserError
from dreaming.audit_report import AuditReport, ChannelError, ErrorCurve, Falls, NotReplayed, ScenarioAudit
from dreaming.comparison import Comparison, Rule
from dreaming.truth import Dream, Episodes, Listed, Truth, from_log, simulate
from envs import registry
from envs.workers import Workers
from worldmodel.episode import Episode

__all__ = ["AuditReport", "ChannelError", "Dream", "ErrorCurve", "Falls", "ScenarioAudit", "audit", "audit_on_logs"]

NOT_AUDITED = "not audited in a simulator: dreams of held-out logs' own commands against those logs"


def audit(
    dreams: Sequence[Dream],
    episodes: Sequence[Episode] | Episodes,
    workers: Workers,
    channel_std: np.ndarray,
    sensitivity_eps: float = 1e-2,
    replicas: int = 2,
) -> AuditReport:
    """Repeats every dream in the simulator, once as it is and `replicas` times from a start kicked by eps * std.

    A dream that cannot be repeated is counted with its reason. A scenario of which fewer than half of the dreams could
    be repeated is not trusted: the rest may be those that go well.

    Args:
        channel_std: (D,) by which errors are normalised; 1 for a channel that never moves.
        replicas: 0 leaves the sensitivity out, and its cost.

    Raises:
        UserError: no dreams.
    """
    std = _check(dreams, channel_std)
    before = workers.steps
    runs = simulate(dreams, _by_number(episodes), workers, sensitivity_eps * std, replicas)
    task = registry.task_class(workers.task)
    overall, scenarios = _judged(dreams, runs, std, list(task.observation_names), task.ended)
    return AuditReport(
        simulator=True,
        note="same start, commands and physics in PyBullet",
        overall=overall,
        scenarios=scenarios,
        simulator_steps=workers.steps - before,
        sensitivity_eps=sensitivity_eps if replicas else None,
        replicas=replicas,
        not_replayed=[
            NotReplayed(dream.scenario, dream.episode, dream.step, truth.unknown, truth.detail)
            for dream, (truth, *_) in zip(dreams, runs, strict=True)
            if truth.unknown
        ],
    )


def _judged(
    dreams: Sequence[Dream],
    runs: Sequence[Sequence[Truth]],
    std: np.ndarray,
    names: Sequence[str],
    ended: Rule | None = None,
) -> tuple[ScenarioAudit, list[ScenarioAudit]]:
    """All dreams together, and by scenario, those that could not be repeated left out and counted."""
    known = [i for i, run in enumerate(runs) if not run[0].unknown]
    comparison = None
    if known:
        kept = [runs[i] for i in known]
        comparison = Comparison([dreams[i] for i in known], [r[0] for r in kept], [r[1:] for r in kept], std, ended)

    def judge(name: str, mine: Sequence[int]) -> ScenarioAudit:
        repeated = [i for i in mine if not runs[i][0].unknown]
        if comparison is None or not repeated:
            found = ScenarioAudit.of_nothing(name)
        else:
            found = comparison.judge(name, names, np.isin(known, repeated))
        found.not_replayed = len(mine) - len(repeated)
        if found.not_replayed > len(repeated):
            why, _ = Counter(runs[i][0].unknown for i in mine if runs[i][0].unknown).most_common(1)[0]
            found.trusted = False
            found.reason = f"only {len(repeated)} of {len(mine)} dreams could be repeated in the simulator: {why}"
        return found

    by_scenario: dict[str, list[int]] = {}
    for i, dream in enumerate(dreams):
        by_scenario.setdefault(dream.scenario, []).append(i)
    return judge("overall", range(len(dreams))), [judge(name, mine) for name, mine in by_scenario.items()]


def audit_on_logs(
    dreams: Sequence[Dream],
    episodes: Sequence[Episode] | Episodes,
    channel_std: np.ndarray,
    channel_names: Sequence[str] | None = None,
) -> AuditReport:
    """For a machine without a simulator: dreams under a held-out log's own commands, against that log."""
    std = _check(dreams, channel_std)
    source = _by_number(episodes)
    names = channel_names or [f"channel {i}" for i in range(len(std))]
    return AuditReport(False, NOT_AUDITED, *_judged(dreams, [[from_log(d, source)] for d in dreams], std, names))


def _by_number(episodes: Sequence[Episode] | Episodes) -> Episodes:
    return Listed(episodes) if isinstance(episodes, Sequence) else episodes


def _check(dreams: Sequence[Dream], channel_std: np.ndarray) -> np.ndarray:
    if not dreams:
        raise UserError("no dreams to audit; ask for at least one")
    std = np.asarray(channel_std, np.float64)
    if std.ndim != 1 or not (std > 0).all():
        raise ValueError(f"channel_std must be (D,) and positive, not {std}")
    for i, dream in enumerate(dreams):
        steps = dream.horizon
        shapes = (dream.observation.shape, dream.reward.shape, dream.continuation.shape)
        if not steps or dream.action.ndim != 2 or shapes != ((steps + 1, len(std)), (steps,), (steps,)):
            raise ValueError(
                f"dream {i}: action {dream.action.shape}, observation {shapes[0]}, reward {shapes[1]}, continuation "
                f"{shapes[2]}; expected (H, A), (H + 1, {len(std)}), (H,), (H,)"
            )
    return std
