"""`evaluate-policy` at work: failure rates by scenario, with intervals, on the terminal and in evaluation.json."""

import time

from rich import box
from rich.console import Console
from rich.table import Table

from configs import UserError, check_seed, suggest
from dreaming.agent import Agent
from dreaming.cli import Evaluate
from dreaming.evaluate import CellResult
from dreaming.run import OF_RUNS, RunFolder
from dreaming.scenario import load_scenarios, within
from dreaming.selection import SURVIVAL_SEEDS
from dreaming.survival import Survival, cells_of, log_ranges, try_policies
from envs import registry
from envs.record import ExpertPolicy, Policy, RandomPolicy
from envs.workers import Workers
from worldmodel.console import Screen, clock
from worldmodel.storage import LogReader

ENVS = 32
# Beyond those of a night's own survival, so that looking twice is looking at something new.
FIRST_SEED = SURVIVAL_SEEDS + 1_000_000


def evaluate_policy(options: Evaluate) -> None:
    if options.episodes < 1:
        raise UserError(f"--episodes is {options.episodes}; give 1 or more")
    check_seed(options.seed)
    task, policy, run = _chosen(options)
    cells = cells_of(load_scenarios(options.scenario, task), task)
    found = Survival(cells)
    with (
        Screen(f"trying {options.policy}") as screen,
        Workers(task, min(ENVS, len(cells) * options.episodes), camera=_sees_images(policy)) as workers,
    ):
        begun = time.monotonic()

        def kept() -> None:
            left = (time.monotonic() - begun) / found.seeds * (options.episodes - found.seeds)
            text = f"{found.seeds} of {options.episodes} episodes in each of {len(cells)} worlds"
            screen.progress(found.seeds / options.episodes, left, text)

        first = FIRST_SEED + options.seed
        try_policies(
            found, {"policy": policy}, workers, lambda: 1e9, on_round=kept, most=options.episodes, first_seed=first
        )
        screen.complete()
    results = found.results["policy"]
    _print(results, run, task)
    steps, took = found.steps, clock(time.monotonic() - begun)
    screen.say(f"{options.policy} of {run.path if run else task}: {steps:,} simulator steps in {took}")
    if run is not None:
        plain = {
            "task": task, "policy": options.policy, "scenario": options.scenario, "first_seed": first,
            "cells": [{**r.to_dict(), "failure_interval": list(r.failure_interval)} for r in results],
        }  # fmt: skip
        screen.say(f"  {run.write_json('evaluation.json', plain)}    every episode")


def _chosen(options: Evaluate) -> tuple[str, Policy, RunFolder | None]:
    if options.policy in ("expert", "random"):
        run = RunFolder(options.run) if options.run else None
        task = _task_of(run, options) if run else options.task
        if task is None:
            raise UserError(f"--policy {options.policy} needs --task: {', '.join(registry.TASKS)}")
        registry.task_class(task)
        return task, (ExpertPolicy if options.policy == "expert" else RandomPolicy)(task, options.seed), run
    if options.policy not in OF_RUNS:
        raise UserError(f"--policy: {suggest(options.policy, [*OF_RUNS, 'expert', 'random'])}")
    if options.run is None:
        raise UserError(
            f"--run is missing: whose {options.policy} policy? (--policy expert or random need only --task)"
        )
    run = RunFolder(options.run)
    task = _task_of(run, options)
    if task not in registry.TASKS:
        raise UserError(
            f"there is no simulator of {task}, so its policy cannot be tried; there are: {', '.join(registry.TASKS)}"
        )
    registry.task_class(task)
    return task, run.load_agent(OF_RUNS[options.policy]), run


def _sees_images(policy: Policy) -> bool:
    return isinstance(policy, Agent) and policy.sees_images


def _task_of(run: RunFolder, options: Evaluate) -> str:
    task = run.config().task
    if options.task not in (None, task):
        raise UserError(
            f"{run.path} is a run of {task}, not of {options.task}; leave --task out, or give another --run"
        )
    return task


def _print(results: list[CellResult], run: RunFolder | None, task: str) -> None:
    ranges, nominal = {}, registry.nominal(task)
    if run is not None and run.has_logs(run.config()):
        ranges = log_ranges(LogReader(run.logs(run.config())), task)
    title = f"{task}: how often it fails, {results[0].episodes} episodes a world, with 95% intervals"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("scenario", "world", "logged"):
        table.add_column(name, no_wrap=name != "world")
    for name in ("fails", "95%", "lost", "return"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        low, high = r.failure_interval
        known = "?" if not ranges else "yes" if within(r.world(nominal), ranges, nominal) else "no"
        table.add_row(
            r.scenario, r.label, known, f"{r.failure_rate:.0%}", f"{low * 100:.0f}–{high:.0%}", f"{r.lost_rate:.0%}",
            f"{r.return_mean:.1f}",
        )  # fmt: skip
    Console().print(table)
