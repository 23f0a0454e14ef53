"""The base of every PyBullet environment: one client each, its world rebuilt at every reset.

Bullet repeats itself bit for bit in a rebuilt world, and does not after restoring a saved state
(contact caches are lost), so a logged episode is entered by replaying it from its first step: `start_at`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from configs import UserError
from envs.bullet_engine import pybullet, quiet
from envs.camera import View, take_picture
from envs.physics import Physics, check_changeable

if TYPE_CHECKING:
    from worldmodel.episode import Episode

CAMERA_SIZE = 64


class Outcome(NamedTuple):
    """What a step came to. `failure` ends the episode; `success` says that it would count as solved if it ended now."""

    reward: float
    failure: bool
    success: bool
    progress: float


class BulletEnv(gymnasium.Env[Any, np.ndarray]):
    """A task fills in the class attributes and the hooks below.

    Observation: float32 vector (D,), or with a camera {"vector": (D,), "image": uint8 (64, 64, 3)}.
    Action: float32 (A,) in [-1, 1]; what lies outside is clipped. What reaches the motors is
    `motor_strength` times the command given `latency_steps` earlier (nothing before the first arrives).
    Seeds decide everything: start state and sensor noise. `reset(options={"physics": ...})` takes a Physics,
    or a dict of the factors that differ from the task's nominal ones; without it the physics given at the start holds.
    Its changes come in the control steps that they are due in; `physics` is always the world as it is now.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}

    task_name: ClassVar[str]
    control_hz: ClassVar[float]
    max_steps: ClassVar[int]
    nominal: ClassVar[Physics]
    observation_names: ClassVar[list[str]]
    action_names: ClassVar[list[str]]
    engine: ClassVar[dict[str, Any]]  # arguments of setPhysicsEngineParameter, numSubSteps among them
    view: ClassVar[View]
    reset_only: ClassVar[frozenset[str]] = frozenset()  # factors that cannot change while an episode runs
    unused: ClassVar[frozenset[str]] = frozenset()  # factors that this task has not; setting one is an error

    def __init__(self, camera: bool = False, physics: Physics | None = None) -> None:
        self.camera = camera
        self.render_mode = "rgb_array"
        self.metadata = {**self.metadata, "render_fps": self.control_hz}
        size = len(self.observation_names)
        vector = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        image = spaces.Box(0, 255, (CAMERA_SIZE, CAMERA_SIZE, 3), np.uint8)
        self.observation_space = spaces.Dict({"vector": vector, "image": image}) if camera else vector
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.action_names),), np.float32)
        with quiet():
            self.client: int = pybullet.connect(pybullet.DIRECT)
        self._disconnect = weakref.finalize(self, pybullet.disconnect, self.client)
        self._own_physics = self._given = self.physics = self._checked(physics or self.nominal)
        self.steps = 0
        self._over = True
        self._artist: Self | None = None
        self.drawn_x_m = 0.0

    # -- hooks ---------------------------------------------------------------------------------

    def _build(self) -> None:
        """Loads the bodies into an empty world; `self.physics` is set, gravity and engine too."""
        raise NotImplementedError

    def _apply_physics(self) -> None:
        """Gives Bullet every factor but gravity, slope, light and the interface; called after _build and on a switch.

        Bullet keeps friction and mass until told otherwise, so set every factor, not only those that differ.
        """
        raise NotImplementedError

    def _reset_state(self, rng: np.random.Generator) -> None:
        """Places the bodies."""
        raise NotImplementedError

    def _apply(self, applied_action: np.ndarray) -> None:
        """Commands the motors for one control step."""
        raise NotImplementedError

    def _observe(self) -> np.ndarray:
        """Returns the true state as the vector (D,), without noise; called once after every reset and step."""
        raise NotImplementedError

    def _outcome(self, vector: np.ndarray, applied_action: np.ndarray) -> Outcome:
        """Judges the step that led to the true state `vector`."""
        raise NotImplementedError

    def _push(self, speed_m_s: float) -> None:
        """Gives the whole body this speed along +x, at once or spread over the coming control step."""
        raise NotImplementedError

    def _perturb(self, offset: np.ndarray) -> None:
        """Moves the true state by about `offset` (D,), as far as the channels are independent."""
        raise NotImplementedError

    def _draw(self, vector: np.ndarray) -> None:
        """Poses the bodies as the observation says; velocities and contacts do not matter."""
        raise NotImplementedError

    def _camera_view(self) -> View:
        return self.view

    # -- Gymnasium -----------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        physics = (options or {}).get("physics", self._own_physics)
        if isinstance(physics, Mapping):
            physics = Physics.from_dict(physics, self.nominal)
        self._given = self._checked(physics)
        self.physics = self._given.at(0, self.control_hz)
        # Two streams: the start state does not depend on how much noise was drawn.
        start_rng, self._noise_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
        self.steps = 0
        self._over = False
        self._commands: list[np.ndarray] = []
        with quiet():
            pybullet.resetSimulation(physicsClientId=self.client)
            pybullet.setPhysicsEngineParameter(
                fixedTimeStep=1.0 / self.control_hz,
                deterministicOverlappingPairs=1,
                enableFileCaching=0,  # for every name, for ever: robots are loaded from files of names of their own
                physicsClientId=self.client,
                **self.engine,
            )
            self._set_gravity()
            self._build()
            self._apply_physics()
            self._reset_state(start_rng)
        self._vector = self._observe()
        return self._sensed(), {"seed": seed}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise UserError(f"{self.task_name}: the episode is over or was not begun; call reset first")
        self._commands.append(self._command(action))
        if self._given.changes and (now := self._given.at(self.steps, self.control_hz)) != self.physics:
            self._enter(now)
        late = self.steps - int(self.physics.latency_steps)
        command = self._commands[late] if late >= 0 else np.zeros(len(self.action_names), np.float32)
        applied = command * np.float32(self.physics.motor_strength)
        push = self._given.push_at(self.steps, self.control_hz)
        if push:
            self._push(push)
        self._apply(applied)
        pybullet.stepSimulation(physicsClientId=self.client)
        self.steps += 1
        self._vector = self._observe()
        outcome = self._outcome(self._vector, applied)
        truncated = self.steps >= self.max_steps
        self._over = outcome.failure or truncated
        info = {
            "applied_action": applied,
            "push": push,
            "success": outcome.success,
            "failure": outcome.failure,
            "progress": outcome.progress,
        }
        return self._sensed(), outcome.reward, outcome.failure, truncated, info

    def render(self, width: int = 480, height: int = 360) -> np.ndarray:
        """Draws the true state: uint8 (height, width, 3)."""
        return take_picture(self.client, self._camera_view(), self.physics, width, height)

    def close(self) -> None:
        if self._artist is not None:
            self._artist.close()
        self._disconnect()

    # -- beyond Gymnasium ----------------------------------------------------------------------

    def set_physics(self, physics: Physics | Mapping[str, float]) -> None:
        """Switches the world under a running episode; a dict names the factors to change.

        Changes on the way go by the episode's clock, whenever they are given.
        """
        physics = Physics.from_dict(physics, self._given) if isinstance(physics, Mapping) else physics
        for name in sorted(self.reset_only):
            if getattr(physics, name) != getattr(self.physics, name):
                raise UserError(f"{self.task_name}: {name} is fixed while an episode runs; give it to reset")
        self._given = self._checked(physics)
        self._enter(self._given.at(self.steps, self.control_hz))

    def perturb(self, rng: np.random.Generator, scale: np.ndarray) -> None:
        """Kicks the true state: every observation channel by about a normal draw times `scale` (D,), in its unit.

        An approximation: channels that follow from others (differences, contact, goals) are left to follow,
        and a sine and cosine share one kick. Contact caches are lost, which is part of the simulator's own floor.
        """
        self._perturb(rng.normal(size=len(self.observation_names)) * np.asarray(scale, np.float64))
        self._vector = self._observe()

    def render_vector(
        self,
        vector: np.ndarray,
        width: int = 480,
        height: int = 360,
        ghost_of: np.ndarray | None = None,
        x_m: float = 0.0,
    ) -> np.ndarray:
        """Draws the scene as an observation (true, dreamt) says, from the observation alone.

        Args:
            vector: (D,) in the task's channels.
            ghost_of: a second vector (D,), drawn faintly into the same picture.
            x_m: the place along the way, for a task that does not observe it; `travelled` gives it for a rollout.
        """
        artist = self._ready_artist()
        artist.drawn_x_m = x_m
        pictures, view = [], None
        for pose in [vector] if ghost_of is None else [vector, ghost_of]:
            pose = np.nan_to_num(np.asarray(pose, np.float64), nan=0.0, posinf=10.0, neginf=-10.0)
            artist._draw(np.clip(pose, -100.0, 100.0))
            view = view or artist._camera_view()
            pictures.append(take_picture(artist.client, view, self.physics, width, height).astype(np.float32))
        weights = [0.65, 0.35] if len(pictures) == 2 else None
        return np.average(pictures, axis=0, weights=weights).round().astype(np.uint8)

    @classmethod
    def travelled(cls, vectors: np.ndarray) -> np.ndarray:
        """Metres along +x (T,) that a rollout (T, D) implies; zeros where the observation holds the position."""
        return np.zeros(len(vectors))

    @classmethod
    def solved(cls, vectors: np.ndarray) -> bool:
        """Whether an episode of these observations (T + 1, D), true or dreamt, comes to a success, as far as they tell.

        They run from the start to the end of an episode that did not end in failure.
        """
        return True

    @classmethod
    def ended(cls, vectors: np.ndarray) -> np.ndarray:
        """Whether the task ends in failure in each of these states (..., D), true or dreamt, as far as they tell."""
        return np.zeros(vectors.shape[:-1], bool)

    # -- inside --------------------------------------------------------------------------------

    def _ready_artist(self) -> Self:
        """A world of its own to draw in: drawing must not move the one that is running."""
        if self._artist is None:
            self._artist = type(self)()
        if self._artist._over or self._artist.physics != self.physics:
            self._artist.reset(seed=0, options={"physics": self.physics})
        return self._artist

    def _enter(self, physics: Physics) -> None:
        self.physics = physics
        self._set_gravity()
        self._apply_physics()

    def _checked(self, physics: Physics) -> Physics:
        if not isinstance(physics, Physics):
            raise UserError(f"{self.task_name}: physics must be a Physics or a dict of factors, not {physics!r}")
        changing = {name for change in physics.changes for name in change.factors}
        for name in sorted(self.unused):
            if name in changing or getattr(physics, name) != getattr(self.nominal, name):
                raise UserError(f"{self.task_name}: {name} has no meaning in this task; leave it out")
        check_changeable(self.task_name, sorted(changing), self.reset_only)
        return physics

    def _set_gravity(self) -> None:
        slope = math.radians(self.physics.slope_deg)
        size = self.physics.gravity_m_s2
        pybullet.setGravity(-size * math.sin(slope), 0.0, -size * math.cos(slope), physicsClientId=self.client)

    def _command(self, action: np.ndarray) -> np.ndarray:
        command = np.array(action, np.float32)
        if command.shape != self.action_space.shape:
            raise UserError(f"{self.task_name}: an action has shape {self.action_space.shape}, not {command.shape}")
        if not np.isfinite(command).all():
            raise UserError(f"{self.task_name}: the action at step {self.steps} is not finite: {command}")
        return np.clip(command, -1.0, 1.0)

    def _sensed(self) -> Any:
        # Drawn also at zero noise, so that a switch of physics does not shift the stream.
        noise = self._noise_rng.standard_normal(len(self.observation_names))
        vector = (self._vector + self.physics.sensor_noise * noise).astype(np.float32)
        return {"vector": vector, "image": self.render(CAMERA_SIZE, CAMERA_SIZE)} if self.camera else vector


def start_at(env: BulletEnv, episode: Episode, step: int, physics: Physics | None = None) -> Any:
    """Replays a logged episode to `step` and switches to `physics`; returns the observation there.

    Raises:
        UserError: the log cannot be replayed bit for bit (another version, or physics that the log does not state).
    """
    if not 0 <= step <= len(episode.action):
        raise UserError(f"step {step} is outside the episode's {len(episode.action)} steps")
    if "seed" not in episode.info:
        raise UserError("the episode does not state its seed (info.seed); only simulated episodes can be replayed")
    logged = episode.observation["vector"]
    physics_then = Physics.from_dict(episode.physics, env.nominal)
    observation, _ = env.reset(seed=int(episode.info["seed"]), options={"physics": physics_then})
    for t in range(step + 1):
        vector = observation["vector"] if isinstance(observation, dict) else observation
        if not np.array_equal(vector, logged[t]):
            channel = env.observation_names[int(np.argmax(vector != logged[t]))]
            raise UserError(
                f"the log does not replay: at step {t} {channel} differs (seed {episode.info['seed']}); "
                "was it recorded by another version of the simulator?"
            )
        if t < step:
            observation, *_ = env.step(episode.action[t])
    if physics is not None:
        env.set_physics(physics)
    return observation
