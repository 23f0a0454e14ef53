import dataclasses
import json
import math

import numpy as np
import pytest

from configs import UserError
from dreaming.evaluate import CellResult, evaluate, merge
from envs import registry
from envs.physics import Change
from envs.slots import SimulatorError
from envs.workers import Workers

NOMINAL = registry.nominal("push-box")
CELLS = [
    ("nominal", "nominal", NOMINAL),
    ("slippery", "floor_friction 0.02", NOMINAL.replace(floor_friction=0.02)),
    ("weak-motors", "motor_strength 0.5", NOMINAL.replace(motor_strength=0.5)),
]


class Shove:
    """Runs straight at the box and on, at full speed: at low friction the box flies off the table."""

    def __init__(self):
        self.first = []

    def reset(self, n):
        self.rows = n
        self.heading = np.zeros((n, 2))

    def act(self, observation, is_first):
        vector = observation["vector"]
        assert len(vector) == len(is_first) == self.rows
        self.first.append(is_first.copy())
        to_box = vector[:, 13:15]
        self.heading[is_first] = to_box[is_first] / np.linalg.norm(to_box[is_first], axis=1, keepdims=True)
        return self.heading.astype(np.float32)


class Still:
    def reset(self, n):
        self.shape = (n, 2)

    def act(self, observation, is_first):
        return np.zeros(self.shape, np.float32)


class HopperNoise:
    def reset(self, n):
        self.t = np.zeros(n)

    def act(self, observation, is_first):
        self.t = np.where(is_first, 0, self.t + 1)
        return np.sin(0.7 * self.t[:, None] + np.arange(3)).astype(np.float32)


def by_hand(task, policy, seed, physics):
    """The reference: one environment, one episode, Gymnasium's own loop."""
    env = registry.make(task)
    observation, _ = env.reset(seed=seed, options={"physics": physics})
    policy.reset(1)
    first, rewards, over = True, [], False
    info = {}
    while not over:
        action = policy.act({"vector": observation[None]}, np.array([first]))[0]
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(np.float32(reward)))
        first, over = False, terminated or truncated
    env.close()
    failed = bool(info["failure"]) or not info["success"]
    return len(rewards), sum(rewards), failed, bool(info["failure"]), float(np.float32(info["progress"]))


@pytest.fixture(scope="module")
def workers():
    with Workers("push-box", 4, processes=0) as pool:
        yield pool


@pytest.fixture(scope="module")
def shoved(workers):
    before = workers.steps
    policy = Shove()
    results = evaluate("push-box", policy, CELLS, range(100, 105), workers)
    return results, workers.steps - before, policy


def test_agrees_with_a_plain_loop(shoved):
    results, _, _ = shoved
    for (scenario, label, physics), result in zip(CELLS, results, strict=True):
        assert (result.scenario, result.label, result.physics) == (scenario, label, physics.to_dict())
        for k in (0, 3):
            expected = by_hand("push-box", Shove(), result.seeds[k], physics)
            assert result.lengths[k] == expected[0]
            assert result.returns[k] == pytest.approx(expected[1], abs=1e-9)
            assert (result.failed[k], result.was_lost[k], result.progress[k]) == expected[2:]


def test_counts_and_steps(shoved):
    results, steps, policy = shoved
    assert [result.seeds for result in results] == [[100, 101, 102, 103, 104]] * 3
    assert sum(result.steps for result in results) == steps
    assert sum(first.sum() for first in policy.first) == 15, "every episode begins once"
    nominal, slippery, _ = results
    assert slippery.lost > nominal.lost
    for result in results:
        assert result.failures >= result.lost
        assert result.failure_rate == result.failures / 5
        low, high = result.failure_interval
        assert 0 <= low <= result.failure_rate <= high <= 1


def test_a_box_that_is_not_at_the_goal_is_a_failure_but_not_lost(workers):
    (result,) = evaluate("push-box", Still(), CELLS[:1], range(6), workers)
    assert (result.failures, result.lost) == (6, 0)
    assert set(result.lengths) == {80}


def test_does_not_depend_on_the_number_of_environments(shoved):
    with Workers("push-box", 7, processes=0) as pool:
        again = evaluate("push-box", Shove(), CELLS, range(100, 105), pool)
    assert again == shoved[0]


def test_seeds_by_cell_are_all_different(workers):
    results = evaluate("push-box", Still(), CELLS, [900, 901], workers, seed_per_cell=True)
    assert [result.seeds for result in results] == [[900, 901], [902, 903], [904, 905]]


def test_merge_joins_other_seeds(shoved, workers):
    parts = [evaluate("push-box", Shove(), CELLS, seeds, workers) for seeds in ([100, 101], [102, 103, 104])]
    assert merge(*parts) == shoved[0]
    with pytest.raises(ValueError, match="seed 100 would count twice"):
        merge(parts[0], parts[0])
    with pytest.raises(ValueError, match="different cells"):
        merge(parts[0], parts[1][::-1])


def test_tells_how_far_it_is(workers):
    seen = []
    evaluate("push-box", Still(), CELLS[:2], [0, 1, 2], workers, on_episode=lambda done, n: seen.append((done, n)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_results_survive_json(shoved):
    for result in shoved[0]:
        text = json.dumps(result.to_dict(), allow_nan=False)
        assert CellResult.from_dict(json.loads(text)) == result


def test_no_episodes_are_no_rate():
    empty = CellResult("nominal", "nominal", {})
    assert math.isnan(empty.failure_rate)
    assert empty.failure_interval == (0.0, 1.0)


def test_a_hopper_fails_by_falling():
    nominal = registry.nominal("hopper")
    with Workers("hopper", 3, processes=0) as pool:
        (result,) = evaluate("hopper", HopperNoise(), [("nominal", "nominal", nominal)], range(3), pool)
    assert (result.failures, result.lost) == (3, 3)
    assert max(result.lengths) < 1000
    assert result.lengths[0] == by_hand("hopper", HopperNoise(), 0, nominal)[0]


def test_clear_errors(workers):
    with pytest.raises(UserError, match="the workers simulate push-box, not hopper"):
        evaluate("hopper", Still(), CELLS, [0], workers)
    with pytest.raises(UserError, match="nothing to evaluate: 3 cells with 0 seeds"):
        evaluate("push-box", Still(), CELLS, [], workers)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_simulator_that_fails_once_costs_a_second_try_and_no_more(monkeypatch, failures):
    with Workers("push-box", 3, processes=0) as workers:
        undisturbed = evaluate("push-box", Shove(), CELLS, [5], workers)
        step, left = workers.step, [failures]

        def failing(rows, actions):
            if left[0] and len(rows) < 3:  # in the midst of it
                left[0] -= 1
                raise SimulatorError("PyBullet is gone")
            return step(rows, actions)

        monkeypatch.setattr(workers, "step", failing)
        if failures == 1:
            assert evaluate("push-box", Shove(), CELLS, [5], workers) == undisturbed
        else:
            with pytest.raises(SimulatorError, match="PyBullet is gone"):
                evaluate("push-box", Shove(), CELLS, [5], workers)


def test_a_result_knows_what_changed_on_the_way():
    patch = NOMINAL.changing([Change(0.5, {"floor_friction": 0.05}, 1.0)])
    with Workers("push-box", 1, processes=0) as workers:
        (found,) = evaluate("push-box", Still(), [("patch", "ice", patch)], [5], workers)
    again = CellResult.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found and again.world(NOMINAL) == patch
    with pytest.raises(ValueError, match="are different cells"):
        merge([found], [dataclasses.replace(found, changes=[], seeds=[6])])
