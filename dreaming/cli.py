"""The commands `dream`, `record-rollouts`, `evaluate-policy`, `audit-dreams` and `export-policy`: parse, build, call.

Torch, PyBullet and W&B are imported when a command runs, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from configs import parse_arguments, run_command

WandbMode = Literal["auto", "online", "offline", "off"]


@dataclass
class Dream:
    """Dream overnight: from logs (or from nothing) to a better policy, checked against a simulator.

    Learns a world model from logged episodes, dreams what-ifs in it, trains the policy on them, audits dreams in
    PyBullet and writes RUN/report/index.html, all within the hours given. Ctrl-C saves and still writes the report.
    The same command with the same --run goes on from where an earlier night ended or was killed.

    Example: dream --task push-box --hours 8
    """

    hours: float = 8.0
    """Wall-clock budget in hours; 0.16 is ten minutes."""
    task: str | None = None
    """push-box (default), hopper, ant or rover. Leave out with --data: the logs name their task."""
    run: Path | None = None
    """Run folder, new or to go on with. Default: runs/TASK."""
    data: Path | None = None
    """Logs to learn from: a folder of record-rollouts, or an .npz with its mapping. Default: record demonstrations."""
    scenario: str | None = None
    """slippery, payload, push, slope, latency, weak-motors, nominal, edge-cases (all; default), a YAML file, or search:
    the night finds what to dream itself. Several with commas between."""
    size: str | None = None
    """Size of the world model: debug, laptop (default), 1m, 12m, ..."""
    seed: int | None = None
    """Decides every random draw. Default: 0."""
    view: Literal["blind", "estimate"] | None = None
    """What the policy knows of its physics: nothing (blind; default), or the model's own estimate."""
    wake: int | None = None
    """Simulator steps to learn from where audits find the dreams wrong, reported apart. Default: 0, none."""
    wandb: WandbMode = "auto"
    """Weights & Biases: online if you are logged in, else offline (auto), or off."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, or cuda:1 for the second of several. A run may change it."""


@dataclass
class Record:
    """Record episodes in the simulator, under randomised physics and policy noise, into a log folder.

    Example: record-rollouts --task hopper --policy expert --episodes 200 --out logs/
    """

    out: Path
    """Log folder; episodes are added to what it holds."""
    task: str = "push-box"
    """push-box, hopper, ant or rover."""
    policy: str = "expert"
    """expert, random, or a run folder (its best policy)."""
    episodes: int = 200
    """How many."""
    seed: int = 0
    """Decides start states, noise and physics; the same seed records the same episodes."""
    noise: tuple[float, float] | None = None
    """Lowest and highest standard deviation of the noise on actions, drawn per episode. Default: the task's."""
    play: float | None = None
    """Share of the episodes that are play instead of demonstration. Default: the task's, for the expert."""
    randomise: Annotated[str, tyro.conf.arg(metavar="FACTOR=LOW:HIGH,...")] = "default"
    """Ranges of physics, as floor_friction=0.15:0.8,payload_kg=0:0.3; "default": the task's own; "none": nominal."""
    camera: bool = False
    """Record 64x64 images too."""


@dataclass
class Evaluate:
    """Try a policy in the simulator, scenario by scenario, and print how often it fails, with 95% intervals.

    Example: evaluate-policy --run runs/push-box --scenario edge-cases
    """

    run: Path | None = None
    """Run folder whose policy is tried."""
    policy: str = "best"
    """best, cloned (before dreaming), latest, or expert / random (then give --task)."""
    task: str | None = None
    """Needed without --run."""
    scenario: str = "edge-cases"
    """As for dream."""
    episodes: int = 20
    """Episodes a cell."""
    seed: int = 0
    """First seed."""


@dataclass
class Audit:
    """Check dreams against PyBullet: the same start, actions and physics, error by horizon, falls, reward bias.

    Example: audit-dreams --run runs/push-box
    """

    run: Path
    """Run folder whose world model and policy dream."""
    scenario: str = "edge-cases"
    """As for dream."""
    dreams: int = 24
    """Dreams a scenario."""
    horizon: int = 50
    """Steps a dream is followed."""
    seed: int = 0
    """Decides starts and physics."""


@dataclass
class Export:
    """Write a policy as an ONNX file, which onnxruntime runs on the robot without torch or this package.

    Example: export-policy --run runs/push-box
    """

    run: Path
    """Run folder whose policy it is."""
    policy: str = "best"
    """best, cloned (before dreaming) or latest."""
    out: Path | None = None
    """The file. Default: RUN/policy.onnx."""


def _dream(arguments: list[str] | None = None) -> None:
    options = parse_arguments(Dream, arguments, prog="dream")
    from dreaming.commands.dream import dream

    dream(options)


def _record(arguments: list[str] | None = None) -> None:
    options = parse_arguments(Record, arguments, prog="record-rollouts")
    from dreaming.commands.record import record_rollouts

    record_rollouts(options)


def _evaluate(arguments: list[str] | None = None) -> None:
    options = parse_arguments(Evaluate, arguments, prog="evaluate-policy")
    from dreaming.commands.evaluate import evaluate_policy

    evaluate_policy(options)


def _audit(arguments: list[str] | None = None) -> None:
    options = parse_arguments(Audit, arguments, prog="audit-dreams")
    from dreaming.commands.audit import audit_dreams

    audit_dreams(options)


def _export(arguments: list[str] | None = None) -> None:
    options = parse_arguments(Export, arguments, prog="export-policy")
    from dreaming.commands.export import export_policy

    export_policy(options)


def main() -> None:
    run_command(_dream)


def record_main() -> None:
    run_command(_record)


def evaluate_main() -> None:
    run_command(_evaluate)


def audit_main() -> None:
    run_command(_audit)


def export_main() -> None:
    run_command(_export)
