"""Dreams to be looked at and audited, with everything kept that a simulator needs to repeat them."""

from typing import Any

import numpy as np
import torch

from dreaming.agent import Actor, View
from dreaming.audit import Dream
from dreaming.imagination import Rollout, imagine, starts_from
from dreaming.imagined_failure import held_out_starts
from dreaming.learning import dream_physics
from dreaming.scenario import LOGGED, Scenario
from dreaming.trust import judge, stated
from envs.physics import Physics
from worldmodel.device import random_kept, seeded, set_random_state
from worldmodel.model import WorldModel
from worldmodel.replay import Replay


@torch.no_grad()
def rehearse(
    model: WorldModel,
    actor: Actor,
    view: View,
    held_out: Replay,
    task: str,
    scenario: Scenario,
    nominal: Physics,
    control_hz: float,
    count: int,
    horizon: int,
    seed: int,
    from_start: bool = False,
) -> list[Dream]:
    """Dream `count` times under the scenario, from random steps (or the beginnings) of held-out episodes.

    The rest of each episode's physics, the box's shape say, stays what it was.
    """
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(held_out.episodes), count)
    lengths = held_out.length[held_out.episodes[which]]
    latest = np.maximum(1, np.minimum(lengths - 1, np.maximum(1, lengths - horizon)))
    steps = np.zeros(count, np.int64) if from_start else rng.integers(0, latest)
    window = 24  # rows of filtering before the start, so that the agent has a memory to act on
    dreams: list[Dream] = []
    with random_kept(held_out.device):
        set_random_state(seeded(seed, held_out.device), held_out.device)
        for position, step in zip(which.tolist(), steps.tolist(), strict=True):
            first = max(0, step - window + 1)
            rows = held_out.offset[position] + np.arange(first, step + 1)
            starts = starts_from(model.observe, held_out.gather(rows[None]), view)[-1:]
            episode = int(held_out.episodes[position])
            logged = Physics.of_log(held_out.reader.episodes[episode]["physics"], nominal)
            physics = scenario.sample(task, rng, logged, None if from_start else step / control_hz)
            prepared = dream_physics(model, [physics], np.array([step]), horizon, control_hz)
            rollout = imagine(model, actor, starts, prepared, horizon)
            world = rollout.world
            says = stated(model, world.at(slice(None), 0), world.at(slice(None), slice(1, None)), rollout.inputs)
            dreams.append(_told(rollout, 0, episode, step, scenario, physics, says))
    return dreams


@torch.no_grad()
def rehearse_at_once(
    model: WorldModel,
    actor: Actor,
    held_out: Replay,
    task: str,
    scenario: Scenario,
    nominal: Physics,
    control_hz: float,
    count: int,
    horizon: int,
    seed: int,
) -> list[Dream]:
    """As `rehearse`, all dreams side by side: a tenth of the time, and other draws."""
    rng = np.random.default_rng(seed)
    episodes, device = held_out.reader.episodes, held_out.device
    with random_kept(device):
        set_random_state(seeded(seed, device), device)
        starts = held_out_starts(model, held_out, actor.view, count, False, rng)
        which, steps = starts.episode.tolist(), starts.step.cpu().numpy()
        logged = [Physics.of_log(episodes[i]["physics"], nominal) for i in which]
        physics = [
            scenario.sample(task, rng, one, step / control_hz) for one, step in zip(logged, steps.tolist(), strict=True)
        ]
        told = dream_physics(model, physics, steps, horizon, control_hz)
        rollout = imagine(model, actor, starts, told, horizon)
    says: list[dict[str, Any]] = [{}] * count
    if model.calibration is not None:
        world = rollout.world
        first, arrived = world.at(slice(None), 0), world.at(slice(None), slice(1, None))
        found = judge(model, model.calibration, first, arrived, rollout.inputs)
        bounds, trusted = found.bound.cpu().numpy(), found.horizon.tolist()
        says = [{"uncertainty": bounds[i], "trust_horizon": trusted[i]} for i in range(count)]
    return [_told(rollout, i, which[i], int(steps[i]), scenario, physics[i], says[i]) for i in range(count)]


def _told(
    rollout: Rollout, i: int, episode: int, step: int, scenario: Scenario, physics: Physics, says: dict[str, Any]
) -> Dream:
    """Row i of a rollout with what a simulator needs to repeat it, and what the dream `says` of its trust."""
    return Dream(
        episode=episode,
        step=step,
        scenario=scenario.name,
        physics=physics.to_dict(),
        action=rollout.action[i].clamp(-1, 1).cpu().numpy(),
        observation=rollout.observation[i].cpu().numpy(),
        reward=rollout.reward[i].cpu().numpy(),
        continuation=rollout.continuation[i].cpu().numpy(),
        changes=physics.changes,
        **says,
    )


def replayed_logs(
    model: WorldModel, held_out: Replay, control_hz: float, count: int, horizon: int, seed: int
) -> list[Dream]:
    """Dreams under the logged commands, for machines without a simulator: the log itself is the truth."""
    rng = np.random.default_rng(seed)
    fits = np.flatnonzero(held_out.length[held_out.episodes] > horizon + 1)
    if not len(fits):
        horizon = int(held_out.length[held_out.episodes].max()) - 2
        fits = np.flatnonzero(held_out.length[held_out.episodes] > horizon + 1)
    dreams = []
    with random_kept(held_out.device):
        set_random_state(seeded(seed, held_out.device), held_out.device)
        for position in rng.choice(fits, count).tolist():
            episode = int(held_out.episodes[position])
            step = int(rng.integers(0, held_out.length[episode] - horizon))
            first = max(0, step - 23)
            batch = held_out.gather((held_out.offset[position] + np.arange(first, step + horizon + 1))[None])
            with torch.no_grad():
                past = step + 1 - first
                start, inputs = model.observe_past(batch, past)
                imagined = model.imagine(start, inputs)
                observation = torch.cat([batch.vector[:, past - 1 : past], model.decode(imagined)], 1)
                dreams.append(
                    Dream(
                        episode=episode,
                        step=step,
                        scenario=LOGGED.name,
                        physics=dict(held_out.reader.episodes[episode]["physics"]),
                        action=batch.action[0, past:].cpu().numpy(),
                        observation=observation[0].cpu().numpy(),
                        reward=model.predict_reward(imagined)[0].cpu().numpy(),
                        continuation=model.predict_continuation(imagined)[0].cpu().numpy(),
                        **stated(model, start, imagined, inputs),
                    )
                )
    return dreams
