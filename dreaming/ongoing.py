"""Dreams that go on: some of the next ones begin where some of the last ones ended, in the same world.

Logs hold the states that a demonstrator gets into. Who has learnt to creep over ice gets into others, and has to learn
what to do there: where it stops, and how it sets off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dreaming.imagination import OF_STARTS, Rollout, Starts
from envs.physics import Change, Physics
from worldmodel.model import Belief


@dataclass
class Dreams:
    """N dreams, each about to be dreamt on."""

    starts: Starts
    physics: list[Physics]
    names: list[str]  # of the scenario, or `logged`
    age: np.ndarray  # (N,) steps since they left the logs

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: Sequence[int] | np.ndarray) -> Dreams:
        index = torch.as_tensor(np.asarray(which, np.int64)).to(self.starts.vector.device)
        physics, names = [self.physics[i] for i in which], [self.names[i] for i in which]
        return Dreams(self.starts[index], physics, names, self.age[which])

    def state_dict(self) -> dict[str, Any]:
        tensors = {"world": tuple(self.starts.world), "agent": tuple(self.starts.agent)}
        tensors |= {name: getattr(self.starts, name) for name in OF_STARTS}
        worlds = [(physics.labels(), [asdict(change) for change in physics.changes]) for physics in self.physics]
        return {"starts": tensors, "physics": worlds, "names": self.names, "age": self.age.tolist()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Dreams:
        tensors = state["starts"]
        world, agent = (Belief(*(part.to(device) for part in tensors[name])) for name in ("world", "agent"))
        starts = Starts(world, agent, *(tensors[name].to(device) for name in OF_STARTS))
        physics = [
            Physics.of_log(factors).changing([Change(**change) for change in changes])
            for factors, changes in state["physics"]
        ]
        return cls(starts, physics, list(state["names"]), np.array(state["age"], np.int64))

    def __add__(self, others: Dreams) -> Dreams:
        starts = self.starts.joined(others.starts)
        age = np.concatenate([self.age, others.age])
        return Dreams(starts, self.physics + others.physics, self.names + others.names, age)


def going_on(dreams: Dreams, rollout: Rollout, most: int, longest: int, rng: np.random.Generator) -> Dreams:
    """At most so many of the dreams that were just dreamt, drawn from those that can go on.

    Args:
        longest: steps from the logs, beyond which a dream is not followed: errors feed errors.
    """
    steps = rollout.reward.shape[1]
    stands = (rollout.continuation.min(1).values >= 0.5) & torch.isfinite(rollout.observation[:, -1]).all(-1)
    age = dreams.age + steps
    eligible = np.flatnonzero(stands.cpu().numpy() & (age + steps <= longest))
    return Dreams(rollout.end, dreams.physics, dreams.names, age)[rng.permutation(eligible)[:most]]
