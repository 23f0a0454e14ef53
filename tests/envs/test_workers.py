"""Workers: the same numbers wherever an environment sits, and clear errors when a process dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from configs import UserError
from envs import registry
from envs.bullet import start_at
from envs.slots import SimulatorError
from envs.workers import ProcessLostError, Workers
from worldmodel.episode import Episode
from worldmodel.processes import runs

SEEDS = [11, 12, 13, 14, 15]


@pytest.fixture(scope="module")
def two_processes():
    with Workers("hopper", 5, processes=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def in_process():
    with Workers("hopper", 5, processes=0) as workers:
        yield workers


def worlds():
    nominal = registry.nominal("hopper")
    return [nominal.replace(floor_friction=0.2 + 0.2 * k, sensor_noise=0.01 * k) for k in range(len(SEEDS))]


def action(seed, t):
    """By seed, so that it follows the episode into whatever slot it runs in; small, so that it stands a while."""
    return np.random.default_rng([seed, t]).uniform(-0.1, 0.1, 3).astype(np.float32)


def roll_out(workers, slots, steps=15):
    """Rows are episodes, in the order of SEEDS; `slots` says where each runs."""
    observation = workers.reset(slots, SEEDS, worlds())
    rows = [observation["vector"]]
    for t in range(steps):
        result = workers.step(slots, np.stack([action(seed, t) for seed in SEEDS]))
        rows.append(result.observation["vector"])
    return np.stack(rows), result


def test_results_depend_on_neither_processes_nor_slots(two_processes, in_process):
    reference, last = roll_out(in_process, [0, 1, 2, 3, 4])
    for workers, slots in (
        (two_processes, [0, 1, 2, 3, 4]),
        (two_processes, [3, 0, 4, 2, 1]),
        (in_process, [4, 2, 0, 1, 3]),
    ):
        rows, result = roll_out(workers, slots)
        np.testing.assert_array_equal(rows, reference)
        np.testing.assert_array_equal(result.reward, last.reward)
        for name in ("applied_action", "push", "success", "failure", "progress"):
            np.testing.assert_array_equal(result.info[name], last.info[name])


def test_steps_have_the_stated_shapes_and_kinds(two_processes):
    _, result = roll_out(two_processes, [0, 1, 2, 3, 4], steps=1)
    assert result.observation["vector"].shape == (5, 15) and result.observation["vector"].dtype == np.float32
    assert result.reward.shape == (5,) and result.reward.dtype == np.float32
    assert result.terminated.dtype == result.truncated.dtype == bool
    assert result.info["applied_action"].shape == (5, 3)
    assert result.info["failure"].dtype == result.info["success"].dtype == bool
    np.testing.assert_allclose(result.info["applied_action"], np.stack([action(seed, 0) for seed in SEEDS]), rtol=1e-6)


def test_a_subset_steps_while_the_others_wait(two_processes):
    reference, _ = roll_out(two_processes, [0, 1, 2, 3, 4], steps=6)
    slots = [0, 1, 2, 3, 4]
    two_processes.reset(slots, SEEDS, worlds())
    for t in range(6):
        for row in ([4, 1], [0, 2, 3]):
            result = two_processes.step(row, np.stack([action(SEEDS[k], t) for k in row]))
    np.testing.assert_array_equal(result.observation["vector"], reference[-1][[0, 2, 3]])


def logged(steps=16):
    env = registry.make("hopper")
    observation, _ = env.reset(seed=3, options={"physics": {"floor_friction": 0.9}})
    vectors, actions = [observation], []
    for t in range(steps):
        actions.append(action(3, t))
        vectors.append(env.step(actions[-1])[0])
    physics = env.physics.to_dict()
    env.close()
    return Episode(
        observation={"vector": np.stack(vectors)},
        action=np.stack(actions),
        applied_action=np.stack(actions),
        reward=np.zeros(steps, np.float32),
        push=np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
        physics=physics,
        info={"seed": 3},
    )


def test_start_at_enters_logs_and_switches_physics(two_processes):
    log = logged()
    before = two_processes.steps
    slippery = registry.nominal("hopper").replace(floor_friction=0.1)
    observation = two_processes.start_at([0, 3], [log, log], [14, 10], [None, slippery])["vector"]
    assert two_processes.steps - before == 24  # a replay costs simulator steps
    np.testing.assert_array_equal(observation, log.observation["vector"][[14, 10]])
    result = two_processes.step([0, 3], log.action[[14, 10]])
    assert two_processes.steps - before == 26
    np.testing.assert_array_equal(result.observation["vector"][0], log.observation["vector"][15])
    alone = registry.make("hopper")
    start_at(alone, log, 10, slippery)
    np.testing.assert_array_equal(result.observation["vector"][1], alone.step(log.action[10])[0])
    alone.close()


def test_perturb_depends_on_its_seed_only(two_processes, in_process):
    vectors = []
    for workers, slots in ((two_processes, [0, 1, 2]), (in_process, [2, 4, 0])):
        workers.reset(slots, [5, 5, 5], worlds()[:1] * 3)
        workers.perturb(slots, [1, 2, 1], np.full(15, 0.01))
        vectors.append(workers.step(slots, np.zeros((3, 3))).observation["vector"])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0][0], vectors[0][1])


def test_a_users_mistake_in_a_process_is_the_same_one_line(two_processes):
    log = logged()
    log.observation["vector"][5] += 1.0
    with pytest.raises(UserError, match="does not replay"):
        two_processes.start_at([0, 1], [log, log], [10, 10], [None, None])
    roll_out(two_processes, [0, 1, 2, 3, 4], steps=2)  # and the processes go on


def test_wrong_calls_are_named(two_processes):
    with pytest.raises(ValueError, match="step got 2 indices"):
        two_processes.step([0, 1], np.zeros((3, 3)))
    with pytest.raises(ValueError, match="different indices from 0 to 4"):
        two_processes.step([0, 0], np.zeros((2, 3)))
    with pytest.raises(UserError, match="push-box"):
        Workers("pushbox", 1)
    with pytest.raises(UserError, match="n_envs = 0"):
        Workers("hopper", 0)


def test_a_killed_process_is_named_and_replaced():
    with Workers("hopper", 2, processes=2) as workers:
        told: list[str] = []
        workers.told = told.append
        before = roll_out_two(workers)
        victim, other = workers._started
        victim.kill()
        victim.join()
        with pytest.raises(ProcessLostError, match=r"simulator process 1 of 2 \(hopper\) died \(signal 9\).*memory"):
            workers.step([0, 1], np.zeros((2, 3)))
        assert other.is_alive() and workers._started[1] is other
        assert len(told) == 1 and told[0].endswith("another took its place") and "process 1 of 2" in told[0]
        np.testing.assert_array_equal(roll_out_two(workers), before)


@pytest.mark.parametrize("big", [False, True])
def test_a_hung_process_is_named_and_replaced(big):
    """Stopped before it reads the question; a big one does not fit into the pipe."""
    with Workers("hopper", 2, processes=2, hang_s=2.0) as workers:
        workers.hang_s = 60.0  # to begin with they may take their time
        before = roll_out_two(workers)
        workers.hang_s = 2.0
        victim = workers._started[1]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)
        long = logged(10)
        long = replace(long, info={"seed": 3, "much": "x" * 3_000_000 if big else ""})
        with pytest.raises(ProcessLostError, match=r"simulator process 2 of 2 \(hopper\) hung"):
            workers.start_at([0, 1], [long, long], [5, 5], [None, None])
        assert not victim.is_alive()
        workers.hang_s = 60.0
        np.testing.assert_array_equal(roll_out_two(workers), before)


@pytest.mark.parametrize("processes", [0, 1])
def test_what_fails_in_an_environment_is_a_simulator_error(processes):
    with Workers("hopper", 2, processes=processes) as workers:
        before = roll_out_two(workers)
        with pytest.raises(SimulatorError, match="a simulator of hopper failed(?s:.)*ValueError"):
            workers.perturb([0], [1], np.zeros(99))
        np.testing.assert_array_equal(roll_out_two(workers), before)


def roll_out_two(workers):
    workers.reset([0, 1], [1, 2], worlds()[:2])
    return workers.step([0, 1], np.zeros((2, 3))).observation["vector"]


def test_processes_ignore_the_terminals_signals_and_end_when_closed():
    workers = Workers("hopper", 2, processes=2)
    started = list(workers._started)
    workers.reset([0, 1], [1, 2], worlds()[:2])
    for process in started:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    workers.step([0, 1], np.zeros((2, 3)))
    workers.close()
    workers.close()  # twice does no harm
    assert not any(process.is_alive() for process in started)


PARENT = """
import sys, time
from envs.workers import Workers
if __name__ == "__main__":
    workers = Workers("hopper", 2, processes=2)
    print(*[process.pid for process in workers._started], flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


@pytest.mark.parametrize("end", ["wait", "leave"])
def test_processes_die_with_their_parent(tmp_path, end):
    """Killed without a chance to clean up, or leaving without closing."""
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), end]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        if end == "wait":
            parent.kill()
        assert parent.wait(timeout=20) == (-signal.SIGKILL if end == "wait" else 0)
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in children):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


def test_one_thread_a_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Workers("hopper", 1, processes=1) as workers:
        (process,) = workers._started
        workers.reset([0], [1], worlds()[:1])  # it is up
        with open(f"/proc/{process.pid}/environ") as file:
            assert "OMP_NUM_THREADS=1" in file.read().split("\0")
    assert os.environ["OMP_NUM_THREADS"] == "7"  # the parent's own is left alone
