"""What is learnt while dreaming: cloning first, then the actor-critic on dreams of the scenarios in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from dreaming.actor_critic import ActorCritic, ActorCriticConfig, fixed
from dreaming.agent import Actor, Agent, View
from dreaming.imagination import MAX_LATENCY, DreamPhysics, Starts, draw_starts, imagine
from dreaming.imitation import good_episodes, imitation_loss
from dreaming.logged_returns import logged_returns
from dreaming.ongoing import Dreams, Ended, going_on
from dreaming.scenario import LOGGED, Scenario, drawn_from
from dreaming.trust import TrustConfig, weighed
from envs.physics import Physics
from envs.worlds import Worlds
from worldmodel.context import PUSH
from worldmodel.device import device_of, numbers, random_state, set_random_state
from worldmodel.model import WorldModel
from worldmodel.optim import Gradients
from worldmodel.recorded import Recorded
from worldmodel.replay import Batch, Replay


@dataclass(frozen=True)
class DreamConfig:
    """How to dream and to learn from it; the defaults suit a laptop."""

    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    view: View = "blind"
    horizon: int = 32  # steps a dream is followed before the critic's value stands for the rest
    dreams: int = 64  # at once: many small updates teach more in a night than few large ones
    batch: int = 32  # segments of the logs, whose states are the starts
    length: int = 16
    logged_share: float = 0.5  # of the dreams stay under the physics that the log had
    demonstrations: float = 1.0  # share of the logs, best first, that is cloned
    go_on: float = 0.5  # share of the dreams that begin where one of the last ones ended
    longest: int = 160  # steps that a dream is followed in all, from the logs
    told: bool = True  # the world that is dreamt knows its physics; else it goes by its memory of the log
    trust: TrustConfig = field(default_factory=TrustConfig)


def dream_physics(
    model: WorldModel, physics: Sequence[Physics], first_step: np.ndarray, horizon: int, control_hz: float
) -> DreamPhysics:
    """Physics objects as the model takes them; pushes and changes come when the simulator's clock would have them."""
    worlds, spec = Worlds.of(physics), model.context
    if (late := worlds.column("latency_steps").max(initial=0)) >= MAX_LATENCY:
        raise UserError(f"a latency of {late:.0f} steps cannot be dreamt; give at most {MAX_LATENCY - 1}")
    context, known = spec.encode_all(len(worlds), worlds.label)
    column = spec.names.index(PUSH) if PUSH in spec.names else None
    push = np.zeros((len(worlds), horizon))
    if column is not None:
        push = worlds.pushes(first_step, horizon, control_hz) / spec.scale[column]
    strength = worlds.column("motor_strength")
    if len(changing := worlds.changing()):
        context, strength = np.repeat(context[:, None], horizon, 1), np.repeat(strength[:, None], horizon, 1)
        for i in changing:
            for steps, world in worlds[i].stretches(int(first_step[i]), horizon, control_hz):
                context[i, steps] = spec.encode(world.labels())[0]
                strength[i, steps] = world.motor_strength
    device = device_of(model)
    as_tensor = lambda values: torch.as_tensor(np.asarray(values, np.float32)).to(device)  # noqa: E731
    return DreamPhysics(
        context=as_tensor(context),
        known=as_tensor(known),
        strength=as_tensor(strength),
        latency=torch.as_tensor(worlds.column("latency_steps").astype(np.int64)).to(device),
        noise=as_tensor(worlds.column("sensor_noise")),
        push=as_tensor(push),
        push_column=column,
    )


class Dreamt(NamedTuple):
    """What is kept of N dreams once they have been learnt from."""

    ended: Ended
    paid: Tensor  # (N,) reward a step
    counted: Tensor | None  # () steps that were learnt from, if not all
    metrics: dict[str, Tensor]


class DreamLearner:
    """Actor and critic, the model they dream in, and the logs their dreams start from."""

    def __init__(
        self,
        model: WorldModel,
        replay: Replay,
        task: str,
        nominal: Physics,
        scenarios: Sequence[Scenario],
        control_hz: float,
        config: DreamConfig,
        seed: int = 0,
    ) -> None:
        if config.trust.acts:
            config.trust.calibration_of(model)
        # Gradients run through the model, and stop short of its weights.
        self.model, self.replay, self.task, self.nominal = model.eval().requires_grad_(False), replay, task, nominal
        self.scenarios, self.control_hz, self.config = list(scenarios), control_hz, config
        self.learner = ActorCritic(config.actor_critic, model, config.view)
        self.rng = np.random.default_rng(seed)
        self._logged = Worlds.of_logs((episode["physics"] for episode in replay.reader.episodes), nominal)
        self._imitation = Gradients(self._imitation_loss, self.learner.step.parameters)
        self._dreamt = Gradients(self._dream_loss, self.learner.step.parameters)
        self._observe = Recorded(model.observe)
        chosen = good_episodes(replay, config.demonstrations)
        self.demonstrations = Replay(replay.reader, replay.context, chosen, terminal_share=0.0, device=replay.device)
        self.imagined_steps = 0
        self.updates = 0
        self.begun_at: int | None = None  # updates when dreaming began from the present clone; None while it is made
        self.ongoing: Dreams | None = None  # what some of the next dreams go on from
        self.cost: dict[str, float] = {}  # reward a step that a scenario was last seen to cost the policy, in dreams

    def agent(self, seed: int = 0, actor: Actor | None = None) -> Agent:
        """The policy at work: the present one, or that actor's."""
        return Agent(self.model, actor or self.learner.actor, seed)

    def _imitation_loss(self, batch: Batch) -> tuple[Tensor, None]:
        estimate = batch.context  # looked at only by an actor that sees an estimate
        if self.config.view == "estimate":
            with torch.no_grad():
                estimate, _ = self.model.estimate_context(self.model.observe(batch, hidden=True))
        return imitation_loss(self.model, self.learner.actor, batch, estimate), None

    def clone(self, progress: float) -> dict[str, float]:
        """One step of behaviour cloning; `progress` in [0, 1] lowers the learning rate to a tenth."""
        a = self.config.actor_critic
        self._set_rates(a.clone_lr * 0.1**progress, a.critic_lr)
        batch = self.demonstrations.sample(self.config.batch, self.config.length, self.rng)
        loss, _, finite = self._imitation(batch)
        self.learner.step.take(finite)
        self.begun_at = None
        return {"imitation_loss": float(loss)}

    def _set_rates(self, actor: float, critic: float) -> None:
        for group, lr in zip(self.learner.optimizer.param_groups, (actor, critic), strict=True):
            group["lr"] = lr

    def draw(self, starts: Starts) -> tuple[Worlds, np.ndarray]:
        """Physics for each start: the log's own, or with a scenario's factors in place of the log's; and its name."""
        count, rng = len(starts.episode), self.rng
        logged = self._logged[starts.episode.cpu().numpy()]
        stay = rng.random(count) < self.config.logged_share
        which = np.full(count, -1)
        if self.scenarios:
            which = np.where(stay, -1, rng.choice(len(self.scenarios), count, p=self._shares()))
        start_s = starts.step.cpu().numpy() / self.control_hz
        return drawn_from(self.scenarios, which, self.task, rng, logged, start_s)

    def _shares(self) -> np.ndarray:
        """How much of the what-ifs each scenario gets: half evenly, half by its cost; what hurts is rehearsed more."""
        even = np.ones(len(self.scenarios)) / max(1, len(self.scenarios))
        cost = np.array([max(0.0, self.cost.get(scenario.name, 0.0)) for scenario in self.scenarios])
        return 0.5 * even + 0.5 * (cost / cost.sum() if cost.sum() > 0 else even)

    def _notice(self, names: np.ndarray, paid: np.ndarray, rate: float = 0.02) -> None:
        """Follows what each scenario costs, from imagined rewards a step (N,) and what each dream was about."""
        if not (names == LOGGED.name).any():
            return
        usual = float(paid[names == LOGGED.name].mean())
        for name in set(names) - {LOGGED.name}:
            cost = usual - float(paid[names == name].mean())
            held = self.cost.get(name, 0.0)
            self.cost[name] = held + rate * (cost - held)

    def forget(self, names: set[str]) -> None:
        """Dreams of these scenarios do not go on."""
        if self.ongoing:
            self.ongoing = self.ongoing[np.flatnonzero([name not in names for name in self.ongoing.names])]

    def _begun(self) -> Dreams:
        """Those that go on, and for the rest new ones from the logs."""
        count = self.config.dreams - (len(self.ongoing) if self.ongoing else 0)
        starts = self._starts(count)
        new = Dreams(starts, *self.draw(starts), np.zeros(count, np.int64))
        return self.ongoing + new if self.ongoing else new

    def _starts(self, count: int) -> Starts:
        c = self.config
        return draw_starts(self._observe, self.replay, c.view, count, c.batch, c.length, self.rng, c.told)

    def begin(self, enough: Callable[[], bool] = lambda: False) -> None:
        """From cloning to dreaming, once: the clone is kept, and the critic learns what the logs' rows were worth.

        Args:
            enough: asked before each of the critic's updates, whether to do without the rest of them.
        """
        if self.begun_at is not None:
            return
        learner, a, c = self.learner, self.config.actor_critic, self.config
        self._set_rates(0.0, a.critic_lr)
        for _ in range(a.critic_first):
            if enough():
                break
            starts = self._starts(c.batch * c.length // 2)
            episode, step = (numbers.cpu().numpy() for numbers in (starts.episode, starts.step))
            returns = logged_returns(self.replay, episode, step, a.discount)
            labels = self.replay.values[episode], self.replay.known[episode] * np.float32(c.told)
            context, known, returned = (torch.as_tensor(x, dtype=torch.float32) for x in (*labels, returns))
            told = (x.to(device_of(self.model)) for x in (context, known, returned))
            learner.step(learner.appraisal_loss(starts.world.feat(), *told))
            learner.follow()
        learner.begin()
        self.begun_at = self.updates

    def go_back(self, learner: dict[str, Any]) -> None:
        """To actor and critic as they were; what made them worse since is forgotten by the optimiser too."""
        skipped = self.learner.step.skipped  # told in the report
        self.learner.load_state_dict(learner)
        self.learner.optimise()
        self.learner.step.skipped = skipped

    def dream(self, progress: float) -> dict[str, float]:
        """One update of actor and critic on fresh dreams; `progress` in [0, 1] lowers the actor's rate to nothing."""
        c, learner = self.config, self.learner
        a = c.actor_critic
        self.begin()
        self._set_rates(a.lr * (1 - min(1.0, progress)), a.critic_lr)
        dreams = self._begun()
        first_step = dreams.starts.step.cpu().numpy()
        prepared = dream_physics(self.model, dreams.physics, first_step, c.horizon, self.control_hz)
        prepared.known *= c.told
        if not prepared.known.is_cpu:
            prepared = prepared.lasting(c.horizon)  # of one shape, as it is recorded, whether anything changes or not
        _, found, finite = self._dreamt(dreams.starts, prepared)
        self._notice(dreams.names, found.paid.cpu().numpy())
        # Bounds hold from a logged state on; one that was dreamt has none to begin with.
        most = 0 if c.trust.cut else round(c.go_on * c.dreams)
        self.ongoing = going_on(dreams, found.ended, most, c.longest, self.rng)
        learner.step.take(finite)
        learner.follow()
        self.imagined_steps += c.dreams * c.horizon if found.counted is None else int(found.counted)
        self.updates += 1
        costs = {f"cost_of_{name}": value for name, value in self.cost.items()}
        return numbers(found.metrics) | costs

    def _dream_loss(self, starts: Starts, physics: DreamPhysics) -> tuple[Tensor, "Dreamt"]:
        c, learner = self.config, self.learner
        with torch.set_grad_enabled(c.actor_critic.gradient == "dynamics"):
            rollout = imagine(self.model, fixed(learner.actor), starts, physics, c.horizon, explore=True, noisy=True)
            weighted, counted, trust = weighed(c.trust, self.model, rollout)
        loss, metrics = learner.losses(self.model, weighted, counted)
        steps = None if counted is None else counted.sum()
        return loss, Dreamt(Ended.of(rollout), rollout.reward.mean(1), steps, metrics | trust)

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            **random_state(device_of(self.model)),
            "numpy_random": self.rng.bit_generator.state,
            "imagined_steps": self.imagined_steps,
            "updates": self.updates,
            "begun_at": self.begun_at,
            "cost": self.cost,
            "ongoing": self.ongoing.state_dict() if self.ongoing else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        set_random_state(state, device_of(self.model))
        self.rng.bit_generator.state = state["numpy_random"]
        self.imagined_steps, self.updates = int(state["imagined_steps"]), int(state["updates"])
        self.begun_at = state.get("begun_at", 0 if self.updates else None)  # checkpoints of 0.1 lack it
        self.cost = dict(state["cost"])
        ongoing = state.get("ongoing")
        self.ongoing = Dreams.from_state(ongoing, device_of(self.model)) if ongoing else None
