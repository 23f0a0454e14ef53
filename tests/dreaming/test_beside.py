"""Work beside dreaming: what comes back, what is counted, and what becomes of it when the process is lost."""

import os
import signal
import time

import numpy as np
import psutil
import pytest
import torch
from small_nights import Ears
from torch import nn

from dreaming.beside import Beside, Here, LostError
from dreaming.clock import Budget
from dreaming.night import SHARES, Night
from dreaming.run import RunFolder
from dreaming.selection import Selector
from envs import registry
from envs.workers import Workers
from worldmodel.processes import runs, started_by

TASK = "push-box"


def quiet(text: str) -> None: ...


def steps_of(workers, tell, count: int) -> list[float]:
    """Steps one environment so many times; its rewards."""
    workers.reset([0], [7], [registry.nominal(TASK)])
    tell(f"{count} steps")
    return [float(workers.step([0], np.full((1, 2), 0.3)).reward[0]) for _ in range(count)]


def weight_after(workers, tell, layer: nn.Linear, seconds: float) -> float:
    time.sleep(seconds)
    return float(layer.weight[0, 0])


def killed_if_first(workers, tell, marker: str) -> str:
    """Dies as PyBullet does when it crashes, unless it did so before."""
    steps_of(workers, tell, 3)
    time.sleep(0.6)
    workers.step([0], np.zeros((1, 2)))
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def width(workers, tell, layer: nn.Linear) -> int:
    return layer.in_features


def hung(workers, tell) -> None:
    time.sleep(600)


def halts_its_simulators(workers, tell, file: str) -> None:
    steps_of(workers, tell, 1)
    simulators = started_by()
    for process in simulators:
        process.suspend()
    with open(file, "w") as told:
        told.write(" ".join(str(process.pid) for process in simulators))
    time.sleep(600)


@pytest.fixture(scope="module")
def beside():
    with Beside(TASK, 2) as found:
        yield found


def test_the_same_numbers_as_here_and_every_step_counted(beside):
    here = Here(Workers(TASK, 2, processes=0))
    before = beside.steps
    for helper in (here, beside):
        helper.begin(steps_of, 5)
    assert beside.result(quiet) == here.result(quiet)
    assert here.steps == beside.steps - before == 5
    here.close()


def test_work_is_on_what_was_handed_over_not_on_what_became_of_it(beside):
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        beside.begin(weight_after, layer, 0.3)
        layer.weight.fill_(2.0)
    beside.look()
    assert beside.result(quiet) == 1.0


def test_a_killed_process_is_replaced_and_its_work_tried_once_more(beside, tmp_path):
    before = beside.steps
    beside.begin(killed_if_first, str(tmp_path / "died"))
    assert beside.result(quiet) == "done"
    assert beside.troubles == [
        "the process that tries and audits policies died (signal 9); another took its place and began anew"
    ]
    # Steps of the lost try count as far as they were told: the last call told of those before it.
    assert beside.steps - before == 3 + 4


def test_a_process_that_died_while_idle_costs_the_next_work_no_try(beside, tmp_path):
    told = len(beside.troubles)
    _, process = beside._alive[0]
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    beside.begin(killed_if_first, str(tmp_path / "died"))
    assert beside.result(quiet) == "done"
    idle, again = beside.troubles[told:]
    assert idle.endswith("died while idle; another took its place") and again.endswith("and began anew")


def test_trials_and_audits_give_the_same_there_as_here(beside, small_night):
    run = RunFolder(small_night.path)
    night = Night(run.config(), run, Budget(60.0, SHARES), Ears())
    scenarios, agent = night.coverable(), run.load_agent()
    selector = Selector(TASK, scenarios, night.nominal, registry.log_ranges(TASK), 1, (0.0, 40.0))
    auditor = night.auditor(agent.actor)
    auditor.model = agent.model
    here, found = Here(Workers(TASK, 2, processes=0)), []
    for helper in (here, beside):
        helper.begin(selector.score, agent)
        score = helper.result(quiet)
        helper.begin(auditor.examine, scenarios, 2, 4, 1)
        found.append((score, helper.result(quiet).to_dict()))
    here.close()
    assert found[0] == found[1]
    assert set(found[0][0].scenarios) == {"slippery", "latency"}


def test_work_that_hangs_twice_is_done_without(beside):
    beside.begin(hung)
    beside.hang_s = 0.5
    with pytest.raises(LostError, match="hung: no sign of life for 0.5 s"):
        beside.result(quiet)
    assert [text.rpartition(";")[2] for text in beside.troubles[-2:]] == [
        " another took its place and began anew", " another took its place, and the work is done without",
    ]  # fmt: skip
    beside.hang_s = 60.0


LARGE = nn.Linear(1_000_000, 1)  # more than a pipe takes before the other end reads


def test_a_process_that_is_halted_while_idle_costs_no_more_than_a_hung_one():
    with Beside(TASK, 1, hang_s=1.0) as beside:
        beside.hang_s = 60.0  # without a sign of life, on a busy machine; handing over stays at what it was
        beside.begin(steps_of, 1)
        beside.result(quiet)
        psutil.Process(beside._alive[0][1].pid).suspend()
        beside.begin(width, LARGE)
        assert beside.result(quiet) == 1_000_000
        assert beside.troubles == [
            "the process that tries and audits policies hung: it reads nothing for 60 s; another took its place and "
            "began anew"
        ]


def test_work_is_begun_without_waiting_for_a_process_that_is_still_starting():
    with Beside(TASK, 1) as beside:
        starting = psutil.Process(beside._alive[0][1].pid)
        starting.suspend()
        beside.begin(width, LARGE)
        beside.look()
        starting.resume()
        assert beside.result(quiet) == 1_000_000 and not beside.troubles


def test_whoever_waits_may_give_up(beside):
    def stopped(text: str) -> None:
        raise KeyboardInterrupt

    beside.begin(hung)
    with pytest.raises(KeyboardInterrupt):
        beside.result(stopped)
    child = beside._alive[0][1]
    beside.close()
    assert not child.is_alive()


def test_hung_simulators_of_its_own_go_with_it(tmp_path):
    """They do not notice that it is gone."""
    file = tmp_path / "simulators"
    with Beside(TASK, 2, processes=2) as beside:
        beside.begin(halts_its_simulators, str(file))
        deadline = time.monotonic() + 120
        while not (file.exists() and len(file.read_text().split()) >= 2):
            beside.look()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    simulators, deadline = [int(pid) for pid in file.read_text().split()], time.monotonic() + 20
    while any(runs(pid) for pid in simulators):
        assert time.monotonic() < deadline, "simulators outlived the process that they were of"
        time.sleep(0.05)
