"""The wake, only where it is asked for: simulator steps are learnt from where an audit says that the model is wrong.

After dreaming, the policy at hand acts in the scenarios that audits refused, or else in those in which dreams agree
worst, for `NightConfig.wake` steps. They are counted as `learning`, the only such steps of a night, and their episodes
are appended to the run's logs, marked in their info. The world model learns on from the grown logs, is calibrated anew,
and dreaming goes on. The policy that no such step went into is kept under a name of its own, and is tried beside the
others in the morning.
"""

from collections.abc import Sequence

import numpy as np

from configs import UserError
from dreaming.clock import Phase
from dreaming.evening import learn
from dreaming.night import Night
from dreaming.run import BEST, ZERO_STEP
from dreaming.saving import no_space
from dreaming.scenario import Scenario
from envs import registry
from envs.physics import Physics
from envs.record import NoisyPolicy, record
from envs.slots import SimulatorError, first_line
from envs.workers import ProcessLostError
from worldmodel import checkpoint
from worldmodel.episode import WAKE
from worldmodel.storage import LogReader, LogWriter

WAKE_SEEDS = 2_000_000
COLLECTING_SHARE = 0.4  # of the phase; the rest of it refines the world model
WORST = 2  # scenarios, where audits refused none


def wake(night: Night, phase: Phase) -> None:
    """Goes on from whatever of it the run holds already."""
    targets = wrong(night)
    if not targets:
        night.state.warn("no wake: the model covers no scenario that could be learnt in the simulator")
        return
    # What waits for room on the disk is written first: the policy that is kept must be the best there is.
    if not night.saving.retry() or not keep_zero_step(night):
        night.warn("no wake: the disk is full, and what it collects would have no room")
        return
    collect(night, phase, targets)
    if night.budget.stop.is_set():
        return
    night.look_at_logs_again()
    learn(night, phase)
    night.state.woken = night.state.nights + 1


def wrong(night: Night) -> list[Scenario]:
    """Where audits say that the model errs.

    Changes on the way are not written into logs, so scenarios with any are left out.
    """
    possible = [s for s in night.coverable() if not s.events_for(night.config.task)]
    refused = [s for s in possible if s.name in night.state.refused]
    far = night.state.disagreement
    return refused or sorted(possible, key=lambda s: -far.get(s.name, 0.0))[:WORST] or night.found()[:WORST]


def keep_zero_step(night: Night) -> bool:
    """The best policy before any simulator step was learnt from, in this night or one before it; False if the disk is
    full.
    """
    folder = night.run.checkpoints
    if checkpoint.exists(folder, ZERO_STEP):
        return True
    state, meta, step = checkpoint.load(folder, BEST)
    try:
        checkpoint.save(folder, ZERO_STEP, step, state, {**meta, "policy": ZERO_STEP})
    except OSError as error:
        if no_space(error):
            return False
        raise
    return True


def collected(reader: LogReader, number: int | None = None) -> int:
    """Simulator steps of wakes, or of one night's, that the logs hold."""
    marks = [(episode["info"].get(WAKE), episode["length"]) for episode in reader.episodes]
    return sum(length for mark, length in marks if mark is not None and number in (None, mark))


def collect(night: Night, phase: Phase, targets: Sequence[Scenario]) -> None:
    """Whole episodes, until the steps are together or the time for it is up."""
    task, number, wanted = night.config.task, night.state.nights, night.config.wake
    image = night.trainer.model.spaces.image
    policy, noise = night.agent(BEST), registry.entry(task).noise
    processes, names = night.processes(phase), ", ".join(scenario.name for scenario in targets)

    def draw(rng: np.random.Generator) -> Physics:
        return targets[int(rng.integers(len(targets)))].sample(task, rng, night.nominal)

    done = collected(night.reader(), number)
    try:
        with LogWriter(night.run.episodes, registry.schema(task, image)) as writer:
            while done < wanted and phase.spent() < COLLECTING_SHARE and not night.budget.stop.is_set():
                # No more at once than are sure to be wanted: every step that is simulated is kept, and counted.
                count = min(16, max(1, (wanted - done) // registry.task_class(task).max_steps))
                seed = WAKE_SEEDS + night.config.seed * 1000 + len(writer)
                # As a demonstrator's, its logs are to hold what happens beside its path.
                noisy = NoisyPolicy(policy, noise, seed)
                for episode in record(task, noisy, count, seed, processes=processes, camera=image, draw=draw):
                    episode.info[WAKE] = number
                    writer.append(episode)
                    done += episode.length
                    night.tick(phase, f"{done:,} of {wanted:,} steps where the model is wrong: {names}")
    except (ProcessLostError, SimulatorError, UserError) as error:  # in worlds as hard as these, or on a full disk
        night.warn(f"the wake collected {done:,} of {wanted:,} steps and went on with those: {first_line(error)}")
    # From the logs, whatever was killed when.
    night.state.simulator_steps["learning"] = collected(night.reader())
