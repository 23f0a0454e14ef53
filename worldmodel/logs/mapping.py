"""What the arrays of a raw log mean, as a small YAML file. `configs/logs/warthog.yaml` is an example."""

from dataclasses import dataclass, field
from pathlib import Path

from configs import UserError, from_dict, load_yaml, packaged, packaged_names


@dataclass(frozen=True)
class Channels:
    """One array and what its columns are."""

    array: str
    """Name of the array in the archive."""
    names: list[str]
    """One a column, units in the name, as wheel_left_rad_s."""
    low: list[float] | None = None
    """Bounds of each column, where they matter (actions); by default the extremes in the log."""
    high: list[float] | None = None


@dataclass(frozen=True)
class Slices:
    """Where episodes lie in flat arrays."""

    start: str
    length: str


@dataclass(frozen=True)
class LogMapping:
    """What the arrays of an archive mean; each `str` names an array."""

    task: str
    """Name of the robot and what it does; models and runs carry it."""
    observation: Channels
    action: Channels
    control_hz: float | None = None
    """Samples a second; or else:"""
    dt_s: float | str | None = None
    """Seconds between samples, or the array that holds them."""
    episodes: Slices | None = None
    """For flat arrays; without it they are one episode."""
    split: str | None = None
    """train, val or test for each episode. Without it, worldmodel splits by itself."""
    info: dict[str, str] = field(default_factory=dict)
    """Labels for each episode, kept under these names, as floor: context."""
    reward: str | None = None
    """What each sample's command earned. Without it, zeros."""
    terminated: str | None = None
    """Whether each episode, or each sample's command, ended the task for good (a fall)."""
    show: list[str] = field(default_factory=list)
    """Channels (by their names above) to plot and report one by one. Without it, all where they are few."""
    file: str | None = None
    """Archive that a packaged mapping is for."""


def find_mapping(archive: Path, given: str | Path | None = None) -> LogMapping:
    """The mapping that was named, or the one that belongs to the archive."""
    if given is not None:
        if str(given) in packaged_names("logs"):
            return from_dict(LogMapping, packaged("logs", str(given)), f"configs/logs/{given}.yaml")
        return from_dict(LogMapping, load_yaml(given), str(given))
    beside = archive.with_suffix(".yaml")
    if beside.exists():
        return from_dict(LogMapping, load_yaml(beside), str(beside))
    for name in packaged_names("logs"):
        mapping = from_dict(LogMapping, packaged("logs", name), f"configs/logs/{name}.yaml")
        if mapping.file == archive.name:
            return mapping
    raise UserError(
        f"{archive} needs a mapping that says what its arrays mean: write {beside.name} beside it, "
        "after the example configs/logs/warthog.yaml"
    )
