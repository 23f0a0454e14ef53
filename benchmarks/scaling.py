"""How an update of the world model grows with length, batch and size: time and memory, beside the straight line.

    python benchmarks/scaling.py --figure docs/scaling.png

An update is the one that `train-world-model` makes: segments drawn from a log folder, the transition's eight steps, the
RSSM's loss, its way back and the optimiser. Every point is a process of its own, so that its peak memory is its own.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from worldmodel.storage import LogReader

OBSERVATION, ACTION = 28, 8
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


@dataclass
class Scaling:
    """Time and memory of one update, by length, batch and size; torch is imported in the measured processes alone."""

    size: str = "1m"
    """With batch and length, where the three axes cross."""
    batch: int = 16
    length: int = 64
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    batches: tuple[int, ...] = (4, 8, 16, 32, 64)
    sizes: tuple[str, ...] = ("debug", "1m", "12m", "25m", "50m", "100m")
    """What does not fit into four fifths of this machine's memory is left out."""
    threads: tuple[int, ...] = (1,)
    """CPU time is printed for the first, time that passes for others, for which the machine must be idle."""
    updates: int = 15
    seconds: float = 8.0
    """No further update of a point begins after this; at least three are measured."""
    out: Path = Path("runs/scaling")
    figure: Path = Path("runs/scaling/scaling.png")


@dataclass(frozen=True)
class Point:
    size: str
    batch: int
    length: int
    threads: int


@dataclass
class Measured:
    """Of each time the median and the least: what else the machine does can only add to it."""

    parameters: int
    cpu_ms: tuple[float, float]
    wall_ms: tuple[float, float]
    bare_cpu_ms: tuple[float, float]  # without the transition's steps
    page_faults: float  # an update, median
    peak_bytes: int
    start_bytes: int  # before there was a model: Python, torch, the log


def measure(point: Point, updates: int, seconds: float) -> Measured:
    import torch

    from configs import from_dict, packaged
    from worldmodel.model import ModelConfig
    from worldmodel.speed import prepare_cpu
    from worldmodel.trainer import Trainer, TrainerConfig

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (int(0.8 * memory), resource.RLIM_INFINITY))
    prepare_cpu()
    torch.set_num_threads(point.threads)
    with tempfile.TemporaryDirectory() as folder:
        reader = _wander(Path(folder))
        start = _peak()
        size = from_dict(ModelConfig, packaged("sizes", point.size), point.size)
        trainer = Trainer(reader, size, TrainerConfig(batch=point.batch, length=point.length, warmup=10))
        cpu, wall, faults = _timed(trainer.update, updates, seconds)
        peak = _peak()
        trainer.config = replace(trainer.config, transition_steps=0)
        bare, _, _ = _timed(trainer.update, updates, seconds / 2)
    return Measured(
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        cpu_ms=(statistics.median(cpu), min(cpu)),
        wall_ms=(statistics.median(wall), min(wall)),
        bare_cpu_ms=(statistics.median(bare), min(bare)),
        page_faults=statistics.median(faults),
        peak_bytes=peak,
        start_bytes=start,
    )


def _wander(folder: Path) -> "LogReader":
    """Logs of 20 random walks of 500 steps."""
    from worldmodel.episode import Episode
    from worldmodel.storage import LogReader, LogWriter, make_schema

    rng, steps = np.random.default_rng(0), 500
    channels, motors = ([f"{kind} {i}" for i in range(n)] for kind, n in (("channel", OBSERVATION), ("motor", ACTION)))
    schema = make_schema("walk", 20.0, channels, motors, [-1.0] * ACTION, [1.0] * ACTION)
    with LogWriter(folder, schema, sync=False) as writer:
        for _ in range(20):
            action = rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32)
            vector = np.cumsum(rng.normal(size=(steps + 1, OBSERVATION)), 0).astype(np.float32)
            reward, push = np.zeros((2, steps), np.float32)
            writer.append(Episode({"vector": vector}, action, action, reward, push, terminated=False, truncated=True))
    return LogReader(folder)


def _timed(update: Callable[[], object], updates: int, seconds: float) -> tuple[list[float], list[float], list[int]]:
    """CPU ms, ms that pass, and page faults by update; the first two, which fetch memory, do not count."""
    for _ in range(2):
        update()
    spent, end = [], time.monotonic() + seconds
    while len(spent) < 3 or (len(spent) < updates and time.monotonic() < end):
        faults, wall, cpu = _faults(), time.perf_counter(), time.process_time()
        update()
        passed = time.process_time() - cpu, time.perf_counter() - wall
        spent.append((1e3 * passed[0], 1e3 * passed[1], _faults() - faults))
    cpu, wall, faults = (list(column) for column in zip(*spent, strict=True))
    return cpu, wall, faults


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def run(point: Point, options: Scaling) -> Measured | None:
    """In a process of its own; None if the machine's memory does not hold it."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(measure, point, options.updates, options.seconds).result()
    except (BrokenProcessPool, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # as torch calls its want of it
            raise
        print(f"{point} left out: {error}", flush=True)
        return None
    print(f"{point}: {measured.cpu_ms[0]:.0f} CPU ms, {measured.peak_bytes / 1e9:.2f} GB", flush=True)
    return measured


Axis = list[tuple[float, str, dict[int, Measured]]]  # place along it, its name, what was measured by threads


def axes_of(options: Scaling) -> dict[str, Axis]:
    """Measures everything, a point that several axes share once."""
    known: dict[Point, Measured | None] = {}

    def along(**which: Sequence) -> Axis:
        ((key, values),) = which.items()
        cross = Point(options.size, options.batch, options.length, 1)
        axis: Axis = []
        for value in values:
            points = [replace(cross, threads=threads, **{key: value}) for threads in options.threads]
            for point in points:
                if point not in known:
                    known[point] = run(point, options)
            found = {point.threads: m for point in points if (m := known[point]) is not None}
            if len(found) == len(points):
                place = found[options.threads[0]].parameters if key == "size" else value
                axis.append((place, str(value), found))
        return axis

    axes = {
        f"length of {options.batch} segments, {options.size}": along(length=options.lengths),
        f"segments of {options.length}, {options.size}": along(batch=options.batches),
        f"parameters, {options.batch} x {options.length}": along(size=options.sizes),
    }
    return {title: axis for title, axis in axes.items() if axis}


def markdown(title: str, axis: Axis, threads: Sequence[int]) -> str:
    """`over the line`: how many times what is in proportion to the axis' last point, by the least times."""
    first, *more = threads
    columns = [title, "CPU ms: median (least)", "over the line", "without the transition", "page faults", "peak memory"]
    columns += [f"ms that pass, {n} threads" for n in more]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    last, _, top = axis[-1]
    for place, name, found in axis:
        one = found[first]
        cells = [name if name.isdigit() else f"{name}, {one.parameters:,}", _both(one.cpu_ms)]
        cells += [f"{one.cpu_ms[1] / (top[first].cpu_ms[1] * place / last):.2f}", _both(one.bare_cpu_ms)]
        cells += [f"{one.page_faults:.0f}", f"{one.peak_bytes / 1e9:.2f} GB"]
        cells += [_both(found[n].wall_ms) for n in more]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _both(times: tuple[float, float]) -> str:
    return f"{times[0]:.0f} ({times[1]:.0f})"


def draw(path: Path, axes: dict[str, Axis], threads: int) -> None:
    """Times above, memory below, an axis a column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
    for (above, below), (title, axis) in zip(grid.T, axes.items(), strict=True):
        place = np.array([p for p, _, _ in axis], float)
        points = [found[threads] for _, _, found in axis]
        spent, bare = [p.cpu_ms[1] for p in points], [p.bare_cpu_ms[1] for p in points]
        peak, start = [p.peak_bytes / 1e9 for p in points], [p.start_bytes / 1e9 for p in points]
        _lines(above, place, spent, bare, "without the transition's steps", "{:.0f}")
        _lines(below, place, peak, start, "before there is a model", "{:.2g}")
        below.set_xlabel(title, fontsize=9)
        below.set_xticks(place, [name for _, name, _ in axis], fontsize=7)
        for panel in (above, below):
            panel.minorticks_off()
    for row in grid:  # the axes of a row share their scale: from the least that was measured on
        measured = np.concatenate([line.get_ydata() for panel in row for line in panel.get_lines()[1:]])
        row[0].set_ylim(0.7 * measured.min(), 2 * measured.max())
    for panel, label in zip(grid[:, 0], ("CPU ms an update, one thread", "peak memory, GB"), strict=True):
        panel.set_ylabel(label, fontsize=9)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.legend(frameon=False, fontsize=8, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100)


def _lines(panel: "Axes", place: np.ndarray, values: list[float], floor: list[float], named: str, form: str) -> None:
    from worldmodel.plots import MODEL, PERSISTENCE

    panel.loglog(place, values[-1] * place / place[-1], "--", color=PERSISTENCE, label="in proportion to the last")
    panel.loglog(place, floor, ":", color=MODEL, label=named)
    panel.loglog(place, values, "o-", color=MODEL, lw=2, ms=4, label="an update")
    for x, y in zip(place, values, strict=True):
        panel.annotate(form.format(y), (x, y), (-2, 5), textcoords="offset points", ha="center", fontsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, lw=0.6)
    panel.tick_params(axis="y", labelsize=8)


def main(options: Scaling) -> None:
    axes = axes_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    document = {
        title: [{"at": name, **{str(n): asdict(m) for n, m in found.items()}} for _, name, found in axis]
        for title, axis in axes.items()
    }
    (options.out / "scaling.json").write_text(json.dumps(document, indent=1))
    for title, axis in axes.items():
        print(f"\n{markdown(title, axis, options.threads)}", flush=True)
    draw(options.figure, axes, options.threads[0])


if __name__ == "__main__":
    main(tyro.cli(Scaling))
