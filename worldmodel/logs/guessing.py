"""A mapping drafted from the names and values of columns: what a person would write first, to be corrected."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs import UserError
from worldmodel.logs.units import factor

TIME = {"t", "time", "stamp", "timestamp", "timestamps", "ts", "sec", "secs", "seconds", "clock", "nsecs"}
# Words of commands, the surer ones first: a log with `tau_con` and `pos_des` is commanded by the first.
COMMANDS = (
    {"action", "actions", "act", "u", "cmd", "command", "commanded", "con", "control", "ctrl"},
    {"tau", "torque", "effort", "pwm", "throttle", "steer", "steering", "motor", "input"},
    {"des", "desired", "target", "setpoint", "ref", "goal"},
)
MEASURED = {"meas", "measured", "actual", "obs", "observation", "observed", "state", "raw", "sensor"}
DERIVED = {"filt", "filtered", "des", "desired", "ref", "target", "pert", "fric", "setpoint", "est"}
REWARD, END = {"reward", "rewards", "rew"}, {"terminated", "terminal", "terminals", "fell", "fall"}
EPISODE = {"episode", "episodeid", "episodeindex", "traj", "trajectory", "run", "trial", "rollout"}
LABELS = {"split", "floor", "surface", "terrain", "friction", "mu", "payload", "mass", "slope", "gravity", "seed"}
INDEX = {"index", "idx", "row", "step", "frame", "frameindex", "i", "n"}
UNITS = ("deg", "rad", "rpm", "ms", "us", "ns", "mm", "cm", "Nm", "mNm")
_BRACKET = re.compile(r"\s*[\[(]([^\])]*)[\])]\s*$")
RATES = (1, 2, 5, 10, 20, 25, 50, 100)  # Hz: a world model need not be faster


@dataclass(frozen=True)
class Seen:
    """One column, over all files that were looked at."""

    low: float
    high: float
    width: int | None
    """Columns of a wide one."""
    is_text: bool
    constant_in_each: bool
    """One value throughout each episode."""
    turns: int
    """Steps of about a turn, in rad or degrees."""


def words(name: str) -> list[str]:
    """Lower-case words and numbers of a name: `posMeas_1 [rad]` is pos, meas, 1."""
    plain = re.sub(r"([a-z])([A-Z])", r"\1_\2", _BRACKET.sub("", name))
    return [word.lower() for word in re.findall(r"[A-Za-z]+|\d+", plain)]


def unit_of(name: str) -> str | None:
    """From brackets behind a name, or its last word."""
    if match := _BRACKET.search(name):
        return match[1].strip() or None
    last = re.split(r"[_\s./]", name)[-1]
    return last if last in UNITS else None


def role(name: str, seen: Seen) -> str:
    """time, action, observation, reward, terminated, episode, label or index; `rest` for what is left out."""
    parts = words(name)
    there, joined = set(parts), "".join(parts)
    if there & TIME and not there & {"cmd", "command"} and not seen.is_text:
        return "time"
    for kind, known in (("reward", REWARD), ("terminated", END)):
        if there & known:
            return kind
    if joined in EPISODE or joined.removesuffix("id") in EPISODE:
        return "episode"
    if seen.is_text or (seen.constant_in_each and there & LABELS):
        return "label" if seen.constant_in_each else "rest"
    if joined in INDEX:
        return "index"
    if command_rank(parts) is not None and not there & MEASURED:
        return "action"
    return "rest" if there & DERIVED else "observation"


def command_rank(parts: Sequence[str]) -> int | None:
    """0 for the surest words of a command; None for none."""
    return next((rank for rank, known in enumerate(COMMANDS) if set(parts) & known), None)


def stem(name: str) -> str:
    """What a quantity is called under any header: pos_meas1 and pos1 are pos1, tau_con1 and tau1 are tau1."""
    parts = [word for word in words(name) if word not in MEASURED | COMMANDS[0] | {unit_of(name)}]
    return "_".join(parts or words(name)).replace("_", "") if len(parts) <= 2 else "_".join(parts)


def time_unit(name: str, step: float) -> str | None:
    """Of a clock whose rows are `step` apart; None for seconds."""
    if (given := unit_of(name)) is not None:
        return given
    if any(word in {"ns", "nsec", "nsecs", "nanoseconds"} for word in words(name)) or step >= 1e5:
        return "ns"
    if step >= 1e3:
        return "us"
    return "ms" if step > 1 else None


def si_name(name: str, unit: str | None) -> str:
    """Our name for a channel: with the SI unit that it will be in, where the file says one."""
    if unit is None:
        return name
    try:
        factor(unit)
    except UserError:
        return name
    turned = {"deg": "rad", "°": "rad", "rpm": "rad_s", "rev": "rad", "mm": "m", "cm": "m", "mNm": "Nm"}
    parts = unit.replace("²", "2").replace("^", "").split("/")
    return "_".join([name, turned.get(parts[0], parts[0]), *parts[1:]])


def rate(native_hz: float) -> float:
    """A round rate not above the log's own."""
    return float(max((one for one in RATES if one <= 1.02 * native_hz), default=native_hz))


def alternatives(variants: Sequence[Mapping[str, Seen]], kind: str) -> dict[str, list[str]]:
    """Stem to the columns that mean it, of those stems that every header has; commands of the surest words alone."""
    found: list[dict[str, str]] = []
    for columns in variants:
        names = [name for name, seen in columns.items() if role(name, seen) == kind]
        if kind == "action" and names:
            best = min(rank for name in names if (rank := command_rank(words(name))) is not None)
            names = [name for name in names if command_rank(words(name)) == best]
        here: dict[str, str] = {}
        for name in sorted(names, key=lambda one: not set(words(one)) & MEASURED):  # measured before others
            here.setdefault(stem(name), name)
        found.append({key: name for name in names for key in [stem(name)] if here[key] == name})
    common = [key for key in (found[0] if found else {}) if all(key in one for one in found)]
    return {key: list(dict.fromkeys(one[key] for one in found)) for key in common}


def turns(values: np.ndarray) -> int:
    """Steps of about 2 pi or 360 in a column that stays within a turn."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return 0
    span = float(np.ptp(values))
    whole = next((one for one in (2 * np.pi, 360.0) if 0.9 * one < span < 1.02 * one), None)
    return int((np.abs(np.diff(values)) > 0.9 * whole).sum()) if whole else 0
