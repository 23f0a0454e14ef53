"""Physics: the named factors of a world, in SI units, and how Bullet takes each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from configs import UserError, suggest

# What a factor may be: one value, or bounds to draw from uniformly.
PhysicsRange = dict[str, float | tuple[float, float]]

# Factors that may change while an episode runs, in a dream as in Bullet. Other shapes need another world, and a command
# under way when the latency changes would arrive twice or never.
CHANGEABLE = (
    "floor_friction", "restitution", "slope_deg", "gravity_m_s2", "payload_kg", "payload_x_m", "motor_strength",
    "push_m_s", "box_mass_kg",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Other values of some factors, from `at_s` on and for `for_s` seconds of the episode's clock.

    `push_m_s` is one push here, in the control step at `at_s`. Of changes that overlap, the later in the list counts.
    """

    at_s: float
    factors: Mapping[str, float]
    for_s: float | None = None  # None: to the end

    def __post_init__(self) -> None:
        if not self.factors:
            raise UserError("physics: a change changes nothing; name a factor")
        check_changeable("physics", self.factors)
        Physics.from_dict(self.factors)  # checks the values
        if not math.isfinite(self.at_s):
            raise UserError(f"physics: a change at {self.at_s:g} s never comes")
        if self.for_s is not None and not 0.0 < self.for_s < math.inf:
            raise UserError(f"physics: a change for {self.for_s:g} s; give more than 0, or leave for_s out")

    def steps(self, control_hz: float) -> tuple[int, float]:
        """The first control step that it holds in, and the first after it."""
        first = round(self.at_s * control_hz)
        return first, math.inf if self.for_s is None else first + max(1, round(self.for_s * control_hz))


@dataclass(frozen=True)
class Physics:
    """One world. Units are in the names; FACTORS says what each means and what Bullet allows.

    `changes` are disturbances in time: simulator and dreams both ask `at` what holds in a control step.
    """

    floor_friction: float = 0.3
    restitution: float = 0.0
    slope_deg: float = 0.0
    gravity_m_s2: float = 9.81
    payload_kg: float = 0.0
    payload_x_m: float = 0.0
    motor_strength: float = 1.0
    latency_steps: float = 0.0
    sensor_noise: float = 0.0
    push_m_s: float = 0.0
    push_start_s: float = 1.0
    push_every_s: float = 0.0
    light_azimuth_deg: float = -60.0
    light_elevation_deg: float = 60.0
    light_red: float = 1.0
    light_green: float = 1.0
    light_blue: float = 1.0
    light_shadow: float = 1.0
    box_mass_kg: float = 0.5
    box_length_m: float = 0.1
    box_width_m: float = 0.1
    box_notch: float = 0.0
    changes: tuple[Change, ...] = ()
    own: tuple[tuple[str, float], ...] = ()  # labels of a log that are no factor: models are told them, Bullet is not

    def __post_init__(self) -> None:
        values = self.__dict__
        # Searches and events make thousands of worlds in a second, and nearly all are as they should be.
        if all(type(values[name]) is float and low <= values[name] <= high for name, low, high in _SPANS) and all(
            values[name].is_integer() for name in _WHOLE
        ):
            return
        for name, factor in FACTORS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise UserError(f"physics: {name} must be a number, not {value!r}")
            if not (math.isfinite(value) and factor.low <= value <= factor.high):
                raise UserError(
                    f"physics: {name} = {value:g} is out of range; it may lie from {factor.low:g} to {factor.high:g}"
                    + (f" {factor.unit}" if factor.unit else "")
                )
            if factor.whole and value != round(value):
                raise UserError(f"physics: {name} = {value:g} must be a whole number")
            object.__setattr__(self, name, float(value))

    @classmethod
    def from_dict(cls, values: Mapping[str, float], nominal: Physics | None = None) -> Physics:
        """Factors left out take their value from `nominal`."""
        for name in values:
            if name not in FACTORS:
                raise UserError(f"physics: factor {suggest(name, FACTORS)}")
        return (nominal or cls()).replace(**values)

    @classmethod
    def of_log(cls, labels: Mapping[str, float], nominal: Physics | None = None) -> Physics:
        """The world that an episode's labels state, names of the user's own included."""
        world = cls.from_dict({name: value for name, value in labels.items() if name in FACTORS}, nominal)
        own = tuple((name, float(value)) for name, value in labels.items() if name not in FACTORS)
        return world._with({"own": own})

    def to_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in FACTORS}

    def labels(self) -> dict[str, float]:
        """As a log would state them; `of_log` reads them back."""
        return {**self.to_dict(), **dict(self.own)}

    def replace(self, **factors: float) -> Physics:
        for name in factors:
            if name not in FACTORS:
                raise TypeError(f"{name} is no factor of physics")
        return self._with(factors)

    def _with(self, fields: Mapping[str, Any]) -> Physics:
        """What `dataclasses.replace` gives, in a tenth of its time."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **fields)
        other.__post_init__()
        return other

    def changing(self, changes: Sequence[Change]) -> Physics:
        """The same world with these changes on the way, in place of any others."""
        return self._with({"changes": tuple(changes)})

    def at(self, step: int, control_hz: float) -> Physics:
        """The world of a control step: without changes, as those that hold are in its factors. Pushes stay out."""
        if not self.changes:
            return self
        values: dict[str, float] = {}
        for change in self.changes:
            first, after = change.steps(control_hz)
            if first <= step < after:
                values |= change.factors
        values.pop("push_m_s", None)
        return self._with({**values, "changes": ()})

    def stretches(self, first: int, count: int, control_hz: float) -> list[tuple[slice, Physics]]:
        """`count` control steps from `first` on, cut where the world changes; slices count from `first`."""
        cuts = {0, count}
        for change in self.changes:
            cuts |= {int(min(max(step - first, 0), count)) for step in change.steps(control_hz)}
        return [(slice(a, b), self.at(first + a, control_hz)) for a, b in pairwise(sorted(cuts))]

    def push_at(self, step: int, control_hz: float) -> float:
        """The speed along +x, in m/s, that the push of control step `step` gives; 0 where none is due."""
        once = 0.0
        for change in self.changes:
            if "push_m_s" in change.factors and change.steps(control_hz)[0] == step:
                once += change.factors["push_m_s"]
        if self.push_m_s == 0.0:
            return once
        since = step - round(self.push_start_s * control_hz)
        every = max(1, round(self.push_every_s * control_hz))
        due = since == 0 or (self.push_every_s > 0.0 and since > 0 and since % every == 0)
        return self.push_m_s + once if due else once


@dataclass(frozen=True)
class Factor:
    """`whole`: takes whole numbers only, and is drawn so."""

    unit: str
    low: float
    high: float
    meaning: str
    whole: bool = False


FACTORS: dict[str, Factor] = {
    "floor_friction": Factor("", 0.0, 10.0, "lateral friction of the floor; Bullet multiplies it by the body's own"),
    "restitution": Factor("", 0.0, 1.0, "speed after an impact over speed before, for the body on floor and finger"),
    "slope_deg": Factor("deg", -45.0, 45.0, "positive is uphill along +x; gravity is turned, the floor stays level"),
    "gravity_m_s2": Factor("m/s2", 0.0, 30.0, "size of gravity"),
    "payload_kg": Factor("kg", 0.0, 200.0, "point mass fixed to the body"),
    "payload_x_m": Factor("m", -0.5, 0.5, "place of the payload along the body's own x; shifts the centre of mass"),
    "motor_strength": Factor("", 0.0, 2.0, "share of the nominal torque (speed, for a velocity motor) at a command"),
    "latency_steps": Factor("steps", 0.0, 20.0, "control steps by which a command arrives late", whole=True),
    "sensor_noise": Factor("", 0.0, 10.0, "standard deviation added to every observation channel, in its own unit"),
    "push_m_s": Factor("m/s", -10.0, 10.0, "speed along +x that an outside push gives to the whole body"),
    "push_start_s": Factor("s", 0.0, 1000.0, "time of the first push"),
    "push_every_s": Factor("s", 0.0, 1000.0, "time from push to push; 0 pushes once"),
    "light_azimuth_deg": Factor("deg", -360.0, 360.0, "where the light comes from, from +x towards +y"),
    "light_elevation_deg": Factor("deg", 5.0, 90.0, "how high the light stands above the floor"),
    "light_red": Factor("", 0.0, 1.0, "red share of the light"),
    "light_green": Factor("", 0.0, 1.0, "green share of the light"),
    "light_blue": Factor("", 0.0, 1.0, "blue share of the light"),
    "light_shadow": Factor("", 0.0, 1.0, "1 casts shadows, 0 does not", whole=True),
    "box_mass_kg": Factor("kg", 0.01, 20.0, "mass of the box without its payload"),
    "box_length_m": Factor("m", 0.04, 0.2, "size of the box along its own x"),
    "box_width_m": Factor("m", 0.04, 0.2, "size of the box along its own y"),
    "box_notch": Factor("", 0.0, 0.6, "share of each side cut out of one corner, which leaves an L"),
}


_SPANS = [(name, factor.low, factor.high) for name, factor in FACTORS.items()]
_WHOLE = [name for name, factor in FACTORS.items() if factor.whole]


def check_changeable(where: str, factors: Iterable[str], fixed: Collection[str] = ()) -> None:
    """Raises UserError for factors that cannot change under a running episode, in any task or (`fixed`) in this one."""
    for name in factors:
        if name not in CHANGEABLE or name in fixed:
            able = ", ".join(factor for factor in CHANGEABLE if factor not in fixed)
            raise UserError(f"{where}: {name} cannot change while an episode runs; what can is {able}")


def check_range(ranges: PhysicsRange, nominal: Physics) -> None:
    """Raises UserError for an unknown factor, a bound that Bullet does not take, or bounds the wrong way round."""
    for name, bounds in ranges.items():
        low, high = _bounds(name, bounds)
        if low > high:
            raise UserError(f"physics: {name} runs from {low:g} to {high:g}; give the lower bound first")
        Physics.from_dict({name: low}, nominal)
        Physics.from_dict({name: high}, nominal)


def sample(ranges: PhysicsRange, nominal: Physics, rng: np.random.Generator) -> Physics:
    """Uniform and independent; factors not named keep their nominal value."""
    return nominal.replace(**{name: float(values[0]) for name, values in drawn(ranges, 1, rng).items()})


def drawn(ranges: PhysicsRange, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `sample` draws for `count` worlds: their values (N,) of each factor that is named."""
    _checked(tuple((name, tuple(b) if isinstance(b, list) else b) for name, b in ranges.items()))
    values: dict[str, np.ndarray] = {}
    for name, bounds in ranges.items():
        low, high = _bounds(name, bounds)
        if FACTORS[name].whole:
            values[name] = rng.integers(int(low), int(high), count, endpoint=True).astype(float)
        else:
            values[name] = rng.uniform(low, high, count)
    return values


@lru_cache
def _checked(ranges: tuple[tuple[str, float | tuple[float, float]], ...]) -> None:
    """Once for thousands of draws."""
    check_range(dict(ranges), Physics())


def _bounds(name: str, bounds: float | tuple[float, float]) -> tuple[float, float]:
    values = list(bounds) if isinstance(bounds, (tuple, list)) else [bounds, bounds]
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise UserError(f"physics: {name} must be a number or a pair [low, high], not {bounds!r}")
    return float(values[0]), float(values[1])
