"""Dreams that go on: some of the next ones begin where some of the last ones ended, in the same world.

Logs hold the states that a demonstrator gets into. Who has learnt to creep over ice gets into others, and has to learn
what to do there: where it stops, and how it sets off again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreaming.imagination import OF_STARTS, Rollout, Starts
from envs.physics import Change, Physics
from envs.worlds import Worlds
from worldmodel.model import Belief


@dataclass
class Dreams:
    """N dreams, each about to be dreamt on."""

    starts: Starts
    physics: Worlds
    names: np.ndarray  # (N,) of the scenario, or `logged`
    age: np.ndarray  # (N,) steps since they left the logs

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: np.ndarray) -> Dreams:
        index = torch.as_tensor(which).to(self.starts.vector.device)
        return Dreams(self.starts[index], self.physics[which], self.names[which], self.age[which])

    def state_dict(self) -> dict[str, Any]:
        tensors = {"world": tuple(self.starts.world), "agent": tuple(self.starts.agent)}
        tensors |= {name: getattr(self.starts, name) for name in OF_STARTS}
        worlds = [(physics.labels(), [asdict(change) for change in physics.changes]) for physics in self.physics]
        return {"starts": tensors, "physics": worlds, "names": self.names.tolist(), "age": self.age.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Dreams:
        tensors = state["starts"]
        world, agent = (Belief(*(part.to(device) for part in tensors[name])) for name in ("world", "agent"))
        starts = Starts(world, agent, *(tensors[name].to(device) for name in OF_STARTS))
        physics = [
            Physics.of_log(factors).changing([Change(**change) for change in changes])
            for factors, changes in state["physics"]
        ]
        return cls(starts, Worlds.of(physics), np.array(state["names"], object), np.array(state["age"], np.int64))

    def __add__(self, others: Dreams) -> Dreams:
        starts = self.starts.joined(others.starts)
        names, age = np.concatenate([self.names, others.names]), np.concatenate([self.age, others.age])
        return Dreams(starts, self.physics.joined(others.physics), names, age)


class Ended(NamedTuple):
    """What N dreams have come to."""

    at: Starts
    stands: Tensor  # (N,) bool: none of its steps ended it
    steps: int

    @classmethod
    def of(cls, rollout: Rollout) -> Ended:
        stands = (rollout.continuation.min(1).values >= 0.5) & torch.isfinite(rollout.observation[:, -1]).all(-1)
        return cls(rollout.end, stands, rollout.reward.shape[1])


def going_on(dreams: Dreams, ended: Ended, most: int, longest: int, rng: np.random.Generator) -> Dreams:
    """At most so many of the dreams that were just dreamt, drawn from those that can go on.

    Args:
        longest: steps from the logs, beyond which a dream is not followed: errors feed errors.
    """
    age = dreams.age + ended.steps
    eligible = np.flatnonzero(ended.stands.cpu().numpy() & (age + ended.steps <= longest))
    return Dreams(ended.at, dreams.physics, dreams.names, age)[rng.permutation(eligible)[:most]]
