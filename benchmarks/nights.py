"""A night that cannot be lost: shortened nights, killed (SIGKILL) again and again, and gone on with each time.

    python benchmarks/nights.py --kills 50
    python benchmarks/nights.py --faults all --hours 0.05    # a night for each kind of trouble, see killing/fault.py
    python benchmarks/nights.py --memory --hours 0.05        # a night as it is: memory, disk, and its end in time
    python benchmarks/nights.py --simulated --hours 2        # a night on a clock that goes faster than any

Half of the kills fall at a random moment of a phase, half in the midst of a write, of every kind that there is. After
each, the run folder is read, and so is how much work is lost; the next leg must go on where the killed one was. Now and
then a second night is begun on the same folder. When a night has come to its end, bytes of its checkpoints are altered.
Results are kept in OUT/results.json after every night, so that an interrupted run goes on. Whether phases that last
for minutes save in their midst, legs of seconds cannot show; `--hours 0.6` can.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro
from killing.checks import Found, altered_bytes, read_all, saved_s
from killing.fault import SAYS
from killing.faults import measured, suffered
from killing.killer import START, Kill, Killer
from killing.simulated import simulated

from configs import from_dict, to_dict
from dreaming.run import NightConfig, RunFolder
from worldmodel.checkpoint import write_atomically

PHASES = ("record", "learn", "clone", "dream", "audit", "survival", "report")
# Names of files by the phase that writes them, and about how often it does.
WRITES = {
    "record": {"rows.npy": 40, "episodes.jsonl": 20, "progress.json": 1},
    "learn": {"world-model-*.pt": 2, "world-model-*.json": 2, "metrics.jsonl": 2, "progress.json": 1},
    "clone": {"policy-cloned-*.pt": 1, "policy-cloned-*.json": 1},
    "dream": {"policy-best-*.pt": 1, "policy-latest-*.pt": 2, "policy-latest-*.json": 2, "metrics.jsonl": 2},
    "audit": {"dreams.npz": 1, "report.json": 1},
    "survival": {"survival.json": 2, "progress.json": 1},
    "report": {"data.json": 1, "index.html": 1},
}
MOMENTS = ("half", "before", "after")
MOST_LOST_S = 120.0


@dataclass
class Options:
    kills: int = 50
    hours: float = 0.012
    """Of each leg of a night; 0.012 is 43 seconds."""
    out: Path = Path("runs/nights")
    task: str = "push-box"
    seed: int = 0
    late_s: float = 15.0
    """How much longer than its hours a night that comes to its end may take, on a busy machine."""
    bytes: int = 24
    """Altered in each file of the newest checkpoints of a finished night."""
    faults: str = ""
    """Instead of killing nights, have something happen to them: "all", or what killing/fault.py knows, with commas
    between, or with + where it is to happen to one night."""
    memory: bool = False
    """Instead of killing nights, watch one."""
    simulated: bool = False
    """Instead of killing nights, play one whose clock is set on with every step."""


@dataclass
class Leg:
    """From a start of `dream` to its end, by a kill or by itself."""

    night: int
    killed: bool
    where: str  # the phase that it was in, and the write, if the kill was in one
    seconds: float
    lost_s: float  # from the last save to the kill
    wrong: list[str] = field(default_factory=list)


@dataclass
class Results:
    legs: list[Leg] = field(default_factory=list)
    bytes_altered: int = 0
    second_nights: int = 0
    wrong: list[str] = field(default_factory=list)


def kills_of(night: int, seed: int, most: int) -> list[Kill]:
    """A kill a phase, in order, at a moment or in a write by turns; where those are too many, some of them."""
    rng = np.random.default_rng([seed, night])
    kills = []
    for place, phase in enumerate((START, *PHASES)):
        kill = Kill(phase, float(rng.random()))
        if phase in WRITES and (place + night) % 2:
            write = str(rng.choice(list(WRITES[phase])))
            number = int(rng.integers(1, WRITES[phase][write] + 1))
            kill = replace(kill, write=write, moment=str(rng.choice(MOMENTS)), number=number)
        kills.append(kill)
    chosen = np.sort(rng.choice(len(kills), min(most, len(kills)), replace=False))
    return [kills[place] for place in chosen]


def compare(before: Found, phases: list[str], after: Found) -> list[str]:
    """Whether a leg went on from what there was `before` it, and lost none of it."""
    wrong = []
    if phases and (again := [name for name in before.done if name in phases]):
        wrong.append(f"{', '.join(again)} done already, and done again")
    if after.nights == before.nights and not set(before.done) <= set(after.done):
        wrong.append(f"done was {before.done}, and is {after.done}")
    if after.episodes[: len(before.episodes)] != before.episodes:
        wrong.append("logged episodes are not what they were")
    for name, step in before.steps.items():
        if after.steps.get(name, -1) < step:
            wrong.append(f"{name} went back from step {step} to {after.steps.get(name)}")
    return wrong


def played(options: Options, killer: Killer, night: int, kill: Kill | None) -> Leg:
    before = read_all(killer.path)
    begun_s = time.time()
    killed, seconds, wrong, phase = killer.leg(kill)
    ended_s = time.time()
    try:
        after = read_all(killer.path)
    except Exception as error:  # whatever it is, it is what this benchmark looks for
        return Leg(night, killed, phase, seconds, 0.0, [*wrong, f"not readable: {type(error).__name__}: {error}"])
    wrong += compare(before, list(killer.phases()), after)
    lost_s = 0.0
    if killed and phase != START:
        lost_s = ended_s - max(killer.phases()[phase][1], saved_s(killer.path, phase))
    if lost_s > MOST_LOST_S:
        wrong.append(f"{lost_s:.0f} seconds of work are lost")
    if not killed:
        if after.nights != before.nights + 1 or after.done:
            wrong.append(f"it ended, but night {after.nights} has {after.done} done")
        if not (page := killer.path / "report" / "index.html").exists() or page.stat().st_mtime < begun_s:
            wrong.append("it ended without a report")
        if (late_s := seconds - 3600 * options.hours) > options.late_s:
            wrong.append(f"it took {late_s:.1f} seconds longer than it should")
    where = f"{phase}, {kill.moment} {kill.write}" if killed and kill and kill.write else phase
    return Leg(night, killed, where, round(seconds, 2), round(lost_s, 2), wrong)


def prepare(options: Options, path: Path) -> None:
    config = NightConfig.for_task(options.task)
    small = replace(config, size="debug", scenario="slippery,latency", episodes=60, audit_horizon=15, film_steps=8)
    RunFolder(path).create(small)


def one_night(options: Options, night: int, kills: int, results: Results, keep) -> None:
    """Killed up to `kills` times, then left alone to its end; a leg may come to the end before its kill."""
    path = options.out / f"night-{night}"
    shutil.rmtree(path, ignore_errors=True)  # of a benchmark that was itself interrupted
    prepare(options, path)
    killer = Killer(path, options.hours)
    over = False
    for kill in kills_of(night, options.seed, kills):
        if kill.phase in RunFolder(path).progress().done:
            continue  # a kill that was meant for an earlier phase came late
        leg = played(options, killer, night, kill)
        results.legs.append(leg)
        show(leg)
        if over := not leg.killed:
            break
    if not over:
        leg = played(options, killer, night, None)
        results.legs.append(leg)
        show(leg)
    results.second_nights += killer.second_nights
    tried, wrong = altered_bytes(path / "checkpoints", options.bytes, np.random.default_rng([options.seed, night, 1]))
    results.bytes_altered += tried
    results.wrong += wrong
    keep()


def show(leg: Leg) -> None:
    end = f"killed in {leg.where}, {leg.lost_s:.1f} s lost" if leg.killed else "came to its end"
    print(f"night {leg.night}: {leg.seconds:.1f} s, {end}", *(f"WRONG: {w}" for w in leg.wrong), sep="; ", flush=True)


def markdown(results: Results, hours: float) -> str:
    lines = ["| phase | killed | at a moment | in a write | most work lost, s |", "|---|---|---|---|---|"]
    killed = [leg for leg in results.legs if leg.killed]
    for phase in (START, *PHASES):
        mine = [leg for leg in killed if leg.where.split(",")[0] == phase]
        if mine:
            writes = sum("," in leg.where for leg in mine)
            most = max(leg.lost_s for leg in mine)
            lines.append(f"| {phase} | {len(mine)} | {len(mine) - writes} | {writes} | {most:.1f} |")
    ended = [leg for leg in results.legs if not leg.killed]
    late = max((leg.seconds - 3600 * hours for leg in ended), default=float("nan"))
    wrong = [text for leg in results.legs for text in leg.wrong] + results.wrong
    lines += [
        "",
        f"{len(killed)} kills, {len(ended)} nights came to their end with a report, at most {late:.1f} s after "
        f"their {3600 * hours:.0f} s; {results.second_nights} second nights begun beside one; "
        f"{results.bytes_altered} bytes of checkpoints altered; {len(wrong)} things wrong",
        *(f"- {text}" for text in wrong),
    ]
    return "\n".join(lines)


def suffer(options: Options) -> int:
    names = list(SAYS) if options.faults == "all" else options.faults.split(",")
    fates = []
    for name in names:
        fate = suffered(name, options.out, options.hours, options.late_s, lambda path: prepare(options, path))
        fates.append(fate)
        print(f"{name}: {fate.seconds:.0f} s", *fate.said, *(f"WRONG: {w}" for w in fate.wrong), sep="\n  ", flush=True)
        write_atomically(options.out / "faults.json", json.dumps([to_dict(fate) for fate in fates], indent=1).encode())
    return int(any(fate.wrong for fate in fates))


def watch(options: Options) -> int:
    found = measured(options.out, options.hours, lambda path: prepare(options, path))
    text = json.dumps(to_dict(found), indent=1)
    write_atomically(options.out / "memory.json", text.encode())
    print(text)
    return int(bool(found.wrong or found.left_running or found.late_s > options.late_s))


def imagine(options: Options) -> int:
    path = options.out / f"simulated-{options.hours:g}"
    shutil.rmtree(path, ignore_errors=True)
    prepare(options, path)
    late_s, clock = simulated(path, options.hours)
    for name, at, seconds in clock.phases:
        print(f"{name} begins after {at:.0f} s and is given {seconds:.0f}")
    print(f"{options.hours:g} hours, {clock.step_s:.1f} seconds a step: it ends {late_s:.1f} seconds late")
    return int(late_s > 5 * clock.step_s)


def main(options: Options) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    if options.faults or options.memory:
        return suffer(options) if options.faults else watch(options)
    if options.simulated:
        return imagine(options)
    file = options.out / "results.json"
    results = from_dict(Results, json.loads(file.read_text()), str(file)) if file.exists() else Results()

    def keep() -> None:
        write_atomically(file, json.dumps(to_dict(results), indent=1).encode())

    night = max((leg.night for leg in results.legs), default=-1) + 1
    while (left := options.kills - sum(leg.killed for leg in results.legs)) > 0:
        one_night(options, night, left, results, keep)
        night += 1
    print(f"\n{markdown(results, options.hours)}")
    return 1 if results.wrong or any(leg.wrong for leg in results.legs) else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
