"""Dreams behind Gymnasium's API, thousands at once or one alone: any agent may practise in them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from configs import UserError
from dreaming.imagination import DreamPhysics, Moment, Starts, draw_starts, dream_step
from dreaming.learning import DreamConfig, dream_physics
from dreaming.run import RunFolder
from dreaming.scenario import Scenario, drawn_from, load_scenarios, usual_world
from envs.physics import FACTORS, Physics
from envs.worlds import Worlds
from worldmodel.lessons import split_episodes
from worldmodel.model import Belief, WorldModel
from worldmodel.replay import Replay
from worldmodel.saved import load_model
from worldmodel.storage import LogReader

# Terminations are no draws from the continuation, though that is a probability. Its small errors add up over a dream:
# on held-out logs of push-box drawn ones were four times too many (335 for 80 true ones; 68 fell below a half), on
# hopper's as good (293 and 280 for 353). An audit counts imagined falls likewise.
ENDS_BELOW = 0.5
SEGMENT = 16  # rows of the logs that are filtered together for starts


class DreamVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N dreams in one world model; each begins at a state of the logs, told the physics it is dreamt under.

    Observation: float32 vector (N, D) in the log's units, as the robot's sensors would have it. Action: (N, A) in
    [-1, 1]; what lies outside is clipped. Reward: as the model predicts it. A dream terminates where the model thinks
    it likelier than not that the episode ends, and is cut off (truncated) after `horizon` steps.

    Info, by Gymnasium's rules for vectors: `logged_episode` and `logged_step` say where in the log the dream began,
    `scenario`, `physics` (by factor) and `changes` (of it on the way, by the episode's clock) what it is dreamt under:
    with the actions, all that a simulator needs to repeat it; `continuation` is the predicted probability of going on.

    Seeds: `reset(seed=...)` decides starts, worlds and everything that is drawn, and leaves torch's own stream alone.

    Args:
        replay: logs whose states are the starts.
        scenarios: one of these is drawn for every dream, and sets its factors in the log's physics; without any the
            log's physics stays.
        nominal: what factors are where a log does not state them.
        noisy: observations scatter as the model says that they do, so that an agent cannot count on the expected one.
        autoreset_mode: SAME_STEP, or DISABLED (then `reset(options={"reset_mask": ...})` begins anew what is over).
    """

    def __init__(
        self,
        model: WorldModel,
        replay: Replay,
        task: str,
        num_envs: int,
        scenarios: Sequence[Scenario] = (),
        nominal: Physics | None = None,
        horizon: int = DreamConfig.horizon,
        noisy: bool = True,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("horizon", horizon)):
            if value < 1:
                raise UserError(f"dreams: {name} = {value}; at least 1 is needed")
        if autoreset_mode == AutoresetMode.NEXT_STEP:
            raise UserError("dreams: autoreset_mode NEXT_STEP is not offered; give SAME_STEP or DISABLED")
        for scenario in scenarios:
            if missing := [f for f in scenario.factors(task) if not model.context.covers(f)]:
                raise UserError(f"scenario {scenario.name}: the logs never vary {', '.join(missing)}; leave it out")
        self.model, self.replay, self.task = model.eval().requires_grad_(False), replay, task
        self.num_envs, self.horizon, self.noisy = num_envs, horizon, noisy
        self.scenarios, nominal = list(scenarios), nominal or usual_world(task, model.context)
        self._logged = Worlds.of_logs((episode["physics"] for episode in replay.reader.episodes), nominal)
        self.control_hz = float(replay.reader.schema["control_hz"])
        self.autoreset_mode = autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": [], "render_fps": self.control_hz}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (model.spaces.vector,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (model.spaces.action,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._random: Tensor | None = None  # state of the stream of its own
        self._pool: Starts | None = None  # starts that wait for their turn
        self._moment: Moment | None = None
        self._over = np.ones(num_envs, bool)
        self._age = np.zeros(num_envs, np.int64)
        self._about: dict[str, Any] = {
            "logged_episode": np.zeros(num_envs, np.int64),
            "logged_step": np.zeros(num_envs, np.int64),
            "scenario": np.full(num_envs, None, object),
            "changes": np.full(num_envs, None, object),
            "continuation": np.ones(num_envs, np.float32),
            "physics": {name: np.zeros(num_envs) for name in FACTORS},
        }

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        num_envs: int,
        scenario: str | Path | None = None,
        horizon: int | None = None,
        held_out: bool = False,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
    ) -> Self:
        """Dreams of a run folder's world model, from its logs.

        Args:
            scenario: as `dreaming.scenario.load_scenarios` takes it, "nominal,slippery" say; None: as logged.
            horizon: the run's own, unless told otherwise.
            held_out: start from the episodes that the model has not learnt from.
        """
        run = RunFolder(Path(path))
        config = run.config()
        model, _ = load_model(run.checkpoints)
        reader = LogReader(run.logs(config))
        replay = Replay(reader, model.context, split_episodes(reader)[held_out], terminal_share=0.0)
        scenarios = [] if scenario is None else load_scenarios(scenario, config.task)
        steps = config.dream.horizon if horizon is None else horizon
        return cls(model, replay, config.task, num_envs, scenarios, None, steps, autoreset_mode=autoreset_mode)

    # -- Gymnasium -----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._random is None:
            self._random = torch.Generator().manual_seed(int(self.np_random.integers(2**63))).get_state()
            self._pool = None
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UserError(f"reset_mask must be {self.num_envs} bools, one of them True, not {mask!r}")
        if self._moment is None and not mask.all():
            raise UserError("the first reset begins all dreams; leave reset_mask out")
        self._begin(np.flatnonzero(mask))
        return self._observation(), _masked(self._about, mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        moment = self._moment
        if moment is None or self._over.any():
            raise UserError(f"dreams {np.flatnonzero(self._over)[:5].tolist()} are over or were not begun; reset them")
        command = torch.as_tensor(self._checked(actions)).clamp(-1, 1)
        age = torch.as_tensor(self._age)
        push = self._physics.push[torch.arange(self.num_envs), age]
        with self._own_random():
            moment, _ = dream_step(self.model, moment, command, self._physics.at(age), push, self.noisy)
            reward = self.model.predict_reward(moment.world).numpy()
            continuation = self.model.predict_continuation(moment.world).numpy()
        self._moment = moment
        self._age += 1
        if not torch.isfinite(moment.seen).all():
            raise UserError(f"a dream has left all finite numbers within {self._age.max()} steps; give less horizon")
        self._about["continuation"] = continuation
        terminated = continuation < ENDS_BELOW
        truncated = (self._age >= self.horizon) & ~terminated
        over = terminated | truncated
        self._over = over.copy()
        everyone = np.ones(self.num_envs, bool)
        if self.autoreset_mode == AutoresetMode.DISABLED or not over.any():
            return self._observation(), reward, terminated, truncated, _masked(self._about, everyone)
        final = np.full(self.num_envs, None, object)
        for row in np.flatnonzero(over):
            final[row] = moment.seen[row].numpy().copy()
        last = {"final_obs": final, "_final_obs": over, "final_info": _masked(self._about, over), "_final_info": over}
        self._begin(np.flatnonzero(over))
        return self._observation(), reward, terminated, truncated, _masked(self._about, everyone) | last

    # -- dreams --------------------------------------------------------------------------------------------------------

    def _begin(self, rows: np.ndarray) -> None:
        """New dreams in these rows."""
        with self._own_random():
            starts = self._take(len(rows))
        worlds, names = self._worlds(starts)
        physics = dream_physics(self.model, worlds, starts.step.numpy(), self.horizon, self.control_hz)
        if any(scenario.events_for(self.task) for scenario in self.scenarios):
            physics = physics.lasting(self.horizon)
        if self._moment is None:
            self._moment, self._physics = Moment.first(starts), physics
        else:
            at = torch.as_tensor(rows)
            self._moment, self._physics = _with_rows(self._moment, self._physics, at, starts, physics)
        self._age[rows], self._over[rows] = 0, False
        about = self._about
        about["logged_episode"][rows], about["logged_step"][rows] = starts.episode.numpy(), starts.step.numpy()
        about["scenario"][rows], about["continuation"][rows] = names, 1.0
        about["changes"][rows] = worlds.changes
        for name, column in about["physics"].items():
            column[rows] = worlds.column(name)

    def _take(self, count: int) -> Starts:
        """Starts out of the pool, which is filled again for many dreams at a time: filtering is dear."""
        if self._pool is None or len(self._pool.episode) < count:
            pool = max(self.num_envs, 256)
            segments = -(-pool // (SEGMENT // 2))
            rng = self.np_random
            self._pool = draw_starts(self.model.observe, self.replay, "blind", pool, segments, SEGMENT, rng)
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken

    def _worlds(self, starts: Starts) -> tuple[Worlds, np.ndarray]:
        """What each dream is dreamt under, and what that is called."""
        logged, start_s = self._logged[starts.episode.numpy()], starts.step.numpy() / self.control_hz
        which = np.full(len(logged), -1)
        if self.scenarios:
            which = self.np_random.integers(len(self.scenarios), size=len(logged))
        return drawn_from(self.scenarios, which, self.task, self.np_random, logged, start_s)

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        assert self._random is not None
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.set_rng_state(self._random)
            yield
            self._random = torch.get_rng_state()

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        command = np.array(actions, np.float32)
        if command.shape != self.action_space.shape:
            raise UserError(f"dreams: actions have shape {self.action_space.shape}, not {command.shape}")
        if not np.isfinite(command).all():
            raise UserError(f"dreams: the action of dream {np.argwhere(~np.isfinite(command))[0][0]} is not finite")
        return command

    def _observation(self) -> np.ndarray:
        assert self._moment is not None
        return self._moment.seen.numpy().copy()


class DreamEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One dream: a `DreamVectorEnv` of one that does not begin anew by itself."""

    def __init__(self, dreams: DreamVectorEnv) -> None:
        if dreams.num_envs != 1 or dreams.autoreset_mode != AutoresetMode.DISABLED:
            raise UserError(
                f"DreamEnv shows one dream without autoreset, not {dreams.num_envs} with {dreams.autoreset_mode.name}"
            )
        self.dreams = dreams
        self.observation_space, self.action_space = dreams.single_observation_space, dreams.single_action_space
        self.metadata = {"render_modes": [], "render_fps": dreams.control_hz}

    @classmethod
    def from_run(
        cls, path: str | Path, scenario: str | Path | None = None, horizon: int | None = None, held_out: bool = False
    ) -> Self:
        """As `DreamVectorEnv.from_run`."""
        return cls(DreamVectorEnv.from_run(path, 1, scenario, horizon, held_out, AutoresetMode.DISABLED))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation, infos = self.dreams.reset(seed=seed)
        return observation[0], info_of(infos, 0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, infos = self.dreams.step(np.asarray(action)[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info_of(infos, 0)


def _with_rows(
    moment: Moment, physics: DreamPhysics, rows: Tensor, starts: Starts, drawn: DreamPhysics
) -> tuple[Moment, DreamPhysics]:
    """Moment and physics with new ones in these rows."""
    first = Moment.first(starts)
    world = Belief(*(old.index_copy(0, rows, new) for old, new in zip(moment.world, first.world, strict=True)))
    rest = (old.index_copy(0, rows, new) for old, new in zip(moment[1:], first[1:], strict=True))
    values: dict[str, Any] = {
        name: old.index_copy(0, rows, getattr(drawn, name)) if isinstance(old, Tensor) else old
        for name, old in vars(physics).items()
    }
    return Moment(world, *rest), DreamPhysics(**values)


def _masked(values: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Gymnasium's info of vectors: beside every entry, whose it is."""
    infos: dict[str, Any] = {}
    for name, value in values.items():
        infos[name] = _masked(value, mask) if isinstance(value, Mapping) else value.copy()
        infos[f"_{name}"] = mask.copy()
    return infos


def info_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One environment's info out of a vector's."""
    return {
        name: info_of(value, row) if isinstance(value, Mapping) else value[row]
        for name, value in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][row]
    }
