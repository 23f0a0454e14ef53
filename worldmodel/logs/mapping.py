"""What the columns of a raw log mean, as a small YAML file: examples in configs/logs/, words in docs/your-logs.md."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from configs import UserError, from_dict, load_yaml, packaged, packaged_names
from worldmodel.logs.guards import inside
from worldmodel.logs.units import factor

BESIDE = "mapping.yaml"  # the file's name inside a folder of logs

SPLITS = {  # a log's word in lower case: ours
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Column:
    """Where one channel lies in the file, and in what form."""

    column: str | list[str]
    """Its name there, or several of which each file has one. `name[3]` is column 3 of a wide one."""
    unit: str | None = None
    """In the file: deg, ms, mm/s, rpm, ... It is turned into SI (rad, s, m, N). Without it, taken as it is."""
    scale: float = 1.0
    """Times that; -1 turns the sign."""
    angle: Literal["wrapped", "unwrapped", "sin_cos"] | None = None
    """For what jumps by a turn (after `unit`, in rad): how the model gets it. Resampling never cuts across the jump."""
    low: float | None = None
    """Bounds, where they matter (actions); by default the extremes in the log."""
    high: float | None = None
    values: dict[str, float] | None = None
    """What text stands for, as {ice: 0.1, asphalt: 0.8}."""

    @property
    def names(self) -> list[str]:
        return [self.column] if isinstance(self.column, str) else self.column

    @property
    def factor(self) -> float:
        return self.scale * (factor(self.unit) if self.unit else 1.0)


@dataclass(frozen=True)
class Channels:
    """The channels of observation or action: one array whole, or columns one by one."""

    array: str | None = None
    """Name of an array in the file; a channel is one of its columns."""
    names: list[str] | None = None
    """One a column of the array, units in the name, as wheel_left_rad_s."""
    columns: dict[str, Column | str] = field(default_factory=dict)
    """Or: our name, units in it, to the file's column. A wide column becomes name_0, name_1, ..."""
    low: list[float] | None = None
    """Bounds of each channel, where they matter (actions); by default the extremes in the log."""
    high: list[float] | None = None

    def __post_init__(self) -> None:
        if bool(self.array) == bool(self.columns):
            raise UserError("the mapping's observation and action each need either an array (with names) or columns")

    @property
    def specs(self) -> dict[str, Column]:
        """Columns by our name; an array's under its own."""
        if self.array:
            return {self.array: Column(self.array)}
        return {name: as_column(one) for name, one in self.columns.items()}


@dataclass(frozen=True)
class Slices:
    """Where episodes lie in flat arrays."""

    start: str
    length: str


@dataclass(frozen=True)
class PythonReward:
    """A reward that is a function of the user's own."""

    python: str
    """File that defines `reward(observation, action)`; relative to the mapping's folder."""


@dataclass(frozen=True)
class LogMapping:
    """What the columns of a log mean; a `str` names a column of the file, or a label of the whole episode."""

    task: str
    """Name of the robot and what it does; models and runs carry it."""
    observation: Channels
    action: Channels
    control_hz: float | None = None
    """Steps a second that the model is to make. Without `time`, rows are taken to come at this rate."""
    dt_s: float | str | None = None
    """Instead: seconds a step, or the array that holds them."""
    time: Column | str | None = None
    """The clock, s unless a unit is given. With it the log is resampled to `control_hz`."""
    gap_steps: float = 5.0
    """Nothing observed for longer than so many steps splits an episode."""
    episode: str | None = None
    """A column whose change begins a new episode."""
    episodes: Slices | None = None
    """For flat arrays of an .npz; without it they are one episode."""
    split: str | None = None
    """train, val or test (or another word of SPLITS) for each episode. Without it, worldmodel splits by itself."""
    path: str | None = None
    """Regular expression; what its named groups find in a file's path are labels: `design_(?P<design>[A-Z.0-9]+)`."""
    files: str | None = None
    """Which files of a folder are logs, as `trajectory.csv` or `run_*/*.csv`. Without it, all of the format."""
    info: dict[str, str] = field(default_factory=dict)
    """Labels for each episode, kept under these names, as floor: context."""
    physics: dict[str, Column | str | float] = field(default_factory=dict)
    """Factors that the model is told, SI, constant in an episode: a column, a label, or one number for all."""
    reward: str | PythonReward | None = None
    """What each row's command earned: a column, or an expression over our channels' names, as seen after the step:
    `-(theta1_rad**2) - 0.01*tau_Nm**2`. Or {python: reward.py}. Without it, zeros."""
    terminated: str | None = None
    """Whether each episode, or each row's command, ended the task for good (a fall)."""
    image: str | None = None
    """Camera pictures, (T, 64, 64, 3) uint8."""
    show: list[str] = field(default_factory=list)
    """Channels (by their names above) to plot and report one by one. Without it, all where they are few."""
    file: str | None = None
    """Archive that a packaged mapping is for."""


def as_column(given: Column | str) -> Column:
    return Column(given) if isinstance(given, str) else given


class ForeignCodeError(UserError):
    """A mapping that came with the logs asks for code to be run."""

    def __init__(self, text: str, mapping: "LogMapping") -> None:
        super().__init__(text)
        self.mapping = mapping


def read_mapping(path: str | Path) -> LogMapping:
    mapping = from_dict(LogMapping, load_yaml(path), str(path))
    if isinstance(mapping.reward, PythonReward):
        return replace(mapping, reward=PythonReward(str(Path(path).parent / mapping.reward.python)))
    return mapping


def find_mapping(
    data: Path, given: str | Path | None = None, draft: LogMapping | None = None, named: Path | None = None
) -> LogMapping:
    """The mapping that was named; or the one that lies beside the logs, was made for them, or they bring themselves.

    Args:
        named: the folder or file of logs as the user named it, if that is another than `data`.

    Raises:
        ForeignCodeError: it names a Python file, and was not given or lies in the folder of the logs. Logs come from
            others; what lies with them must not run.
    """
    folder = named or data
    if given is not None:
        if str(given) in packaged_names("logs"):
            return _packaged(str(given))
        mapping = read_mapping(given)
        places = [Path(given).absolute(), Path(given).resolve()]
        if isinstance(mapping.reward, PythonReward):
            places.append(Path(mapping.reward.python).resolve())
        within = folder.is_dir() and any(place.is_relative_to(folder.resolve()) for place in places)
        return _without_code(mapping, given) if within else mapping
    places = [data / BESIDE] if data.is_dir() else [data.with_suffix(".yaml"), data.with_name(BESIDE)]
    beside = places[0]
    for place in places:
        if place.exists():
            return _without_code(read_mapping(inside(place.parent, place.name, str(place.parent))), place)
    for name in packaged_names("logs"):
        mapping = _packaged(name)
        if mapping.file == data.name:
            return mapping
    if draft is not None:
        return draft
    raise UserError(
        f"{data} needs a mapping that says what its columns mean: write {beside.name} "
        f"{'into it' if data.is_dir() else 'beside it'}, after the example configs/logs/warthog.yaml, or have one "
        f"drafted: train-world-model --data {data} --describe > {beside}"
    )


def _without_code(mapping: LogMapping, path: str | Path) -> LogMapping:
    if isinstance(mapping.reward, PythonReward):
        file = mapping.reward.python
        raise ForeignCodeError(
            f"{path} lies with the logs and asks to run {file}: code that comes with logs is not run. If you know what "
            f"it does, name it yourself: --reward {file}; or give a mapping of your own from another folder",
            mapping,
        )
    return mapping


def _packaged(name: str) -> LogMapping:
    return from_dict(LogMapping, packaged("logs", name), f"configs/logs/{name}.yaml")
