"""The audit: dreams against the truth, from the same start, under the same commands and the same physics.

A dream's error is read between two others. *Persistence* is the guess that nothing moves from the start on: a dream no
better than that has taught nothing. The *sensitivity* is how far the simulator strays from itself when its start is
kicked by a hundredth of each channel's standard deviation: below that, agreement point by point means nothing.

Medians are given beside means because a few dreams in which an impact comes one step late rule the mean. States after
the truth has ended are compared no further; `compared` says how many dreams a figure rests on, and where falls thin
them out, the rest are those that stood.
"""

from collections.abc import Sequence

import numpy as np

from configs import UserError
from dreaming.audit_report import AuditReport, ChannelError, ErrorCurve, Falls, ScenarioAudit
from dreaming.comparison import Comparison
from dreaming.truth import Dream, Episodes, Listed, from_log, simulate
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

    Args:
        channel_std: (D,) by which errors are normalised; 1 for a channel that never moves.
        replicas: 0 leaves the sensitivity out, and its cost.

    Raises:
        UserError: no dreams; a log that does not replay bit for bit.
    """
    std = _check(dreams, channel_std)
    before = workers.steps
    runs = simulate(dreams, _by_number(episodes), workers, sensitivity_eps * std, replicas)
    comparison = Comparison(dreams, [r[0] for r in runs], [r[1:] for r in runs], std)
    names = list(registry.task_class(workers.task).observation_names)
    return AuditReport(
        simulator=True,
        note="same start, commands and physics in PyBullet",
        overall=comparison.judge("overall", names),
        scenarios=comparison.by_scenario(names),
        simulator_steps=workers.steps - before,
        sensitivity_eps=sensitivity_eps if replicas else None,
        replicas=replicas,
    )


def audit_on_logs(
    dreams: Sequence[Dream],
    episodes: Sequence[Episode] | Episodes,
    channel_std: np.ndarray,
    channel_names: Sequence[str] | None = None,
) -> AuditReport:
    """For a machine without a simulator: dreams under a held-out log's own commands, against that log."""
    std = _check(dreams, channel_std)
    source = _by_number(episodes)
    comparison = Comparison(dreams, [from_log(dream, source) for dream in dreams], [[] for _ in dreams], std)
    names = channel_names or [f"channel {i}" for i in range(len(std))]
    return AuditReport(False, NOT_AUDITED, comparison.judge("overall", names), comparison.by_scenario(names))


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
