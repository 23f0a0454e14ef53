"""`audit-dreams` at work: dreams of a run's policy, repeated in PyBullet, error by horizon."""

import time

from rich.console import Console
from rich.table import Table

from configs import UserError, check_seed
from dreaming import auditing
from dreaming.audit import AuditReport
from dreaming.audit_report import why_not_replayed
from dreaming.cli import Audit
from dreaming.run import RunFolder
from dreaming.scenario import LOGGED, Scenario, load_scenarios, usual_world
from dreaming.selection import AUDIT_SEEDS
from envs import registry
from envs.workers import Workers
from worldmodel.console import Screen, clock
from worldmodel.context import ContextSpec
from worldmodel.lessons import held_out_of
from worldmodel.storage import LogReader

FIRST_SEED = AUDIT_SEEDS + 500_000  # a night's own audits use those before
FOLDER = "audit-dreams"


def audit_dreams(options: Audit) -> None:
    for name in ("dreams", "horizon"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; give 1 or more")
    check_seed(options.seed)
    run = RunFolder(options.run)
    config = run.config()
    task = config.task
    simulated = registry.simulated(task)
    scenarios = load_scenarios(options.scenario, task)
    reader = LogReader(run.logs(config))
    agent = run.load_agent()
    nominal = usual_world(task, agent.model.context)
    held_out = held_out_of(reader, agent.model.context)
    hz, seed = float(reader.schema["control_hz"]), FIRST_SEED + options.seed
    auditor = auditing.Auditor(task, agent.model, agent.actor, config.dream.view, held_out, nominal, hz)
    begun = time.monotonic()
    with Screen("auditing dreams") as screen:
        if simulated:
            with Workers(task, 16, camera=agent.model.spaces.image) as workers:
                asked = [LOGGED, *_dreamable(scenarios, task, agent.model.context, screen)]
                dreams = []
                for done, scenario in enumerate(asked, 1):
                    dreams += auditor.dreams([scenario], options.dreams, options.horizon, seed)
                    took = time.monotonic() - begun
                    screen.progress(0.7 * done / len(asked), took / done * (1.4 * len(asked) - done), scenario.name)
                report = auditor.audit(dreams, workers)
        else:
            screen.note(f"{registry.no_simulator(task)}: dreams are compared with held-out logs only")
            dreams = auditor.logged(options.dreams, options.horizon, seed)
            report = auditor.audit_on_logs(dreams, reader.schema["observation"]["vector"].get("names"))
        screen.complete()
        # Beside a night's own audit, which its report may yet read.
        auditing.save_dreams(run.path / FOLDER / "dreams.npz", dreams)
        path = run.write_json(f"{FOLDER}/report.json", report.to_dict())
        _print(report, task)
        took = clock(time.monotonic() - begun)
        screen.say(f"{len(dreams)} dreams, {report.simulator_steps:,} simulator steps in {took}")
        screen.say(f"  {path}    every curve")
        screen.say(f"  {run.path}/{FOLDER}/dreams.npz    the dreams")


def _dreamable(scenarios: list[Scenario], task: str, context: ContextSpec, screen: Screen) -> list[Scenario]:
    chosen = []
    for scenario in scenarios:
        if missing := [f for f in scenario.factors(task) if not context.covers(f)]:
            screen.note(f"{scenario.name} left out: the logs never vary {', '.join(missing)}")
        elif scenario.factors(task):
            chosen.append(scenario)
    return chosen


def _print(report: AuditReport, task: str) -> None:
    truth = "PyBullet" if report.simulator else "held-out logs"
    table = Table(title=f"{task}: dreams against {truth}, errors in standard deviations", title_justify="left")
    table.add_column("scenario")
    for name in ("steps", "dream", "still", "kicked", "falls", "reward"):
        table.add_column(name, justify="right")
    table.add_column("trusted")
    for one in [*report.scenarios, report.overall]:
        if not one.horizon:
            table.add_row(one.scenario, *["–"] * 6, "no")
            continue
        at = _last(one.error.median)
        kicked = one.sensitivity.median[at] if one.sensitivity else None
        falls = one.falls[-1] if one.falls else None
        found = f"{falls.hits} of {falls.hits + falls.missed}" if falls else "–"
        table.add_row(
            one.scenario, str(one.horizon[at]), _figure(one.error.median[at]), _figure(one.persistence.median[at]),
            _figure(kicked), found, _figure(one.reward_bias_per_step), "yes" if one.trusted else "no",
        )  # fmt: skip
    console = Console()
    console.print(table)
    for line in why_not_replayed(report.not_replayed):
        console.print(f"  not repeated: {line}", highlight=False)
    console.print("  still: standing still; kicked: the simulator against itself; reward: bias a step", highlight=False)


def _last(curve: list[float | None]) -> int:
    """The last horizon at which any dream could be compared."""
    return max((i for i, value in enumerate(curve) if value is not None), default=0)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
