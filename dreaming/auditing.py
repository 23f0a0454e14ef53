"""From scenarios to dreams to an audit report; what a night, its mornings and `audit-dreams` share."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dreaming.agent import Actor, View
from dreaming.audit import AuditReport, Dream, audit, audit_on_logs
from dreaming.beside import Tell
from dreaming.rehearsal import rehearse, replayed_logs
from dreaming.scenario import LOGGED, Scenario
from envs.physics import Physics
from envs.workers import Workers
from worldmodel.checkpoint import write_atomically
from worldmodel.model import WorldModel
from worldmodel.replay import Replay


@dataclasses.dataclass
class Auditor:
    """Dreams with `actor` from held-out logs and checks the dreams."""

    task: str
    model: WorldModel
    actor: Actor
    view: View
    held_out: Replay
    nominal: Physics
    control_hz: float

    def dreams(
        self,
        scenarios: Sequence[Scenario],
        count: int,
        horizon: int,
        seed: int,
        from_start: bool = False,
        going_on: Callable[[], bool] = lambda: True,
    ) -> list[Dream]:
        """`count` dreams a scenario, one of each in turn; only the first turn is finished in any case."""
        found: list[Dream] = []
        for number in range(count):
            for scenario in scenarios:
                if number and not going_on():
                    return found
                found += rehearse(
                    self.model, self.actor, self.view, self.held_out, self.task, scenario, self.nominal,
                    self.control_hz, 1, horizon, seed + number, from_start,
                )  # fmt: skip
        return found

    def logged(self, count: int, horizon: int, seed: int) -> list[Dream]:
        """Dreams of the logs' own commands, for machines without a simulator."""
        return replayed_logs(self.model, self.held_out, self.control_hz, count, horizon, seed)

    def audit(self, dreams: Sequence[Dream], workers: Workers, replicas: int = 2) -> AuditReport:
        return audit(dreams, self.held_out.reader, workers, self.model.std.cpu().numpy(), replicas=replicas)

    def examine(
        self, workers: Workers, tell: Tell, scenarios: Sequence[Scenario], count: int, horizon: int, seed: int
    ) -> AuditReport:
        """`count` dreams a scenario, and their audit."""
        tell("auditing dreams")
        dreams = self.dreams(scenarios, count, horizon, seed, going_on=lambda: tell("auditing dreams") is None)
        return self.audit(dreams, workers)

    def audit_on_logs(self, dreams: Sequence[Dream], names: Sequence[str] | None) -> AuditReport:
        return audit_on_logs(dreams, self.held_out.reader, self.model.std.cpu().numpy(), names)

    def affordable(self, scenarios: int, horizon: int, seed: int, seconds: float, most: int, workers: Workers) -> int:
        """Dreams a scenario that fit into `seconds`, audit included; at least 2."""
        rows = list(range(workers.n_envs))
        workers.reset(rows, rows, [self.nominal] * len(rows))  # making the environments is no part of a dream's cost
        begun = time.monotonic()
        self.audit(self.dreams([LOGGED], 2, horizon, seed), workers)
        each = (time.monotonic() - begun) / 2
        return max(2, min(most, math.floor(seconds / max(1e-9, each * scenarios))))


def save_dreams(path: Path, dreams: Sequence[Dream]) -> None:
    """An .npz: one row a dream, those shorter than the longest filled up with NaN."""
    import io

    longest = max(dream.horizon for dream in dreams)

    def stack(values: Sequence[np.ndarray], rows: int) -> np.ndarray:
        filled = [np.pad(v, [(0, rows - len(v))] + [(0, 0)] * (v.ndim - 1), constant_values=np.nan) for v in values]
        return np.stack(filled)

    factors = sorted({name for dream in dreams for name in dream.physics})
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        episode=np.array([dream.episode for dream in dreams]),
        step=np.array([dream.step for dream in dreams]),
        scenario=np.array([dream.scenario for dream in dreams]),
        physics_names=np.array(factors, dtype=str),
        physics=np.array([[dream.physics.get(name, np.nan) for name in factors] for dream in dreams], np.float64),
        changes=np.array([json.dumps([dataclasses.asdict(c) for c in dream.changes]) for dream in dreams], dtype=str),
        horizon=np.array([dream.horizon for dream in dreams]),
        action=stack([dream.action for dream in dreams], longest),
        observation=stack([dream.observation for dream in dreams], longest + 1),
        reward=stack([dream.reward for dream in dreams], longest),
        continuation=stack([dream.continuation for dream in dreams], longest),
    )
    write_atomically(path, buffer.getvalue())
