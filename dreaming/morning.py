"""The morning: what the night is worth. Audit of its dreams, survival of its policies, films, and the report."""

import os
import platform
import shlex
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

from configs import UserError
from dreaming import auditing
from dreaming.audit import AuditReport
from dreaming.clock import Phase
from dreaming.evaluate import CellResult
from dreaming.films import film, in_order
from dreaming.findings import findings
from dreaming.night import Night
from dreaming.outlook import outlook
from dreaming.report import data
from dreaming.report.page import write_report
from dreaming.run import BEST, CLONE, ZERO_STEP
from dreaming.scenario import LOGGED
from dreaming.selection import AUDIT_SEEDS
from dreaming.survival import Survival, cells_of, log_ranges, report_cells, try_policies
from dreaming.truth import simulate
from envs.record import ExpertPolicy, Policy
from envs.slots import SimulatorError, first_line
from envs.workers import ProcessLostError, Workers
from worldmodel import recorded, results
from worldmodel.evaluation import OpenLoop

SURVIVAL, AUDIT = "survival.json", "audit/report.json"
ENVS = 32
MOST_DREAMS = 24  # a scenario, in the audit
MOST_POINTS = 300  # of a curve in the report
FILMS = 3


def audit(night: Night, phase: Phase) -> None:
    """Dreams of the last policy under every scenario, refused ones too, and under the logs' own physics."""
    auditor, horizon = night.auditor(), night.config.audit_horizon
    seed = AUDIT_SEEDS + 100_000
    if not night.simulated:
        dreams = auditor.logged(MOST_DREAMS, horizon, seed)
        names = night.trainer.reader.schema["observation"]["vector"].get("names")
        found = auditor.audit_on_logs(dreams, names)
    else:
        scenarios = [LOGGED, *night.coverable(), *night.found()]
        # Few environments: the replays are long, the dreams few.
        with night.workers(16) as workers:
            most = _affordable(night, auditor, len(scenarios), 0.8 * phase.seconds, workers)
            dreams = auditor.dreams(scenarios, most, horizon, seed, going_on=lambda: phase.spent() < 0.8)
            if night.budget.stop.is_set():
                return
            night.tick(phase, f"repeating {len(dreams)} dreams in the simulator")
            found = auditor.audit(dreams, workers)
            night.state.count("audit", workers.steps)
    night.saving("dreams", auditing.save_dreams, night.run.path / "audit" / "dreams.npz", dreams)
    night.saving("audit", night.run.write_json, AUDIT, found.to_dict())


def _affordable(night: Night, auditor: auditing.Auditor, scenarios: int, seconds: float, workers: Workers) -> int:
    """Dreams a scenario; the least where the simulator fails while it is timed."""
    horizon, seed = night.config.audit_horizon, AUDIT_SEEDS + 100_000 - 1
    try:
        return auditor.affordable(scenarios, horizon, seed, seconds, MOST_DREAMS, workers)
    except (ProcessLostError, SimulatorError) as error:
        night.warn(f"dreams were audited without knowing what one costs: {first_line(error)}")
        return 2


def survival(night: Night, phase: Phase) -> None:
    """The policy before and after dreaming, and the demonstrator, in worlds inside and outside the logs."""
    if not night.simulated:
        return
    if not night.saving.retry():
        night.warn("survival was not tested, as the disk is full and the policies are not saved")
        return
    task, run = night.config.task, night.run
    policies: dict[str, Policy] = {
        "before": night.agent(CLONE),
        "after": night.agent(BEST),
        "demonstrator": ExpertPolicy(task, night.config.seed),
    }
    if night.state.woken == night.state.nights + 1:
        policies["zero_step"] = night.agent(ZERO_STEP)
    found = Survival(cells_of([*night.scenarios, *night.found()], task))
    with night.workers(ENVS) as workers:
        counted = 0

        def kept() -> None:
            nonlocal counted
            plain = {name: [result.to_dict() for result in by_cell] for name, by_cell in found.results.items()}
            outcome = {"night": night.state.nights, "seeds": found.seeds, "results": plain}
            night.saving("survival", run.write_json, SURVIVAL, outcome)
            night.state.count("survival", workers.steps - counted)
            counted = workers.steps
            night.tick(phase, f"{found.seeds} episodes in each of {len(found.cells)} worlds")

        try:
            try_policies(found, policies, workers, phase.left, night.budget.stop.is_set, kept)
        except (ProcessLostError, SimulatorError) as error:  # twice in a round: what was found before it stands
            night.warn(f"survival ended after {found.seeds} episodes a world: {first_line(error)}")


def report(night: Night, phase: Phase) -> Path:
    """Fills run/report/data.json from what there is and writes the page.

    Raises:
        OSError: the disk is full, and no room was made; all that was saved before is there.
    """
    night.saving.settle(night.budget.stop.is_set)
    for text in recorded.TROUBLE:
        night.warn(text)
    found = _facts(night)
    if night.has_model or night.run.has_logs(night.config):
        try:
            _from_logs(night, found)
        except UserError as error:
            found.warnings.append(str(error))
    audited = night.run.read_json(AUDIT) if "audit" in night.state.done else None
    found.audit = AuditReport.from_dict(audited) if audited else None
    if found.audit is not None:  # as it was when it was audited: a night may be ended on another machine
        found.audited = found.audit.simulator
    if night.searches and night.state.exploration:
        found.explored, found.not_learnable = findings(night)
    elif "learn" in night.state.done and phase.left() > 8 and not night.budget.stop.is_set():
        night.tick(phase, "looking beyond the logs")
        found.not_learnable = list(outlook(night))
    if found.audit is not None and night.simulated and phase.left() > 5 and not night.budget.stop.is_set():
        found.videos = films(night, phase)
        found.warnings += [text for text in night.state.warnings if text not in found.warnings]
    found.training = training(night)
    # What is still to come is short; the phase's own time so far stands for it.
    seconds = dict(night.state.seconds)
    seconds["report"] = seconds.get("report", 0.0) + phase.elapsed() - night.counted
    found.spent = data.Spent(
        simulator_steps={"learning": 0, **night.state.simulator_steps},
        imagined_steps=night.state.imagined_steps,
        seconds={name: round(value, 1) for name, value in seconds.items()},
    )
    if night.has_model:
        found.spent.robot_hours_dreamt = night.state.imagined_steps / night.control_hz / 3600
    found.finished = _now()
    pages: list[Path] = []
    night.saving("report", lambda: (found.save(night.run.path), pages.append(write_report(night.run.path))))
    night.saving.settle(night.budget.stop.is_set)
    return pages[0]


def amend(night: Night) -> None:
    """Writes the report once more if the night has warned since: W&B gets the report itself, and may fail at that."""
    found = data.Report.load(night.run.path)
    if late := [text for text in night.state.warnings if text not in found.warnings]:
        found.warnings += late
        night.saving("report", lambda: (found.save(night.run.path), write_report(night.run.path)))
        night.saving.settle(night.budget.stop.is_set)


def _facts(night: Night) -> data.Report:
    stopped = "the time was up"
    if night.budget.stop.is_set():
        stopped = f"stopped by {night.budget.stop_reason}; the same command goes on from here"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    began = datetime.now().astimezone().timestamp() - night.budget.elapsed()
    return data.Report(
        task=night.config.task,
        started=datetime.fromtimestamp(began).astimezone().isoformat(timespec="seconds"),
        finished="",
        hours=night.budget.total / 3600,
        machine=f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}",
        version=_version(),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        audited=night.simulated,
        stopped=stopped,
        refused=[data.Refused(name, reason) for name, reason in night.state.refused.items()],
        warnings=list(night.state.warnings),
    )


def _from_logs(night: Night, found: data.Report) -> None:
    """What needs the logs: their ranges, which decide what lies outside them, and the model's error on them."""
    reader = night.reader()
    ranges = log_ranges(reader, night.config.task)
    steps = sum(episode["length"] for episode in reader.episodes)
    found.logs = data.Logs(len(reader), steps, ranges)
    saved = night.run.read_json(SURVIVAL)
    if saved and saved.get("night") == night.state.nights:
        by_policy = {n: [CellResult.from_dict(r) for r in rows] for n, rows in saved["results"].items()}
        cells = [(r.scenario, r.label, r.world(night.nominal)) for r in by_policy["before"]]
        found.survival = report_cells(Survival(cells, by_policy, saved["seeds"]), ranges, night.nominal)
    if night.has_model and night.trainer.steps:
        found.open_loop = open_loop(night, night.trainer.evaluate(starts=128))
        if not night.rewarded:
            found.warnings.append(
                "the logs carry no reward: nothing says what is better, so the policy only imitates the logs; "
                "give a reward in the mapping file to have it improved"
            )


def open_loop(night: Night, loop: OpenLoop) -> data.OpenLoop:
    names = results.channel_names(night.trainer.reader.schema, loop.channels.shape[1])
    channels = [
        data.Channel(name, "", loop.channels[:, i].tolist(), loop.channels_persistence[:, i].tolist())
        for i, name in enumerate(names)
    ]
    horizon = list(range(1, len(loop.model) + 1))
    return data.OpenLoop(horizon, loop.model.tolist(), loop.persistence.tolist(), channels)


def training(night: Night) -> data.Training:
    """Curves of all nights."""
    by_phase: dict[str, list[dict]] = {"world_model": [], "dream": []}
    for row in night.run.read_metrics():
        values = {name: value for name, value in row.items() if name != "phase"}
        if row.get("phase") == "world_model" and "seconds" in row:
            step, seconds = values.pop("step", 0), values.pop("seconds")
            losses = {"total" if name == "loss" else name: value for name, value in values.items()}
            by_phase["world_model"].append({"step": step, "seconds": seconds, "loss": losses})
        elif row.get("phase") == "dream" and "seconds" in row:
            by_phase["dream"].append(values)
    thinned = {name: rows[:: max(1, -(-len(rows) // MOST_POINTS))] for name, rows in by_phase.items()}
    return data.Training(thinned["world_model"], thinned["dream"], night.state.selection, night.state.nights)


def films(night: Night, phase: Phase) -> list[data.Video]:
    """Of the beginning of an episode in each of a few scenarios; drawn from there, not chosen for beauty."""
    auditor = night.auditor()
    by_name = {scenario.name: scenario for scenario in [*night.coverable(), *night.found()]}
    made: list[data.Video] = []
    each = 0.0
    with night.workers(1) as workers:
        for name in in_order(list(by_name))[:FILMS]:
            # The page itself, and W&B, need the last of the time.
            if phase.left() < 5 + 1.2 * each:
                break
            begun = phase.elapsed()
            night.tick(phase, f"filming {name}")
            steps = night.config.film_steps
            (dream,) = auditor.dreams([by_name[name]], 1, steps, AUDIT_SEEDS + 200_000, from_start=True)
            ((truth,),) = simulate([dream], night.trainer.held_out.reader, workers)
            if truth.unknown:
                night.state.warn(f"no film of {name}, as the dream could not be repeated: {truth.unknown}")
                continue
            made.append(film(night.run.path, night.config.task, dream, truth, night.control_hz))
            each = phase.elapsed() - begun
        night.state.count("audit", workers.steps)
    return made


def _version() -> str:
    try:
        return f"digital-dreaming {metadata.version('digital-dreaming')}"
    except metadata.PackageNotFoundError:
        return "digital-dreaming, from a checkout"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
