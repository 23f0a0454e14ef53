"""The verifier verified: fed the truth it finds nothing, fed a spoiled copy it finds the spoil where it was put.

The truth is made here with one environment and Gymnasium's own loop, by none of the audit's code.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from configs import UserError
from dreaming.audit import AuditReport, Dream, audit, audit_on_logs
from dreaming.comparison import Comparison
from dreaming.truth import FAILED, LOST, NO_STATE, NOT_FINITE, OUT_OF_REACH, Listed, Truth, simulate
from envs import registry
from envs.bullet import start_at
from envs.physics import Physics
from envs.slots import SimulatorError
from envs.workers import ProcessLostError, Workers
from worldmodel.episode import Episode

HORIZON = 40


def log(task: str, seed: int, steps: int, **factors: float) -> Episode:
    """A finger that worries the box, or a hopper's flailing."""
    env = registry.make(task)
    physics = env.nominal.replace(**factors)
    observation, _ = env.reset(seed=seed, options={"physics": physics})
    rows: dict[str, list] = {name: [] for name in ("action", "applied_action", "reward", "push")}
    vectors = [observation]
    terminated = truncated = False
    rng = np.random.default_rng(seed)
    while len(rows["action"]) < steps and not (terminated or truncated):
        action = command(task, vectors[-1], rng)
        observation, reward, terminated, truncated, info = env.step(action)
        vectors.append(observation)
        for name, value in (("action", action), ("reward", reward), ("push", info["push"])):
            rows[name].append(value)
        rows["applied_action"].append(info["applied_action"])
    env.close()
    return Episode(
        observation={"vector": np.stack(vectors)},
        **{name: np.array(values, np.float32) for name, values in rows.items()},
        terminated=terminated,
        truncated=not terminated,
        physics=physics.to_dict(),
        info={"seed": seed, "task": task},
    )


def command(task: str, vector: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if task == "hopper":
        return rng.uniform(-0.6, 0.6, 3).astype(np.float32)
    to_box = vector[13:15] / max(0.05, float(np.linalg.norm(vector[13:15])))
    speed = 0.9 if np.abs(vector[4:6]).max() < 0.3 else -0.9  # away before the edge
    return np.clip(speed * to_box + rng.normal(0, 0.2, 2), -1, 1).astype(np.float32)


def true_dream(
    task: str, episodes: list[Episode], number: int, step: int, horizon: int = HORIZON, told: str = "what-if", **factors
) -> Dream:
    """A 'dream' made by the simulator itself: after its end it stays where it was, as certain as can be."""
    env = registry.make(task)
    physics = Physics.from_dict(episodes[number].physics | factors)
    observation = start_at(env, episodes[number], step, physics)
    rng = np.random.default_rng([number, step])
    vectors, actions, rewards, going_on = [observation], [], [], []
    over = False
    for _ in range(horizon):
        action = command(task, vectors[-1], rng)
        actions.append(action)
        if over:
            vectors.append(vectors[-1])
            rewards.append(0.0)
            going_on.append(1.0)
            continue
        observation, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        vectors.append(observation)
        rewards.append(reward)
        going_on.append(0.0 if terminated else 1.0)
    env.close()
    return Dream(
        episode=number,
        step=step,
        scenario=told,
        physics=physics.to_dict(),
        action=np.stack(actions),
        observation=np.stack(vectors),
        reward=np.array(rewards, np.float32),
        continuation=np.array(going_on, np.float32),
    )


def report_of(dreams, episodes, workers, replicas=0, **arguments) -> AuditReport:
    return audit(dreams, episodes, workers, STD[workers.task], replicas=replicas, **arguments)


STD = {"push-box": np.linspace(0.05, 0.4, 18), "hopper": np.linspace(0.1, 0.5, 15)}


@pytest.fixture(scope="module")
def boxes():
    return [log("push-box", seed, 50, floor_friction=friction) for seed, friction in ((1, 0.3), (2, 0.5), (3, 0.15))]


@pytest.fixture(scope="module")
def hops():
    return [log("hopper", seed, 200) for seed in range(4)]


@pytest.fixture(scope="module")
def box_workers():
    with Workers("push-box", 5, processes=0) as pool:
        yield pool


@pytest.fixture(scope="module")
def hop_workers():
    with Workers("hopper", 5, processes=0) as pool:
        yield pool


@pytest.fixture(scope="module")
def box_dreams(boxes):
    return [
        true_dream("push-box", boxes, 0, 10, told="slippery", floor_friction=0.02),
        true_dream("push-box", boxes, 1, 0, told="slippery", floor_friction=0.03),
        true_dream("push-box", boxes, 2, 23, told="latency", latency_steps=2),
        true_dream("push-box", boxes, 0, 45, told="push", push_m_s=0.5, push_start_s=2.5),  # meets the time limit
        true_dream("push-box", boxes, 1, 30, told="weak-motors", motor_strength=0.6),
    ]


@pytest.fixture(scope="module")
def hop_dreams(hops):
    steps = [0, 5, 3, 8]
    return [true_dream("hopper", hops, i, step, told="payload", payload_kg=2.0) for i, step in enumerate(steps)]


def assert_exactly_zero(report: AuditReport) -> None:
    for part in (report.overall, *report.scenarios):
        for curve in (part.error.median, part.error.mean, *(channel.dream for channel in part.channels)):
            assert all(value == 0.0 for value in curve if value is not None)
        assert part.error.median[0] == 0.0, "something was compared"
        assert part.reward_bias_per_step == 0.0
        assert part.reward_bias_per_dream == 0.0
        for falls in part.falls:
            assert falls.false_alarms == falls.missed == 0
            assert falls.precision in (None, 1.0) and falls.recall in (None, 1.0)
        assert part.trusted


# -- the truth ---------------------------------------------------------------------------------------------------------


def test_the_truth_has_no_error_in_push_box(box_dreams, boxes, box_workers):
    report = report_of(box_dreams, boxes, box_workers)
    assert_exactly_zero(report)
    assert report.simulator
    assert [part.scenario for part in report.scenarios] == ["slippery", "latency", "push", "weak-motors"]
    assert [part.dreams for part in report.scenarios] == [2, 1, 1, 1]
    by_name = {part.scenario: part for part in report.scenarios}
    # 50 logged steps and a limit of 80: of 40 dreamt steps from step 45, 35 can be compared
    assert by_name["push"].compared == [1] * 35 + [0] * 5
    assert by_name["push"].error.median[35:] == [None] * 5
    assert by_name["latency"].compared == [1] * 40


def test_the_truth_has_no_error_in_the_hopper_and_its_falls_are_found(hop_dreams, hops, hop_workers):
    report = report_of(hop_dreams, hops, hop_workers)
    assert_exactly_zero(report)
    falls = report.overall.falls[-1]
    fallen = sum(float(dream.continuation.min()) < 0.5 for dream in hop_dreams)
    assert fallen > 0
    assert (falls.horizon, falls.hits, falls.neither) == (HORIZON, fallen, 4 - fallen)
    assert falls.recall == falls.precision == falls.f1 == 1.0


def test_dreams_of_unlike_length_go_together(hop_dreams, hops, hop_workers):
    short = true_dream("hopper", hops, 0, 2, horizon=5, told="short")
    report = report_of([short, *hop_dreams], hops, hop_workers)
    assert_exactly_zero(report)
    assert part_of(report, "short").horizon == [1, 2, 3, 4, 5]
    assert report.overall.horizon == list(range(1, HORIZON + 1))
    assert report.overall.compared[:5] == [5] * 5
    assert report.overall.compared[5] < 5


def test_the_truth_holds_in_worker_processes_and_any_number_of_slots(box_dreams, boxes, box_workers):
    here = report_of(box_dreams, boxes, box_workers, replicas=1)
    with Workers("push-box", 3, processes=2) as pool:
        there = report_of(box_dreams, boxes, pool, replicas=1)
    assert here.to_dict() == there.to_dict()


def test_sensor_noise_blurs_the_robot_s_eyes_not_the_truth(boxes, box_workers, box_dreams):
    noisy = replace(box_dreams[2], physics=box_dreams[2].physics | {"sensor_noise": 0.1})
    assert_exactly_zero(report_of([noisy], boxes, box_workers))


# -- the spoiled copies ------------------------------------------------------------------------------------------------


def spoil(dreams: list[Dream], which: int, **changes) -> list[Dream]:
    return [replace(dream, **changes) if i == which else dream for i, dream in enumerate(dreams)]


def part_of(report: AuditReport, scenario: str):
    return next(part for part in report.scenarios if part.scenario == scenario)


def test_a_shifted_channel_is_found_in_that_channel_from_that_step_on(box_dreams, boxes, box_workers):
    observation = box_dreams[4].observation.copy()
    observation[11:, 4] += 0.5  # box_x, from step 11 on
    report = report_of(spoil(box_dreams, 4, observation=observation), boxes, box_workers)
    part = part_of(report, "weak-motors")
    wrong = [channel.name for channel in part.channels if any(channel.dream)]
    assert wrong == ["box_x_m"]
    assert part.channels[4].dream == pytest.approx([0.0] * 10 + [0.5] * 30, rel=1e-4)
    expected = 0.5 / STD["push-box"][4] / np.sqrt(18)
    assert part.error.median == pytest.approx([0.0] * 10 + [expected] * 30, rel=1e-4)
    for other in ("slippery", "latency", "push"):
        assert not any(v for v in part_of(report, other).error.mean if v is not None)
    assert report.overall.error.mean[20] == pytest.approx(expected / report.overall.compared[20], rel=1e-3)


def test_the_wrong_friction_is_found_in_the_box_not_in_the_goal(boxes, box_workers, box_dreams):
    dream = true_dream("push-box", boxes, 1, 0, told="slippery", floor_friction=0.03)
    lie = replace(dream, physics=dream.physics | {"floor_friction": 0.3})
    part = report_of([lie], boxes, box_workers).overall
    by_name = {channel.name: max(v or 0.0 for v in channel.dream) for channel in part.channels}
    assert by_name["goal_x_m"] == by_name["goal_y_m"] == 0.0
    assert max(by_name["box_x_m"], by_name["box_y_m"]) > 0.02
    assert max(v or 0.0 for v in part.error.mean) > 0.05


def test_a_removed_fall_is_missed(hop_dreams, hops, hop_workers):
    which = next(i for i, dream in enumerate(hop_dreams) if dream.continuation.min() < 0.5)
    end = int(np.argmin(hop_dreams[which].continuation))
    reward = hop_dreams[which].reward.copy()
    reward[end + 1 :] = 1.0
    observation = hop_dreams[which].observation.copy()
    observation[end + 1 :] = observation[end]  # still up
    dreams = spoil(hop_dreams, which, continuation=np.ones(HORIZON, np.float32), reward=reward, observation=observation)
    part = report_of(dreams, hops, hop_workers).overall
    truth = report_of(hop_dreams, hops, hop_workers).overall.falls[-1]
    falls = part.falls[-1]
    assert (falls.hits, falls.missed, falls.false_alarms) == (truth.hits - 1, 1, 0)
    assert falls.recall == pytest.approx((truth.hits - 1) / truth.hits, abs=1e-6)
    # Rewards were right as long as it truly stood, but the dream goes on collecting: that shows in the return alone.
    assert part.reward_bias_per_step == 0.0
    assert part.reward_bias_per_dream == pytest.approx((HORIZON - end - 1) / 4)
    assert not any(v for v in part.error.mean[:end] if v)


def test_an_invented_fall_is_a_false_alarm(box_dreams, boxes, box_workers):
    continuation = box_dreams[4].continuation.copy()
    continuation[20] = 0.3
    part = part_of(report_of(spoil(box_dreams, 4, continuation=continuation), boxes, box_workers), "weak-motors")
    early, late = part.falls[0], part.falls[-1]
    assert (early.horizon, early.neither, early.false_alarms, early.precision) == (15, 1, 0, None)
    assert (late.horizon, late.false_alarms, late.precision, late.recall) == (HORIZON, 1, 0.0, None)
    assert part.reward_bias_per_dream is not None and part.reward_bias_per_dream < 0


def test_a_dream_that_lags_one_step_is_found_at_once(box_dreams, boxes, box_workers):
    observation = box_dreams[2].observation
    late = np.concatenate([observation[:1], observation[:-1]])
    part = report_of([replace(box_dreams[2], observation=late)], boxes, box_workers).overall
    # one step late, the dream's first step is persistence's
    assert part.error.median[0] == part.persistence.median[0] != 0.0


def test_a_flattering_reward_is_measured(box_dreams, boxes, box_workers):
    reward = box_dreams[2].reward + np.float32(0.125)
    part = report_of([replace(box_dreams[2], reward=reward)], boxes, box_workers).overall
    assert part.reward_bias_per_step == pytest.approx(0.125, abs=1e-6)
    assert part.reward_bias_per_dream == pytest.approx(0.125 * HORIZON, abs=1e-4)


def test_other_commands_than_stated_are_found(hop_dreams, hops, hop_workers):
    part = report_of(spoil(hop_dreams, 0, action=-hop_dreams[0].action), hops, hop_workers).overall
    assert part.error.mean[0] is not None and part.error.mean[0] > 0


def test_a_dream_that_is_not_finite_is_not_trusted(box_dreams, boxes, box_workers):
    observation = box_dreams[2].observation.copy()
    observation[5:, 3] = np.nan
    part = report_of([replace(box_dreams[2], observation=observation)], boxes, box_workers).overall
    assert part.error.median[4:] == [None] * (HORIZON - 4)
    assert part.compared[-1] == 1
    assert not part.trusted
    assert part.reason == "40 steps ahead the dream is not finite"


def test_a_dream_worse_than_standing_still_is_not_trusted(box_dreams, boxes, box_workers):
    observation = box_dreams[2].observation.copy()
    observation[1:] += 10.0
    part = report_of([replace(box_dreams[2], observation=observation)], boxes, box_workers).overall
    assert not part.trusted
    assert "no better than standing still" in part.reason


def test_a_dream_from_another_start_is_our_mistake(box_dreams, boxes, box_workers):
    with pytest.raises(ValueError, match="dream 0 starts at .* in channel 0"):
        report_of([replace(box_dreams[2], step=box_dreams[2].step - 1)], boxes, box_workers)


def test_shapes_are_checked_first(box_dreams, boxes, box_workers):
    with pytest.raises(ValueError, match=r"reward \(39,\)"):
        report_of([replace(box_dreams[2], reward=box_dreams[2].reward[1:])], boxes, box_workers)
    with pytest.raises(UserError, match="no dreams to audit"):
        report_of([], boxes, box_workers)


# -- what cannot be repeated -------------------------------------------------------------------------------------------


def spoilt(boxes: list[Episode]) -> list[Episode]:
    """The logs, with two more: one that another simulator might have made, and one that does not say where from."""
    vector = boxes[2].observation["vector"].copy()
    vector[7, 4] += 1e-3
    return [*boxes, replace(boxes[2], observation={"vector": vector}), replace(boxes[2], info={"task": "push-box"})]


def test_dreams_that_cannot_be_repeated_are_counted_with_their_reason(box_dreams, boxes, box_workers):
    late = box_dreams[2]  # of episode 2, from step 23 on
    action = late.action.copy()
    action[4] = np.nan
    broken = [
        replace(late, episode=3),
        replace(late, episode=4),
        replace(late, action=action),
        replace(late, physics=late.physics | {"box_notch": 0.3}),
        replace(late, physics=late.physics | {"floor_friction": -1.0}),
    ]
    mixed = [broken[0], box_dreams[0], *broken[1:3], box_dreams[1], *broken[3:], *box_dreams[2:]]
    report = report_of(mixed, spoilt(boxes), box_workers)
    assert [(one.episode, one.step, one.reason) for one in report.not_replayed] == [
        (3, 23, OUT_OF_REACH), (4, 23, NO_STATE), (2, 23, NOT_FINITE), (2, 23, OUT_OF_REACH), (2, 23, OUT_OF_REACH)
    ]  # fmt: skip
    details = [one.detail for one in report.not_replayed]
    assert "the log does not replay: at step 7 box_x_m differs" in details[0]
    assert "box_notch is fixed while an episode runs" in details[3] and "floor_friction" in details[4]
    assert json.loads(json.dumps(report.to_dict()))["not_replayed"][1]["scenario"] == "latency"
    # The others are judged as if those had never been.
    alone = report_of(box_dreams, boxes, box_workers)
    kept = [part for part in report.scenarios if part.scenario != "latency"]
    assert kept == [part for part in alone.scenarios if part.scenario != "latency"]
    late_part = part_of(report, "latency")
    assert (late_part.dreams, late_part.not_replayed, report.overall.not_replayed) == (1, 5, 5)
    assert late_part.error == part_of(alone, "latency").error
    assert not late_part.trusted and part_of(alone, "latency").trusted
    assert late_part.reason == f"only 1 of 6 dreams could be repeated in the simulator: {OUT_OF_REACH}"
    assert report.overall.trusted and report.overall.error == alone.overall.error


def test_an_audit_of_which_nothing_can_be_repeated_says_so(box_dreams, boxes, box_workers):
    report = report_of([replace(box_dreams[2], episode=4)] * 2, spoilt(boxes), box_workers, replicas=1)
    assert len(report.not_replayed) == report.overall.not_replayed == 2
    for part in (report.overall, *report.scenarios):
        assert (part.dreams, part.horizon, part.trusted, part.sensitivity) == (0, [], False, None)
        assert part.reason == f"only 0 of 2 dreams could be repeated in the simulator: {NO_STATE}"
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


class Failing(Workers):
    """Fails in the steps of one environment's dream, whenever it is told to play this command."""

    def __init__(self, command: np.ndarray, error: Exception) -> None:
        super().__init__("push-box", 5, processes=0)
        self.command, self.error = command, error

    def step(self, indices, actions):
        if (actions == self.command).all(1).any():
            raise self.error
        return super().step(indices, actions)


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (SimulatorError("a simulator of push-box failed:\nTraceback\npybullet.error: no body"), FAILED, "no body"),
        (ProcessLostError("simulator process 1 of 1 (push-box) died (signal 11)"), LOST, "signal 11"),
    ],
)
def test_a_simulator_that_fails_costs_one_dream(box_dreams, boxes, error, reason, detail):
    with Failing(box_dreams[1].action[3], error) as workers:
        report = report_of(box_dreams, boxes, workers)
    (missing,) = report.not_replayed
    assert (missing.scenario, missing.episode, missing.reason) == ("slippery", 1, reason)
    assert detail in missing.detail and "Traceback" not in missing.detail
    assert_exactly_zero(report)
    assert part_of(report, "slippery").trusted  # one of two is as good as half


def test_a_killed_process_costs_no_dream(box_dreams, boxes, box_workers):
    here = report_of(box_dreams, boxes, box_workers, replicas=1)
    with Workers("push-box", 4, processes=1) as pool:
        pool.reset([0], [1], [registry.nominal("push-box")])
        pool._started[0].kill()
        there = report_of(box_dreams, boxes, pool, replicas=1)
    assert there.not_replayed == [] and there.overall == here.overall


# -- the measures beside it --------------------------------------------------------------------------------------------


def test_persistence_is_what_standing_still_gives(box_dreams, boxes, box_workers):
    dream = box_dreams[2]
    part = report_of([dream], boxes, box_workers).overall
    off = dream.observation[1:].astype(float) - dream.observation[0]
    assert part.persistence.median == pytest.approx(np.sqrt(np.mean((off / STD["push-box"]) ** 2, 1)), rel=1e-5)
    assert part.persistence.median == part.persistence.mean
    assert part.channels[0].persistence == pytest.approx(np.abs(off[:, 0]), rel=1e-5)


def test_sensitivity_grows_with_the_kick_and_repeats(hop_dreams, hops, hop_workers):
    def first_step(eps: float) -> float:
        part = report_of(hop_dreams, hops, hop_workers, replicas=2, sensitivity_eps=eps).overall
        assert part.sensitivity is not None and part.sensitivity.median[0] is not None
        assert part.error.median[0] == 0.0, "a kick must not reach the truth"
        return part.sensitivity.median[0]

    small, large = first_step(1e-3), first_step(1e-1)
    assert 0.0 < small < 0.05 < large < 1.0
    assert first_step(1e-3) == small


def test_simulator_steps_are_counted_with_their_replays(box_dreams, boxes, box_workers):
    report = report_of(box_dreams, boxes, box_workers)
    replayed = sum(dream.step for dream in box_dreams)
    assert report.simulator_steps == replayed + sum(report.overall.compared)
    assert report.overall.sensitivity is None and report.sensitivity_eps is None
    assert report_of(box_dreams, boxes, box_workers, replicas=1).simulator_steps > 1.8 * report.simulator_steps


def test_reports_survive_json(box_dreams, boxes, box_workers):
    report = report_of(box_dreams, boxes, box_workers, replicas=1)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert AuditReport.from_dict(json.loads(text)) == report
    assert len(text) < 200_000


def test_simulate_gives_what_a_film_of_the_truth_needs(hop_dreams, hops, hop_workers):
    for dream, (truth,) in zip(hop_dreams, simulate(hop_dreams, Listed(hops), hop_workers), strict=True):
        assert len(truth.lived) == truth.steps + 1
        assert np.array_equal(truth.lived, dream.observation[: truth.steps + 1])
        assert np.isnan(truth.observation[truth.steps + 1 :]).all()


def made_up(*, continuation, reward, true_reward, steps, fell) -> tuple[Dream, Truth]:
    h = len(reward)
    observation = np.zeros((h + 1, 1), np.float32)
    truth = observation.copy()
    truth[steps + 1 :] = np.nan
    dream = Dream(0, 0, "s", {}, np.zeros((h, 1)), observation, np.array(reward), np.array(continuation))
    return dream, Truth(truth, np.array(true_reward, np.float32), steps, fell)


def judged(*pairs: tuple[Dream, Truth]):
    dreams, truths = zip(*pairs, strict=True)
    return Comparison(dreams, truths, [[] for _ in dreams], np.ones(1)).judge("s", ["x"])


def test_return_bias_worked_by_hand():
    # The truth fell on step 2. The dream gives it half a chance to go on, and pays 4 for each step after.
    fallen = made_up(continuation=[1, 0.5, 0.5, 1], reward=[1, 2, 4, 4], true_reward=[1, 1, 0, 0], steps=2, fell=True)
    part = judged(fallen)
    assert part.reward_bias_per_step == 0.5  # (0 + 1) / 2
    assert part.reward_bias_per_dream == 1 + 2 + 0.5 * 4 + 0.25 * 4 - 2
    # Cut off on step 2 by the time limit: what came after is unknown and counts for nothing.
    cut = made_up(continuation=[1, 0.5, 0.5, 1], reward=[1, 2, 4, 4], true_reward=[1, 1, 0, 0], steps=2, fell=False)
    assert judged(cut).reward_bias_per_dream == 1.0


def test_falls_counted_by_hand():
    alive = {"reward": [0.0] * 20, "true_reward": [0.0] * 20}

    def gone_at(step: int) -> list[float]:
        return [0.1 if t + 1 == step else 0.99 for t in range(20)]

    hit_late = made_up(**alive, continuation=gone_at(17), steps=14, fell=True)  # by 15 missed, by 20 a hit
    early = made_up(**alive, continuation=gone_at(12), steps=18, fell=True)  # by 15 a false alarm, by 20 a hit
    alarm = made_up(**alive, continuation=gone_at(3), steps=20, fell=False)
    quiet = made_up(**alive, continuation=gone_at(0), steps=20, fell=False)
    cut = made_up(**alive, continuation=gone_at(3), steps=16, fell=False)  # known by 15, not by 20
    by_15, by_20 = judged(hit_late, early, alarm, quiet, cut).falls
    assert (by_15.hits, by_15.false_alarms, by_15.missed, by_15.neither) == (0, 3, 1, 1)
    assert (by_20.hits, by_20.false_alarms, by_20.missed, by_20.neither) == (2, 1, 0, 1)
    assert (by_20.recall, by_20.precision, by_20.f1) == (1.0, pytest.approx(2 / 3, abs=1e-5), 0.8)


def test_a_dream_falls_by_its_continuation_or_where_the_task_ends():
    """The task ends beyond 1; a dream is padded with NaN, of which no rule says anything."""
    alive = {"continuation": [0.99] * 4, "reward": [0.0] * 4, "true_reward": [0.0] * 4}
    over, short = made_up(**alive, steps=3, fell=True), made_up(**alive, steps=4, fell=False)
    over[0].observation[3] = 2.0
    short = replace(short[0], **{k: getattr(short[0], k)[:3] for k in ("action", "reward", "continuation")},
                    observation=short[0].observation[:4]), short[1]  # fmt: skip
    dreams, truths = zip(over, short, strict=True)

    def ended(vectors: np.ndarray) -> np.ndarray:
        return ~(vectors[..., 0] <= 1.0)

    for rule, (hits, missed) in ((None, (0, 1)), (ended, (1, 0))):
        comparison = Comparison(dreams, truths, [[] for _ in dreams], np.ones(1), rule)
        falls = comparison.judge("s", ["x"]).falls[-1]
        assert (falls.hits, falls.missed, falls.false_alarms) == (hits, missed, 0)
        assert comparison.falls[1].sum() == 0


def test_falls_within_the_trust_horizon_counted_by_hand():
    alive = {"reward": [0.0] * 20, "true_reward": [0.0] * 20}

    def going(*gone: int) -> list[float]:
        return [0.1 if t + 1 in gone else 0.99 for t in range(20)]

    pairs = [
        (made_up(**alive, continuation=going(7), steps=9, fell=True), 10),  # a hit
        (made_up(**alive, continuation=going(7), steps=12, fell=True), 10),  # a false alarm: it falls later
        (made_up(**alive, continuation=going(12), steps=9, fell=True), 10),  # missed: dreamt too late to be trusted
        (made_up(**alive, continuation=going(3), steps=5, fell=False), 4),  # a false alarm, cut off after its trust
        (made_up(**alive, continuation=going(3), steps=5, fell=False), 6),  # cut off before: nobody knows
        (made_up(**alive, continuation=going(), steps=20, fell=False), 99),  # neither; trusted to its end, 20
        (made_up(**alive, continuation=going(3), steps=20, fell=False), 0),  # not trusted at all
        (made_up(**alive, continuation=going(3), steps=20, fell=False), None),  # nobody said
    ]
    for (dream, _), trust in pairs:
        vars(dream)["trust_horizon"] = trust
    found = judged(*(pair for pair, _ in pairs)).falls_within_trust
    assert found is not None
    assert (found.hits, found.false_alarms, found.missed, found.neither) == (1, 2, 1, 1)
    assert found.horizon == 10  # the median of 10, 10, 10, 4, 6, 20
    assert (found.precision, found.recall) == (pytest.approx(1 / 3, abs=1e-5), 0.5)
    assert judged(*(pair for pair, trust in pairs if not trust)).falls_within_trust is None


def test_falls_are_counted_by_scenario():
    alive = {"reward": [0.0] * 15, "true_reward": [0.0] * 15}
    hit = made_up(**alive, continuation=[0.1] * 15, steps=14, fell=True)
    missed = made_up(**alive, continuation=[0.9] * 15, steps=14, fell=True)
    dreams, truths = zip(hit, missed, missed, strict=True)
    comparison = Comparison(dreams, truths, [[] for _ in dreams], np.ones(1))
    first_two, last = np.array([True, True, False]), np.array([False, False, True])
    f1 = [comparison.judge("s", ["x"], mine).falls[0].f1 for mine in (first_two, last, None)]
    assert f1 == [0.666667, 0.0, 0.5]


def test_trust_is_judged_where_half_of_the_dreams_still_are():
    long = made_up(continuation=[1] * 6, reward=[0] * 6, true_reward=[0] * 6, steps=6, fell=False)
    short = made_up(continuation=[1] * 6, reward=[0] * 6, true_reward=[0] * 6, steps=3, fell=True)
    part = judged(long, short, short)
    assert part.compared == [3, 3, 3, 1, 1, 1]
    assert part.reason.startswith("3 steps ahead") and "(3 of 3 dreams)" in part.reason


def test_trust_is_not_judged_where_the_simulator_has_lost_itself():
    dream, truth = made_up(continuation=[1] * 4, reward=[0] * 4, true_reward=[0] * 4, steps=4, fell=False)
    truth.observation[:, 0] = [0.0, 1.0, 1.0, 1.0, 1.0]
    dream.observation[:, 0] = [0.0, 0.8, 0.8, 3.0, 3.0]
    kicked = replace(truth, observation=truth.observation + np.array([[0.0], [0.1], [0.5], [1.5], [2.0]], np.float32))
    part = Comparison([dream], [truth], [[kicked]], np.ones(1)).judge("s", ["x"])
    assert part.sensitivity is not None
    assert part.sensitivity.median == pytest.approx([0.1, 0.5, 1.5, 2.0])
    assert part.trusted
    assert part.reason == (
        "2 steps ahead the dream's error is 0.2, below standing still (1); "
        "the simulator itself, kicked, strays by 0.5 (1 of 1 dreams)"
    )
    assert not Comparison([dream], [truth], [[]], np.ones(1)).judge("s", ["x"]).trusted


# -- without a simulator -----------------------------------------------------------------------------------------------


def logged_dream(episode: Episode, number: int, step: int, horizon: int) -> Dream:
    stop = step + horizon
    continuation = np.ones(horizon, np.float32)
    if episode.terminated and stop == episode.length:
        continuation[-1] = 0.0
    vector = episode.observation["vector"][step : stop + 1]
    action, reward = episode.action[step:stop], episode.reward[step:stop]
    return Dream(number, step, "logged", {}, action, vector.copy(), reward.copy(), continuation)


def test_on_logs_the_truth_has_no_error_and_the_report_says_where_it_is_from(hops):
    fallen = [i for i, episode in enumerate(hops) if episode.terminated]
    dreams = [logged_dream(hops[i], i, hops[i].length - 8, 8) for i in fallen]
    dreams += [logged_dream(hops[i], i, 1, 8) for i in fallen]
    report = audit_on_logs(dreams, hops, STD["hopper"], ["a"] * 15)
    assert_exactly_zero(report)
    assert not report.simulator
    assert report.note.startswith("not audited in a simulator")
    assert report.simulator_steps == 0
    assert report.overall.sensitivity is None
    assert report.overall.falls[-1].hits == sum(bool(dream.continuation[-1] == 0.0) for dream in dreams) > 0


def test_on_logs_a_spoiled_copy_is_found(hops):
    dream = logged_dream(hops[0], 0, 1, 10)
    dream.observation[4:, 7] += 0.25
    part = audit_on_logs([dream], hops, STD["hopper"]).overall
    assert [channel.name for channel in part.channels if any(channel.dream)] == ["channel 7"]
    assert part.channels[7].dream == pytest.approx([0.0] * 3 + [0.25] * 7, rel=1e-4)


def test_on_logs_a_dream_beyond_the_log_s_end_is_compared_until_there(hops):
    length = hops[0].length
    dream = logged_dream(hops[0], 0, length - 4, 4)
    longer = replace(
        dream,
        action=np.zeros((9, 3), np.float32),
        observation=np.concatenate([dream.observation, np.ones((5, 15), np.float32)]),
        reward=np.concatenate([dream.reward, np.zeros(5, np.float32)]),
        continuation=np.concatenate([dream.continuation, np.ones(5, np.float32)]),
    )
    part = audit_on_logs([longer], hops, STD["hopper"]).overall
    assert part.compared == [1] * 4 + [0] * 5
    assert part.error.median[:4] == [0.0] * 4
