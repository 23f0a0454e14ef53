"""Scenarios: named what-ifs as data. The world model dreams them and the simulator checks them from the same object.

A file holds either one scenario,

    description: One line.
    physics:                                    # what is drawn, uniformly and independently, for every dream
      push-box: {floor_friction: [0.02, 0.15]}  # a task; the bounds, or one number
      default: {floor_friction: [0.02, 0.3]}    # every other task; without it the scenario is for the named ones only
    levels:                                     # the fixed worlds of an evaluation (optional)
      push-box: [{floor_friction: 0.05, label: black ice}, {floor_friction: 0.12}]

(where all tasks share them, the factors stand directly below `physics`), or several: `scenarios: [slippery, payload]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, load_yaml, packaged, packaged_names, suggest
from envs import registry
from envs.physics import FACTORS, Physics, PhysicsRange, check_range, sample

KIND = "scenarios"
DEFAULT = "default"
_KEYS = ("description", "physics", "levels", "scenarios")


@dataclass(frozen=True)
class Level:
    """One world of an evaluation: the scenario's factors at fixed values."""

    label: str
    factors: dict[str, float]


@dataclass(frozen=True)
class Scenario:
    """Entries are by task; the one called `default` stands for tasks that have none."""

    name: str
    description: str
    physics: dict[str, PhysicsRange]
    fixed: dict[str, list[Level]] = field(default_factory=dict)

    def physics_for(self, task: str) -> PhysicsRange:
        """What the scenario draws for this task; empty where it changes nothing or has nothing to say."""
        return self.physics.get(task, self.physics.get(DEFAULT, {}))

    def factors(self, task: str) -> list[str]:
        return list(self.physics_for(task))

    def speaks_for(self, task: str) -> bool:
        return task in self.physics or DEFAULT in self.physics

    def sample(self, task: str, rng: np.random.Generator, nominal: Physics) -> Physics:
        """Draws a world; factors that the scenario does not name stay as in `nominal` (the task's, or a log's own)."""
        return sample(self.physics_for(task), nominal, rng)

    def levels(self, task: str, nominal: Physics | None = None) -> list[tuple[str, Physics]]:
        """(label, world) of an evaluation.

        Factors that the scenario holds constant hold in every level too. Without levels of its own, a scenario is tried
        at the lower end, the middle and the upper end of its bounds.
        """
        base = registry.nominal(task) if nominal is None else nominal
        ranges = self.physics_for(task)
        levels = self.fixed.get(task, self.fixed.get(DEFAULT)) or _spread(ranges)
        constant = {name: value for name, value in ranges.items() if not isinstance(value, tuple)}
        return [(level.label, Physics.from_dict(constant | level.factors, base)) for level in levels]


def load_scenarios(name: str | Path, task: str) -> list[Scenario]:
    """The scenarios that a name stands for, in order, without repetition.

    Args:
        name: a packaged scenario, a group of them ("edge-cases"), the path of a YAML file, or several of these with
            commas between.
        task: scenarios are checked for it. Those of a group that have nothing to say about it are left out.

    Raises:
        UserError: unknown scenario, factor or key; a value that the factor cannot take; nothing for this task.
    """
    found: dict[str, Scenario] = {}
    for part in str(name).split(","):
        where, content = _read(part.strip())
        if "scenarios" in content:
            members = [_member(where, item) for item in _group(where, content)]
            chosen = [scenario for scenario in members if scenario.speaks_for(task)]
        else:
            chosen = [_scenario(where, content)]
        if not any(scenario.speaks_for(task) for scenario in chosen):
            tasks = sorted({task for scenario in chosen for task in scenario.physics})
            raise UserError(f"{where} says nothing for {task}; it has {', '.join(tasks) or 'no physics'}")
        for scenario in chosen:
            _check_for(scenario, task)
            found[scenario.name] = scenario
    return list(found.values())


def within(physics: Physics, ranges: Mapping[str, Sequence[float]], nominal: Physics) -> bool:
    """Whether logs that hold these ranges, {factor: (lowest, highest)}, hold such a world.

    A factor that the logs do not state is taken to have been nominal. Light is left out, and so is the clock of pushes
    where nothing pushes.
    """
    for name, value in physics.to_dict().items():
        if name.startswith("light_") or (name.startswith("push_") and physics.push_m_s == 0.0 and name != "push_m_s"):
            continue
        low, high = ranges.get(name, (getattr(nominal, name),) * 2)
        slack = 1e-6 * max(1.0, abs(low), abs(high))
        if not low - slack <= value <= high + slack:
            return False
    return True


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(name: str) -> tuple[str, dict[str, Any]]:
    """Where a scenario was found, for error lines, and what its file holds."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        where, content = name, load_yaml(name)
    elif name in (names := packaged_names(KIND)):
        where, content = name, packaged(KIND, name)
    else:
        raise UserError(f"scenario {suggest(name, names)}. A YAML file of your own is given by its path")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{where}: {suggest(key, _KEYS)}")
    return where, content


def _group(where: str, content: Mapping[str, Any]) -> list[str]:
    items = content["scenarios"]
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise UserError(f"{where}: scenarios must be a list of scenario names or files")
    if "physics" in content or "levels" in content:
        raise UserError(f"{where}: give either scenarios or physics, not both")
    return items


def _member(group: str, item: str) -> Scenario:
    # A file in a group is meant from where the group's own file lies.
    beside = Path(group).parent / item
    where, content = _read(str(beside) if "/" in group and item.endswith((".yaml", ".yml")) else item)
    if "scenarios" in content:
        raise UserError(f"{group}: {item} is a group itself; list its scenarios instead")
    return _scenario(where, content)


def _scenario(where: str, content: Mapping[str, Any]) -> Scenario:
    if "physics" not in content:
        raise UserError(f"{where}: physics is missing; name the factors and their bounds")
    physics = {task: _ranges(where, ranges) for task, ranges in _by_task(where, content["physics"]).items()}
    levels = content.get("levels") or {}
    if isinstance(levels, list):
        levels = {DEFAULT: levels}
    if not isinstance(levels, Mapping):
        raise UserError(f"{where}: levels must be a list of worlds, or a mapping from tasks to such lists")
    fixed: dict[str, list[Level]] = {}
    for task, entries in levels.items():
        if not isinstance(entries, list):
            raise UserError(f"{where}: levels of {task} must be a list of worlds, as [{{floor_friction: 0.1}}]")
        fixed[str(task)] = [_level(where, entry) for entry in entries]
    name = Path(where).stem if where.endswith((".yaml", ".yml")) else where
    return Scenario(name, str(content.get("description", "")), physics, fixed)


def _by_task(where: str, physics: Any) -> dict[str, Any]:
    """Physics by task, whether the file names tasks or gives the factors at once."""
    if physics is None:
        return {DEFAULT: {}}
    if not isinstance(physics, Mapping):
        raise UserError(f"{where}: physics must be a mapping from factors to bounds, as floor_friction: [0.05, 0.15]")
    nested = [key for key, value in physics.items() if isinstance(value, Mapping) or value is None]
    if not nested:
        return {DEFAULT: physics}
    if len(nested) < len(physics):
        (stray, *_) = (key for key in physics if key not in nested)
        raise UserError(f"{where}: {stray} stands beside the task {nested[0]}; put it below a task or below {DEFAULT}")
    return {str(task): ranges or {} for task, ranges in physics.items()}


def _ranges(where: str, entries: Mapping[str, Any]) -> PhysicsRange:
    ranges: PhysicsRange = {}
    for name, bounds in entries.items():
        _known(where, name)
        if isinstance(bounds, (list, tuple)):
            if len(bounds) != 2:
                raise UserError(f"{where}: {name} needs a lower and an upper bound, not {len(bounds)} values")
            ranges[name] = (_number(where, name, bounds[0]), _number(where, name, bounds[1]))
        else:
            ranges[name] = _number(where, name, bounds)
    return ranges


def _level(where: str, entry: Any) -> Level:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: a level is a mapping from factors to values, not {entry!r}")
    for name in entry:
        if name != "label":
            _known(where, name)
    factors = {name: _number(where, name, value) for name, value in entry.items() if name != "label"}
    return Level(str(entry.get("label", _label(factors))), factors)


def _known(where: str, name: Any) -> None:
    if name not in FACTORS:
        raise UserError(f"{where}: factor {suggest(name, FACTORS)}")


def _number(where: str, name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)  # PyYAML reads 3e-4 as text
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} must be a number or [low, high], not {value!r}") from None


def _label(factors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in factors.items()) or "nominal"


def _spread(ranges: PhysicsRange) -> list[Level]:
    worlds: dict[str, Level] = {}
    for share in (0.0, 0.5, 1.0):
        factors: dict[str, float] = {}
        for name, bounds in ranges.items():
            low, high = bounds if isinstance(bounds, tuple) else (bounds, bounds)
            value = low + share * (high - low)
            factors[name] = float(round(value)) if FACTORS[name].whole else value
        worlds[_label(factors)] = Level(_label(factors), factors)
    return list(worlds.values())


def _check_for(scenario: Scenario, task: str) -> None:
    """Bounds and levels must be such as the factors take: better now than in the middle of a night."""
    try:
        check_range(scenario.physics_for(task), Physics())
        scenario.levels(task, Physics())
    except UserError as error:
        raise UserError(f"scenario {scenario.name}: {error}") from None
