"""What truly happens from where a dream began: in the simulator, or in the log itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from configs import UserError
from envs import registry
from envs.physics import Change, Physics
from envs.slots import SimulatorError
from envs.workers import ProcessLostError, Workers
from worldmodel.episode import Episode

# Why a dream cannot be repeated
NOT_FINITE = "its commands are not finite"
NO_STATE = "its log holds no simulator state"
OUT_OF_REACH = "its start or its physics lies outside the simulator's reach"
FAILED = "the simulator failed"
LOST = "its simulator process died or hung"


class Episodes(Protocol):
    """A list of Episodes reads as this through `Listed`, and worldmodel.storage.LogReader as it is."""

    def episode(self, i: int) -> Episode:
        """As it was logged, to be replayed."""
        ...

    def mended(self, i: int) -> Episode:
        """Without spikes, as it was learnt from."""
        ...


@dataclass(frozen=True)
class Listed:
    items: Sequence[Episode]

    def episode(self, i: int) -> Episode:
        return self.items[i]

    mended = episode


@dataclass
class Dream:
    """H imagined steps from a logged state, with all that is needed to repeat them in a simulator."""

    episode: int  # number in the log
    step: int  # of the state it starts from
    scenario: str
    physics: dict[str, float]  # factors left out stay as logged
    action: np.ndarray  # (H, A) as commanded
    observation: np.ndarray  # (H + 1, D); row 0 is the logged start
    reward: np.ndarray  # (H,) on arriving
    continuation: np.ndarray  # (H,) in [0, 1], of going on after arriving
    # (H,) what bounds the error, a root mean square over channels in their standard deviations, and the step up to
    # which it does so with the coverage stated; of a calibrated world model alone.
    uncertainty: np.ndarray | None = None
    trust_horizon: int | None = None
    changes: tuple[Change, ...] = ()  # of the physics on the way, by the episode's clock

    @property
    def horizon(self) -> int:
        return len(self.action)


@dataclass
class Truth:
    observation: np.ndarray  # (H + 1, D); NaN after the end
    reward: np.ndarray  # (H,); zero after the end
    steps: int  # that there were, at most H
    fell: bool  # terminated at `steps`; otherwise the time limit, or the log's end, cut it off
    unknown: str = ""  # why nobody knows what truly happens: then there are no steps, and all observations are NaN
    detail: str = ""  # of that, in the words of whoever noticed

    @property
    def lived(self) -> np.ndarray:
        """(steps + 1, D): the observations that there were."""
        return self.observation[: self.steps + 1]


def simulate(
    dreams: Sequence[Dream],
    episodes: Episodes,
    workers: Workers,
    kick: np.ndarray | None = None,
    replicas: int = 0,
) -> list[list[Truth]]:
    """Repeats every dream in the simulator; for each, the truth first, then `replicas` from a kicked start.

    Sensor noise is left out: it is in what the robot sees, not in what happens, and `Dream.observation` has none.
    What goes wrong with some dreams costs the others nothing: those that ran beside it are tried once more, each alone,
    and what then cannot be repeated is a Truth that is `unknown`. So are all replicas of commands that are not finite.

    Args:
        kick: (D,) standard deviation of the kick by channel.
    """
    each = 1 + (replicas if kick is not None else 0)
    found: dict[tuple[int, int], Truth] = {}
    jobs: list[tuple[int, int]] = []
    for i, dream in enumerate(dreams):
        finite = bool(np.isfinite(dream.action).all())
        for replica in range(each):
            if finite:
                jobs.append((i, replica))
            else:
                found[i, replica] = _unknown(dream, NOT_FINITE, "")
    # Replays of like length side by side: every process then has the same to do.
    jobs.sort(key=lambda job: dreams[job[0]].step)
    for begin in range(0, len(jobs), workers.n_envs):
        chunk = jobs[begin : begin + workers.n_envs]
        try:
            found.update(zip(chunk, _simulate_chunk(chunk, dreams, episodes, workers, kick), strict=True))
        except (UserError, SimulatorError):
            for job in chunk:
                found[job] = _simulate_alone(job, dreams, episodes, workers, kick)
    return [[found[i, replica] for replica in range(each)] for i in range(len(dreams))]


def from_log(dream: Dream, episodes: Episodes) -> Truth:
    """What the log shows after the dream's start; the truth of a dream under the log's own commands and physics."""
    episode = episodes.mended(dream.episode)
    truth = _blank(dream)
    rows = episode.observation["vector"][dream.step : dream.step + dream.horizon + 1]
    truth.steps = len(rows) - 1
    truth.observation[: len(rows)] = rows
    truth.reward[: truth.steps] = episode.reward[dream.step : dream.step + truth.steps]
    truth.fell = episode.terminated and dream.step + truth.steps == episode.length
    return truth


def _simulate_alone(
    job: tuple[int, int], dreams: Sequence[Dream], episodes: Episodes, workers: Workers, kick: np.ndarray | None
) -> Truth:
    dream = dreams[job[0]]
    try:
        if "seed" not in episodes.episode(dream.episode).info:
            return _unknown(dream, NO_STATE, f"episode {dream.episode} does not state its seed")
        return _simulate_chunk([job], dreams, episodes, workers, kick)[0]
    except ProcessLostError as error:
        return _unknown(dream, LOST, str(error))
    except SimulatorError as error:
        return _unknown(dream, FAILED, str(error).strip().splitlines()[-1])
    except UserError as error:
        return _unknown(dream, OUT_OF_REACH, str(error))


def _simulate_chunk(
    jobs: Sequence[tuple[int, int]],
    dreams: Sequence[Dream],
    episodes: Episodes,
    workers: Workers,
    kick: np.ndarray | None,
) -> list[Truth]:
    logged = {i: episodes.episode(dreams[i].episode) for i in {i for i, _ in jobs}}
    physics = {i: _physics(dreams[i], logged[i], workers.task) for i in logged}
    slots = list(range(len(jobs)))
    start = workers.start_at(
        slots, [logged[i] for i, _ in jobs], [dreams[i].step for i, _ in jobs], [physics[i] for i, _ in jobs]
    )["vector"]
    kicked = [slot for slot in slots if jobs[slot][1] > 0]
    if kicked and kick is not None:
        # The seed names dream and replica, so that the same audit gives the same numbers.
        workers.perturb(kicked, [jobs[slot][0] * 1000 + jobs[slot][1] for slot in kicked], kick)
    truths = [_blank(dreams[i]) for i, _ in jobs]
    for truth, row in zip(truths, start, strict=True):
        truth.observation[0] = row
    active = [slot for slot in slots if dreams[jobs[slot][0]].horizon]
    t = 0
    while active:
        steps = workers.step(active, np.stack([dreams[jobs[slot][0]].action[t] for slot in active]))
        t += 1
        going_on = []
        for k, slot in enumerate(active):
            truth = truths[slot]
            truth.observation[t] = steps.observation["vector"][k]
            truth.reward[t - 1] = steps.reward[k]
            truth.steps, truth.fell = t, bool(steps.terminated[k])
            if t < len(truth.reward) and not (steps.terminated[k] or steps.truncated[k]):
                going_on.append(slot)
        active = going_on
    return truths


def _physics(dream: Dream, episode: Episode, task: str) -> Physics:
    logged = Physics.from_dict(episode.physics, registry.nominal(task))
    return Physics.from_dict(dream.physics, logged).replace(sensor_noise=0.0).changing(dream.changes)


def _unknown(dream: Dream, reason: str, detail: str) -> Truth:
    truth = _blank(dream)
    truth.unknown, truth.detail = reason, detail
    return truth


def _blank(dream: Dream) -> Truth:
    observation = np.full(np.shape(dream.observation), np.nan, np.float32)
    return Truth(observation, np.zeros(dream.horizon, np.float32), 0, False)
