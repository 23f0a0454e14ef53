"""A run is a folder: `config.yaml`, `episodes/`, `checkpoints/`, `audit/`, `report/`, `wandb/`, `progress.json`."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from configs import UserError, from_dict, load_yaml, packaged, packaged_names, to_dict
from dreaming.actor_critic import ActorCritic
from dreaming.agent import Agent
from dreaming.learning import DreamConfig
from worldmodel import checkpoint
from worldmodel.device import CPU
from worldmodel.lock import LOCK, locked
from worldmodel.log_format import SCHEMA
from worldmodel.model import WorldModel
from worldmodel.processes import runs
from worldmodel.saved import build_model, place
from worldmodel.trainer import TrainerConfig

CLONE, LATEST, BEST = "policy-cloned", "policy-latest", "policy-best"
OF_RUNS = {"best": BEST, "cloned": CLONE, "latest": LATEST}  # as users say them
ONNX = "policy.onnx"  # what export-policy makes
ZERO_STEP = "policy-zero-step"  # the best before a wake
OURS = {"config.yaml", "episodes", "episodes.importing", "checkpoints", "plots", "audit", "report", "wandb"}
OURS |= {"metrics.jsonl", "progress.json", "survival.json", "evaluation.json", "audit-dreams", ONNX, LOCK}


@dataclass(frozen=True)
class NightConfig:
    """What a night is about; kept as the run's `config.yaml`, and the same when the run goes on."""

    task: str
    seed: int = 0
    size: str = "laptop"
    scenario: str = "edge-cases"  # names with commas between; `search` has the night find some itself
    episodes: int = 600  # starter logs that are recorded where none are given
    data: str = ""  # folder of the logs; empty for the run's own `episodes`
    audit_horizon: int = 50  # steps a dream is followed in the audit
    film_steps: int = 60  # steps shown in a film
    select: bool = True  # try the policy in the simulator now and then and keep the best; else keep the last
    wake: int = 0  # simulator steps to learn from where audits say that the model is wrong
    gate: bool = True  # audits refuse scenarios that the model errs too much in
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)

    @classmethod
    def for_task(cls, task: str) -> "NightConfig":
        """The defaults, with the task's own where configs/tasks/ has some."""
        own = packaged("tasks", task) if task in packaged_names("tasks") else {}
        return from_dict(cls, {**own, "task": task}, f"configs/tasks/{task}.yaml")


@dataclass
class Progress:
    """What has happened so far; written whole after every phase and every minute, so a killed night goes on from it."""

    nights: int = 0  # finished ones
    done: list[str] = field(default_factory=list)  # phases of the present night
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, over all nights
    simulator_steps: dict[str, int] = field(default_factory=dict)  # by purpose
    imagined_steps: int = 0
    updates: int = 0  # of the policy, over all nights
    best_score: float | None = None
    best_worlds: str = ""  # what the score was measured on; scores on other worlds do not compare
    refused: dict[str, str] = field(default_factory=dict)  # scenario: reason
    exploration: dict[str, Any] = field(default_factory=dict)  # what a night found that was to find its own what-ifs
    disagreement: dict[str, float] = field(default_factory=dict)  # scenario: error of its dreams over standing still's
    woken: int = 0  # the night, counted from 1, of the last wake that is over
    selection: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def count(self, purpose: str, steps: int) -> None:
        self.simulator_steps[purpose] = self.simulator_steps.get(purpose, 0) + int(steps)

    def took(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


class RunFolder:
    """Opens a run folder, or makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.episodes = path / "episodes"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self._claim_new: ExitStack | None = None  # where `create` puts the lock

    @property
    def exists(self) -> bool:
        return (self.path / "config.yaml").is_file()

    def check_free(self) -> None:
        """A new run may begin here: nothing, or nothing that is not a run's.

        Raises:
            UserError: a file, or a folder of something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --run takes a folder, a new one or an earlier run's")
        strange = sorted(e.name for e in self.path.iterdir() if e.name not in OURS) if self.path.is_dir() else []
        if strange:
            held = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
            raise UserError(
                f"{self.path} is no run folder (it holds {held}); give a new or empty one, or an earlier run's"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other nights off this folder meanwhile; a new one is claimed when `create` makes it.

        Raises:
            UserError: another night, or a world model that learns, is going on here; with its process id.
        """
        with ExitStack() as claim:
            self._claim_new = None if self.exists else claim
            try:
                if self.exists:
                    claim.enter_context(locked(self.path))
                    self._sweep()
                yield
            finally:
                self._claim_new = None

    def _sweep(self) -> None:
        """Removes what killed processes had written aside and not yet renamed."""
        for stray in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            writer = stray.name.split(".")[-2]
            if writer.isdigit() and not runs(int(writer)):
                stray.unlink(missing_ok=True)

    def create(self, config: NightConfig) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if self._claim_new is not None:
            self._claim_new.enter_context(locked(self.path))
            self._claim_new = None
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        checkpoint.write_atomically(self.path / "config.yaml", text.encode())

    def config(self) -> NightConfig:
        if not self.exists:
            what = "does not exist" if not self.path.exists() else "is no run folder (it has no config.yaml)"
            raise UserError(f"{self.path} {what}; dream --run {self.path} makes one")
        where = self.path / "config.yaml"
        settings = load_yaml(where)
        if not isinstance(settings.get("task"), str):
            raise UserError(f"{where} lacks task: it is no run's; give a new --run")
        return from_dict(NightConfig, {**to_dict(NightConfig.for_task(settings["task"])), **settings}, str(where))

    def logs(self, config: NightConfig) -> Path:
        return Path(config.data) if config.data else self.episodes

    def has_logs(self, config: NightConfig) -> bool:
        return (self.logs(config) / SCHEMA).is_file()

    def progress(self) -> Progress:
        file = self.path / "progress.json"
        if not file.exists():
            return Progress()
        try:
            held = json.loads(file.read_text())
            if isinstance(held, dict):
                held.pop("best_return", None)  # of nights before; their scores are measured anew
            return from_dict(Progress, held, str(file))
        except ValueError as error:
            raise UserError(f"{file} is not readable as JSON ({error}); move it away to begin the night anew") from None

    def save_progress(self, progress: Progress) -> None:
        self.write_json("progress.json", to_dict(progress))

    def write_json(self, name: str, data: Any) -> Path:
        path = self.path / name
        checkpoint.write_atomically(path, json.dumps(data, indent=1, allow_nan=False, default=float).encode())
        return path

    def read_json(self, name: str) -> Any:
        """None where the file is missing or not JSON."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def log(self, *records: dict[str, Any]) -> None:
        """Append lines of metrics: all of them, or none where the disk is full."""
        whole = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record) + "\n" for record in records))
        except OSError:
            if self.metrics.exists():
                os.truncate(self.metrics, whole)
            raise

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole line; a night killed while writing leaves half a line, which is passed over."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    def has_policy(self) -> bool:
        return any(checkpoint.exists(self.checkpoints, name) for name in (BEST, LATEST, CLONE))

    def load_agent(self, name: str = BEST, seed: int = 0, device: torch.device = CPU) -> Agent:
        """The policy of that name with the world model it filters with, ready to act."""
        state, meta = self.policy(name)
        return self.agent(state, meta, seed, device)

    def policy(self, name: str = BEST) -> tuple[dict[str, Any], dict[str, Any]]:
        """State and manifest of the policy of that name; of the next one to it where there is no best one yet."""
        if not self.has_policy():
            raise UserError(f"{self.path} holds no policy yet; dream --run {self.path} makes one")
        if name == BEST and not checkpoint.exists(self.checkpoints, BEST):
            name = LATEST if checkpoint.exists(self.checkpoints, LATEST) else CLONE
        return checkpoint.load(self.checkpoints, name)[:2]

    def agent(self, state: dict[str, Any], meta: dict[str, Any], seed: int = 0, device: torch.device = CPU) -> Agent:
        """The policy of that state and manifest, as `policy_state` makes them."""
        config, model = self.config(), build_model(meta)
        model.load_state_dict(state["model"])
        place(model, device, config.trainer.compute)
        learner = ActorCritic(config.dream.actor_critic, model, config.dream.view)
        learner.load_state_dict(state["learner"])
        return Agent(model.eval(), learner.actor.eval(), seed)


def policy_state(
    name: str, learner: ActorCritic, model: WorldModel, meta: dict[str, Any], extra: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """State and manifest of a policy, with the world model that it filters with: trained further, it would not fit."""
    return {"learner": learner.state_dict(), "model": model.state_dict(), **extra}, {**meta, "policy": name}
