"""The evening: what a night has before it dreams. Logs, a world model of them, a policy cloned from them."""

from configs import UserError
from dreaming.clock import Phase
from dreaming.night import Night
from dreaming.run import BEST, CLONE
from dreaming.saving import no_space
from envs import registry
from envs.record import demonstrator, record
from envs.slots import SimulatorError, first_line
from envs.workers import ProcessLostError
from worldmodel import checkpoint, results
from worldmodel.episode import WAKE
from worldmodel.log_format import read_schema
from worldmodel.saved import NAME
from worldmodel.storage import LogWriter

RECORDINGS = 4  # that may be begun, as simulators fail
FEWEST_LOGS = 20  # episodes that are recorded however short the night
LOOK_EVERY_S, LOOK_SHARE = 60.0, 0.03  # at the held-out logs


def record_logs(night: Night, phase: Phase) -> None:
    """Demonstrations under the task's default randomisation."""
    config, run = night.config, night.run
    if run.has_logs(config) and _brought(night):
        return
    with LogWriter(run.episodes, registry.schema(config.task)) as writer:
        try:
            _record_on(night, phase, writer)
        finally:  # from the logs, whatever was killed when
            episodes = night.reader().episodes if len(writer) else []
            steps = sum(episode["length"] for episode in episodes if WAKE not in episode["info"])
            night.state.simulator_steps["logs"] = steps


def _record_on(night: Night, phase: Phase, writer: LogWriter) -> None:
    """However often the simulator fails, within reason, and as far as there is room."""
    for left in reversed(range(RECORDINGS)):
        try:
            return _record(night, phase, writer)
        except (ProcessLostError, SimulatorError) as error:
            if not left:
                raise
            night.warn(f"recording went on with episode {len(writer)}: {first_line(error)}")
        except UserError as error:
            if len(writer) < FEWEST_LOGS or not no_space(error):
                raise
            return night.warn(f"the disk is full: {len(writer)} of {night.config.episodes} episodes were recorded")


def _record(night: Night, phase: Phase, writer: LogWriter) -> None:
    task, wanted, begun = night.config.task, night.config.episodes, len(writer)
    if begun >= wanted:
        return
    # A continued recording takes a seed of its own rather than repeat the first episodes.
    seed, ranges = night.config.seed * 1000 + begun, registry.log_ranges(task)
    policy, processes = demonstrator(task, seed), night.processes(phase)
    for episode in record(task, policy, wanted - begun, seed, ranges, processes=processes):
        writer.append(episode)
        share = max(len(writer) / wanted, phase.spent())
        night.tick(phase, f"{len(writer)} of {wanted} episodes", share)
        if (phase.spent() >= 1 and len(writer) >= FEWEST_LOGS) or night.budget.stop.is_set():
            return


def _brought(night: Night) -> bool:
    """Logs in the run's own folder that another command put there, a camera's say, stay as they are."""
    return read_schema(night.run.episodes) != registry.schema(night.config.task)


def learn(night: Night, phase: Phase) -> None:
    """The world model goes on from its checkpoint, if there is one, to the end of the phase; then it is calibrated."""
    trainer = night.trainer
    saved, told = night.now(), 0
    look_at = night.now() + min(LOOK_EVERY_S, phase.seconds / 4)
    while (spent := phase.spent()) < 1 or not trainer.steps:  # on a busy machine a short phase may be over at once
        losses = trainer.update(min(spent, 1.0))
        night.tick(phase, f"step {trainer.steps:,}, loss {losses['loss']:.2f}")
        night.metrics("world_model", trainer.steps, losses)
        now = night.now()
        if now > look_at and phase.left() > 5:
            night.metrics("held_out", trainer.steps, results.scalars(trainer.evaluate()), always=True)
            took = night.now() - now
            look_at = night.now() + max(LOOK_EVERY_S, took / LOOK_SHARE)
        for text in trainer.trouble[told:]:
            night.warn(text)
        told = len(trainer.trouble)
        if now - saved > night.save_every_s:
            _save_model(night)
            saved = night.now()
    _save_model(night)
    for finding in trainer.diagnose():
        night.warn(str(finding))
    _calibrate(night)
    _save_model(night)


def _save_model(night: Night) -> None:
    trainer = night.trainer
    meta = {**trainer.meta(), **night.place()}
    night.saving(NAME, checkpoint.save, night.run.checkpoints, NAME, trainer.steps, trainer.state_dict(), meta)


def _calibrate(night: Night) -> None:
    """How far its dreams can be trusted, where enough episodes were held out to say so."""
    trust = night.config.dream.trust
    try:
        night.trainer.calibrate(trust.coverage, trust.tolerance)
    except UserError as error:
        if trust.acts:
            raise
        night.state.warn(f"dreams state no trust of their own: {error}")


def clone(night: Night, phase: Phase) -> None:
    """From the beginning, or from where this night was when it was killed."""
    dreamer, folder = night.dreamer, night.run.checkpoints
    updates, saved = 0, night.now()
    if checkpoint.exists(folder, CLONE):
        state, meta, _ = checkpoint.load(folder, CLONE)
        if meta.get("night") == night.state.nights:
            dreamer.load_state_dict(state["dreamer"])
            updates = int(state.get("cloned", 0))
    while (spent := phase.spent()) < 1 or not updates:
        values = dreamer.clone(min(spent, 1.0))
        updates += 1
        night.tick(phase, f"{updates:,} updates, likelihood loss {values['imitation_loss']:.2f}")
        night.metrics("clone", updates, values)
        if night.now() - saved > night.save_every_s:
            night.save_policy(CLONE, cloned=updates)
            saved = night.now()
    night.save_policy(CLONE, cloned=updates)
    if "dream" not in {share.name for share in night.budget.shares}:
        night.save_policy(BEST)
