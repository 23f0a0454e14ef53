"""`dream` at work: from options to a night, its report, and what to type next."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import UserError, check_seed, from_dict, packaged, to_dict
from dreaming.cli import Dream
from dreaming.clock import Budget, process_age, stop_on_signals
from dreaming.console import NightScreen
from dreaming.diskuse import most_bytes, stated
from dreaming.exploration import MOST
from dreaming.morning import amend
from dreaming.night import SHARES, Night
from dreaming.phases import all_phases
from dreaming.report.data import Report
from dreaming.report.summary import headline
from dreaming.run import NightConfig, RunFolder
from dreaming.scenario import asked
from dreaming.wandb_log import Tracker
from envs import registry
from worldmodel import checkpoint
from worldmodel.console import clock
from worldmodel.device import choose_device
from worldmodel.log_format import SCHEMA, read_schema
from worldmodel.logs.importing import as_log_folder
from worldmodel.model import ModelConfig
from worldmodel.saved import NAME
from worldmodel.speed import prepare_cpu

DEFAULT_TASK = "push-box"
SHORTEST_S = 30.0  # in less, not even the report is written in time


class Watcher:
    """Shows the night on the terminal and in W&B."""

    def __init__(self, screen: NightScreen) -> None:
        self.tracker: Tracker | None = None  # its complaints are the night's, which needs who watches first
        self.phase, self.progress, self.note = screen.phase, screen.progress, screen.note
        self.step = 0

    def metrics(self, phase: str, step: int, seconds: float, values: dict[str, Any]) -> None:
        # Phases count steps of their own; W&B wants one that never goes back: the seconds since the first night began.
        self.step = int(seconds)
        if self.tracker is not None:
            self.tracker.log({phase: {**values, "step": step}}, self.step)


def dream(options: Dream) -> None:
    if not math.isfinite(options.hours) or options.hours <= 0:
        raise UserError(f"--hours is {options.hours:g}; give a number above 0, as 8 or 0.16")
    if options.hours * 3600 < SHORTEST_S:
        raise UserError(f"--hours {options.hours:g} is {options.hours * 3600:.0f} seconds; give 0.01 or more")
    choose_device(options.device)  # says so at once if it is not there
    budget = Budget(options.hours * 3600, SHARES, used=process_age())
    prepare_cpu()
    named = options.task or _task_of(options.data)
    if options.data is not None and options.data.exists() and not (options.run or named):
        raise UserError(f"--run is missing: what {options.data} is about is known after its import; give a new folder")
    run = RunFolder(options.run or Path("runs") / (named or DEFAULT_TASK))
    with run.claimed():
        _dream(options, run, prepare(options, run), budget)
    if budget.stop.is_set():
        sys.exit(128 + budget.stop_signal)


def _dream(options: Dream, run: RunFolder, config: NightConfig, budget: Budget) -> None:
    with NightScreen() as screen, stop_on_signals(budget):
        watcher = Watcher(screen)
        night = Night(config, run, budget, watcher, choose_device(options.device))
        file = run.path / "wandb" / "run-id"
        run_id = file.read_text().strip() if file.is_file() else None
        tracker = watcher.tracker = Tracker(run.path, options.wandb, to_dict(config), run_id or None, warn=night.warn)
        if tracker.run_id and tracker.run_id != run_id:
            checkpoint.write_atomically(file, tracker.run_id.encode())
        for text in checkpoint.damaged(run.checkpoints):
            night.warn(f"a checkpoint is damaged, and the one before it is used: {text}")
        _introduce(screen, night)
        try:
            page = all_phases(night)
        except KeyboardInterrupt:  # the second one: at once, without a report
            screen.complete()
            screen.say(f"Stopped at once, all but the last minute is saved. To go on: {_again(options, run)}")
            sys.exit(130)
        tracker.log_report(run.path, watcher.step + 1)
        tracker.finish()
        amend(night)
        screen.complete()
        _conclude(screen, night, options, page)


def prepare(options: Dream, run: RunFolder) -> NightConfig:
    """The run's settings, checked before anything is written."""
    before = run.config() if run.exists else None
    if before is None:
        run.check_free()
    if options.size is not None:
        from_dict(ModelConfig, packaged("sizes", options.size), f"size {options.size}")
    task = options.task or (before.task if before else None) or _task_of(options.data) or DEFAULT_TASK
    if before and before.task != task:
        raise UserError(f"{run.path} is a run of {before.task}, not of {task}; give another --run")
    own_logs = (run.episodes / SCHEMA).is_file() and not options.data
    if not (registry.simulated(task) or options.data or own_logs or (before and before.data)):
        registry.task_class(task)  # raises, with a suggestion or the reason
    if options.scenario is not None:
        asked(options.scenario, task)
    data = before.data if before else ""
    if options.data is not None:
        logs = as_log_folder(options.data, run.episodes)
        data = "" if logs.resolve() == run.episodes.resolve() else str(logs.resolve())
        there = Path(before.data) if before and before.data else run.episodes
        # A run that was copied from elsewhere may be shown where its logs lie now.
        if before and before.data != data and checkpoint.exists(run.checkpoints, NAME) and (there / SCHEMA).is_file():
            raise UserError(
                f"{run.path} has learnt from {there}, not {options.data}; leave --data out, or give a new --run"
            )
    folder = Path(data) if data else run.episodes
    if (folder / SCHEMA).is_file():
        held = read_schema(folder)["task"]
        if options.task and held != options.task:
            raise UserError(f"{folder} holds logs of {held}, not of {options.task}; leave --task out, or give others")
        if before and held != before.task:
            raise UserError(f"{run.path} is a run of {before.task}, {folder} holds logs of {held}; give another --run")
        task = held
    elif data:
        raise UserError(f"{folder} holds no logs any more (no {SCHEMA}); give --data anew, or a new --run")
    config = _settle(options, run, before or NightConfig.for_task(task), before is None, data)
    asked(config.scenario, task)
    wakes = config.wake and registry.simulated(task) and (run.episodes / SCHEMA).is_file()  # else there is no wake
    if wakes and read_schema(run.episodes) not in (registry.schema(task, image) for image in (False, True)):
        raise UserError(
            f"--wake adds episodes to {run.episodes}, whose format is not today's; leave it out, or give a new --run"
        )
    if config != before:
        run.create(config)
    return config


def _settle(options: Dream, run: RunFolder, config: NightConfig, new: bool, data: str) -> NightConfig:
    """Options over what the run has; what would not fit the networks that it holds is refused."""
    fixed = checkpoint.exists(run.checkpoints, NAME)
    asked = {"size": options.size, "seed": options.seed, "view": options.view}
    has = {"size": config.size, "seed": config.seed, "view": config.dream.view}
    for name, value in asked.items():
        if value is not None and value != has[name] and fixed and not new:
            raise UserError(f"{run.path} has {name} {has[name]}; leave --{name} out, or give a new --run")
    given = {name: getattr(options, name) for name in ("size", "seed", "scenario", "wake")}
    chosen = {name: value for name, value in given.items() if value is not None}
    if options.seed is not None:
        check_seed(options.seed)
    if chosen.get("wake", config.wake) < 0:
        raise UserError(f"--wake is {options.wake}; give the number of simulator steps, 0 for none")
    if chosen.get("wake", config.wake) and data:
        raise UserError("--wake adds episodes of the simulator to the run's own logs; leave it out with --data")
    if options.wake and not registry.simulated(config.task):
        raise UserError(f"--wake asks for steps of the simulator: {registry.no_simulator(config.task)}; leave it out")
    if options.view is not None:
        chosen["dream"] = replace(config.dream, view=options.view)
    return replace(config, data=data, **chosen)


def _task_of(data: Path | None) -> str | None:
    """The logs' own word; None where they must be imported first to know."""
    if data is None:
        return None
    if (data / SCHEMA).is_file():
        return read_schema(data)["task"]
    return data.stem if data.suffix == ".npz" else None


def _introduce(screen: NightScreen, night: Night) -> None:
    run, state, task = night.run.path, night.state, night.config.task
    logs = night.run.logs(night.config)
    if state.done:
        screen.say(f"Going on with {run}: {', '.join(state.done)} done, the rest shares {clock(night.budget.total)}")
    elif state.nights:
        screen.say(
            f"Night {state.nights + 1} of {run}, on top of the {state.nights} before: {clock(night.budget.total)}"
        )
    else:
        screen.say(f"A night of {clock(night.budget.total)} for {task}, in {run}")
    schema = read_schema(logs) if (logs / SCHEMA).is_file() else registry.schema(task)
    hours, scenarios = night.budget.total / 3600, len(night.scenarios) + (MOST if night.searches else 0)
    text, fits = stated(most_bytes(night.config, schema, hours, scenarios, not night.config.data), run)
    screen.say(text)
    if not fits:
        night.warn("the disk may become full: saving would pause until there is room")
    if not night.simulated:
        screen.note(f"{registry.no_simulator(task)}: dreams are compared with held-out logs, survival is not tested")


def _again(options: Dream, run: RunFolder) -> str:
    return f"dream --run {run.path} --hours {options.hours:g}"


def _conclude(screen: NightScreen, night: Night, options: Dream, page: Path) -> None:
    stopped = night.budget.stop.is_set()
    report = Report.load(night.run.path)
    screen.say("")
    screen.say(headline(report))
    for text in report.warnings:
        screen.note(text)
    if not stopped:
        night.finish()
    took = clock(night.budget.elapsed())
    if stopped:
        screen.say(f"Stopped by {night.budget.stop_reason} after {took}; all is saved.")
    else:
        screen.say(f"Done in {took} of {clock(night.budget.total)}.")
    run = night.run.path
    screen.say(f"  {page}    the report: open it in a browser")
    screen.say(f"  {run}/checkpoints/    the world model and the policies")
    screen.say("Next:")
    goal = "go on from here" if stopped else "another night on top"
    screen.say(f"  {_again(options, night.run)}    # {goal}")
    if night.simulated and night.run.has_policy():
        screen.say(f"  evaluate-policy --run {run}    # try the policy in more episodes")
        screen.say(f"  audit-dreams --run {run}    # check more dreams")
    if night.run.has_policy() and night.config.dream.view == "blind":
        screen.say(f"  export-policy --run {run}    # the policy as a file that onnxruntime runs on the robot")
