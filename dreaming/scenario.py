"""Scenarios: named what-ifs as data. The world model dreams them and the simulator checks them from the same object.

A file holds either one scenario,

    description: One line.
    physics:                                    # what is drawn, uniformly and independently, for every dream
      push-box: {floor_friction: [0.02, 0.15]}  # a task; the bounds, or one number
      default: {floor_friction: [0.02, 0.3]}    # every other task; without it the scenario is for the named ones only
    levels:                                     # the fixed worlds of an evaluation (optional)
      push-box: [{floor_friction: 0.05, label: black ice}, {floor_friction: 0.12}]

(where all tasks share them, the factors stand directly below `physics`), or several: `scenarios: [slippery, payload]`.

A scenario may also change the world on the way, by a list for every task, or lists by task:

    events:
      push-box:
        - {at_s: 1.5, for_s: 1.0, floor_friction: [0.02, 0.1]}  # an ice patch; without for_s it lasts to the end
        - {at_s: [1.0, 2.0], push_m_s: 0.4}                     # a push, once

Times, like values, are numbers or bounds to draw from, and count from the episode's start. A dream from the midst of an
episode begins at a random moment of the scenario.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError, load_yaml, packaged, packaged_names, suggest
from dreaming.bounds import check_known, part, read_number, read_ranges
from dreaming.event import Event, read_event, told
from envs import registry
from envs.physics import FACTORS, Change, Physics, PhysicsRange, check_changeable, check_range, drawn
from envs.worlds import Worlds
from worldmodel.context import ContextSpec

KIND = "scenarios"
LABEL_DIGITS = (3, 6, 17)  # of worlds between bounds: the fewest that tell them apart
SEARCH = "search"  # among the names of a night's scenarios: it is to find its own
DEFAULT = "default"
_KEYS = ("description", "physics", "levels", "events", "scenarios")
_ENTRIES = {
    "levels": ("worlds", "[{floor_friction: 0.1}]"),
    "events": ("changes", "[{at_s: 1.5, for_s: 1.0, floor_friction: 0.1}]"),
}


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
    events: dict[str, list[Event]] = field(default_factory=dict)

    def physics_for(self, task: str) -> PhysicsRange:
        """What the scenario draws for this task; empty where it changes nothing or has nothing to say."""
        return self.physics.get(task, self.physics.get(DEFAULT, {}))

    def events_for(self, task: str) -> list[Event]:
        return self.events.get(task, self.events.get(DEFAULT, []))

    def factors(self, task: str) -> list[str]:
        """All that it sets, at once or on the way."""
        return list(self.physics_for(task) | {name: 0.0 for e in self.events_for(task) for name in e.factors})

    def speaks_for(self, task: str) -> bool:
        return any(task in entries or DEFAULT in entries for entries in (self.physics, self.events))

    def sample(self, task: str, rng: np.random.Generator, nominal: Physics, start_s: float | None = None) -> Physics:
        """Draws a world; factors that the scenario does not name stay as in `nominal` (the task's, or a log's own).

        Args:
            start_s: when, in its episode, a dream begins. The scenario's clock is then at a random moment up to the end
                of its last event: few dreams would be long enough to meet one that is due a second from now.
        """
        starts_s = None if start_s is None else np.array([start_s])
        return self.sample_all(task, rng, Worlds.of([nominal]), starts_s)[0]

    def sample_all(
        self, task: str, rng: np.random.Generator, nominal: Worlds, start_s: np.ndarray | None = None
    ) -> Worlds:
        """`sample` for each of N worlds, with starts (N,)."""
        values, events = drawn(self.physics_for(task), len(nominal), rng), self.events_for(task)
        pick = lambda b: float(rng.uniform(*b)) if isinstance(b, tuple) else float(b)  # noqa: E731

        def changes(i: int) -> list[Change]:
            shift_s = 0.0 if start_s is None else start_s[i] - rng.uniform(0.0, max(event.end_s for event in events))
            return [event.draw(pick, float(shift_s)) for event in events]

        return nominal.with_factors(values, changes if events else None)

    def levels(self, task: str, nominal: Physics | None = None) -> list[tuple[str, Physics]]:
        """(label, world) of an evaluation.

        Factors that the scenario holds constant hold in every level too. Without levels of its own, a scenario is tried
        at the lower end, the middle and the upper end of its bounds, those of its events too. In levels of its own,
        events are in the middle of their bounds.
        """
        base = registry.nominal(task) if nominal is None else nominal
        ranges, events = self.physics_for(task), self.events_for(task)
        if named := self.fixed.get(task, self.fixed.get(DEFAULT)):
            constant = {name: value for name, value in ranges.items() if not isinstance(value, tuple)}
            changes = [event.draw(lambda bounds: part(bounds, 0.5)) for event in events]
            worlds = [(level.label, Physics.from_dict(constant | level.factors, base)) for level in named]
            return [(label, world.changing(changes)) for label, world in worlds]
        # A label says what differs between the worlds.
        vary = [name for name, bounds in ranges.items() if isinstance(bounds, tuple)] or list(ranges)
        spread: list[tuple[dict[str, float], list[Change], Physics]] = []
        for share in (0.0, 0.5, 1.0):
            pick = partial(part, share=share)
            factors = {name: pick(bounds) for name, bounds in ranges.items()}
            factors |= {name: float(round(value)) for name, value in factors.items() if FACTORS[name].whole}
            changes = [event.draw(pick) for event in events]
            world = Physics.from_dict(factors, base).changing(changes)
            if world not in [other for _, _, other in spread]:  # of bounds that leave no room between whole numbers
                spread.append(({name: factors[name] for name in vary}, changes, world))
        labels: list[str] = []
        for digits in LABEL_DIGITS:
            labels = [_label(factors, changes, digits) for factors, changes, _ in spread]
            if len(set(labels)) == len(labels):
                break
        return list(zip(labels, (world for _, _, world in spread), strict=True))


LOGGED = Scenario("logged", "The physics that each log had.", {"default": {}})


def drawn_from(
    scenarios: Sequence[Scenario],
    which: np.ndarray,
    task: str,
    rng: np.random.Generator,
    logged: Worlds,
    start_s: np.ndarray,
) -> tuple[Worlds, np.ndarray]:
    """What each of N dreams is dreamt under, and what that is called.

    Args:
        which: (N,) number of the scenario; negative, and the dream stays under the physics that its log had.
        start_s: (N,) as `Scenario.sample` takes it.
    """
    worlds, names = logged[np.arange(len(logged))], np.full(len(logged), LOGGED.name, object)
    for i, scenario in enumerate(scenarios):
        rows = np.flatnonzero(which == i)
        worlds.put(rows, scenario.sample_all(task, rng, logged[rows], start_s[rows]))
        names[rows] = scenario.name
    return worlds, names


def usual_world(task: str, context: ContextSpec) -> Physics:
    """What factors are where neither log nor scenario states them: the task's own, or the middle of what logs hold."""
    if registry.simulated(task):
        return registry.nominal(task)
    middles = {name: c for name, c in zip(context.names, context.centre, strict=True) if name in FACTORS}
    return Physics().replace(**{name: round(c) if FACTORS[name].whole else c for name, c in middles.items()})


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
    for item in str(name).split(","):
        where, content = _read(item.strip())
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


def asked(names: str, task: str) -> tuple[list[Scenario], bool]:
    """What a night is to dream: scenarios written by hand, and whether it is to find some itself.

    Args:
        names: as `load_scenarios` takes them, or `search`, alone or among them.
    """
    items = [item.strip() for item in names.split(",")]
    written = [item for item in items if item != SEARCH]
    return load_scenarios(",".join(written), task) if written else [], len(written) < len(items)


def within(physics: Physics, ranges: Mapping[str, Sequence[float]], nominal: Physics) -> bool:
    """Whether logs that hold these ranges, {factor: (lowest, highest)}, hold such a world.

    A factor that the logs do not state is taken to have been nominal. Light is left out, and so is the clock of pushes
    where nothing pushes. What changes on the way must be held as well.
    """
    if physics.changes:
        worlds = [physics.changing(()), *(physics.changing(()).replace(**change.factors) for change in physics.changes)]
        return all(within(world, ranges, nominal) for world in worlds)
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
    if "physics" not in content and "events" not in content:
        raise UserError(f"{where}: physics is missing; name the factors and their bounds")
    physics = {}
    if "physics" in content:
        physics = {task: read_ranges(where, ranges) for task, ranges in _by_task(where, content["physics"]).items()}
    levels = content.get("levels") or {}
    fixed = {task: [_level(where, e) for e in entries] for task, entries in _lists(where, "levels", levels).items()}
    found = _lists(where, "events", content.get("events") or {})
    events = {task: [read_event(where, entry) for entry in entries] for task, entries in found.items()}
    name = Path(where).stem if where.endswith((".yaml", ".yml")) else where
    return Scenario(name, str(content.get("description", "")), physics, fixed, events)


def _lists(where: str, key: str, entries: Any) -> dict[str, list[Any]]:
    """Levels or events by task."""
    lists = {DEFAULT: entries} if isinstance(entries, list) else entries
    one, example = _ENTRIES[key]
    if not isinstance(lists, Mapping):
        raise UserError(f"{where}: {key} must be a list of {one}, or a mapping from tasks to such lists")
    for task, items in lists.items():
        if not isinstance(items, list):
            raise UserError(f"{where}: {key} of {task} must be a list of {one}, as {example}")
    return {str(task): items for task, items in lists.items()}


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


def _level(where: str, entry: Any) -> Level:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: a level is a mapping from factors to values, not {entry!r}")
    for name in entry:
        if name != "label":
            check_known(where, name)
    factors = {name: read_number(where, name, value) for name, value in entry.items() if name != "label"}
    return Level(str(entry.get("label", _label(factors))), factors)


def _label(factors: Mapping[str, float], changes: Sequence[Change] = (), digits: int = 6) -> str:
    shown = {name: round(value, 9) + 0.0 for name, value in factors.items()}  # a middle of 1e-16 is 0
    parts = [f"{name} {value:.{digits}g}" for name, value in shown.items()] + [told(change) for change in changes]
    return ", ".join(parts) or "nominal"


def _check_for(scenario: Scenario, task: str) -> None:
    """Bounds and levels must be such as the factors take: better now than in the middle of a night."""
    try:
        check_range(scenario.physics_for(task), Physics())
        for event in scenario.events_for(task):
            check_changeable(task, event.factors, _fixed(task))
            check_range(event.factors, Physics())
        scenario.levels(task, Physics())
    except UserError as error:
        raise UserError(f"scenario {scenario.name}: {error}") from None


def _fixed(task: str) -> Collection[str]:
    """What the task's simulator cannot change under a running episode; nothing where there is none."""
    try:
        return registry.task_class(task).reset_only
    except UserError:
        return ()
