"""`record-rollouts` at work: from a policy in the simulator to a log folder."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import UserError, check_seed, suggest
from dreaming.cli import Record
from envs import registry
from envs.physics import FACTORS, Physics, PhysicsRange, check_range
from envs.record import ExpertPolicy, NoisyPolicy, Policy, RandomPolicy, record
from worldmodel.console import Screen, clock
from worldmodel.storage import LogWriter

NAMED = ("expert", "random")


def record_rollouts(options: Record) -> None:
    task = options.task
    entry = registry.entry(task)
    if options.episodes < 1:
        raise UserError(f"--episodes is {options.episodes}; give 1 or more")
    check_seed(options.seed)
    low, high = options.noise or entry.noise
    if not (math.isfinite(high) and 0.0 <= low <= high):
        raise UserError(f"--noise is {low:g} {high:g}; give two numbers, 0 <= lowest <= highest")
    ranges = parse_ranges(options.randomise, task)
    play = options.play
    if play is None:
        play = entry.play if options.policy == "expert" else 0.0
    policy = NoisyPolicy(_policy(options), (low, high), options.seed, play, entry.player)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; logs need a folder")
    schema = registry.schema(task, options.camera)
    with LogWriter(options.out, schema) as writer, Screen(f"recording {task}") as screen, _interruptible() as asked:
        held = len(writer)
        # A recording on top of another takes other episodes: the same seed would repeat the first ones.
        seed = options.seed if not held else options.seed * 1_000_003 + held
        if held:
            screen.say(f"{options.out} holds {held} episodes already; these are added")
        steps = failed = made = 0
        begun = time.monotonic()
        for episode in record(task, policy, options.episodes, seed, ranges, camera=options.camera):
            writer.append(episode)
            made, steps, failed = made + 1, steps + episode.length, failed + episode.terminated
            took = time.monotonic() - begun
            left = took / made * (options.episodes - made)
            screen.progress(made / options.episodes, left, f"{made} of {options.episodes} episodes, {steps:,} steps")
            if asked:
                break
        screen.complete()
        _conclude(screen, options, made, steps, failed, time.monotonic() - begun, held + made)
    if asked:
        raise KeyboardInterrupt


def parse_ranges(text: str, task: str) -> PhysicsRange:
    """ "floor_friction=0.15:0.8,payload_kg=0.2" to ranges; "default" is the task's own, "none" nominal physics."""
    if text == "default":
        return registry.log_ranges(task)
    ranges: PhysicsRange = {}
    for part in [] if text in ("none", "") else text.split(","):
        name, equals, bounds = part.strip().partition("=")
        if not equals:
            raise UserError(f'--randomise: "{part}" is no range; write floor_friction=0.15:0.8,payload_kg=0:0.3')
        if name not in FACTORS:
            raise UserError(f"--randomise: {suggest(name, FACTORS)}")
        try:
            numbers = [float(number) for number in bounds.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2):
            raise UserError(f'--randomise: {name} has "{bounds}"; give one number, or lowest:highest')
        ranges[name] = numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    nominal: Physics = registry.nominal(task)
    check_range(ranges, nominal)
    return ranges


def _policy(options: Record) -> Policy:
    if options.policy == "expert":
        return ExpertPolicy(options.task, options.seed)
    if options.policy == "random":
        return RandomPolicy(options.task, options.seed)
    folder = Path(options.policy)
    if not folder.exists():
        raise UserError(f"--policy: {suggest(options.policy, NAMED)}, or a run folder")
    from dreaming.run import RunFolder  # torch, which the other policies do not need

    run = RunFolder(folder)
    if (of := run.config().task) != options.task:
        raise UserError(f"{folder} is a run of {of}, not of {options.task}; give --task {of}, or another run")
    agent = run.load_agent(seed=options.seed)
    if agent.sees_images and not options.camera:
        raise UserError(f"--policy {folder}: what it sees are images too; give --camera")
    return agent


def _conclude(screen: Screen, options: Record, made: int, steps: int, failed: int, took: float, held: int) -> None:
    screen.say(
        f"{made} episodes, {steps:,} steps in {clock(took)}; {failed} of them ended in a failure. "
        f"{options.out} holds {held}."
    )
    screen.say("Next:")
    screen.say(f"  train-world-model --data {options.out} --run runs/mine    # learn a world model from them")
    screen.say(f"  dream --data {options.out} --run runs/mine --hours 1      # a whole night on them")


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list, so that the episode under way is written whole; a second one ends at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
