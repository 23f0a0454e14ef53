"""Every number in the logs of `named_after_origin` says where it comes from; these tests ask where each one went."""

import numpy as np
import pytest
import torch
from toy_logs import named_after_origin, slide, write_log

from configs import UserError
from worldmodel.context import ContextSpec
from worldmodel.replay import Replay
from worldmodel.storage import LogReader

LENGTHS, TERMINATED = [7, 3, 12, 5], [True, False, False, True]


@pytest.fixture
def reader(tmp_path) -> LogReader:
    return write_log(tmp_path, named_after_origin(LENGTHS, TERMINATED))


def context_of(reader: LogReader) -> ContextSpec:
    return ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.asarray(reader.rows["push"]))


def test_every_field_comes_from_its_own_row(reader):
    context = context_of(reader)
    replay = Replay(reader, context)
    batch = replay.sample(64, 9, np.random.default_rng(0))
    push_scale = context.scale[context.names.index("push")]
    friction, push = (context.names.index(name) for name in ("floor_friction", "push"))
    for b in range(64):
        for t in range(9):
            e, step = int(batch.episode[b, t]), int(batch.step[b, t])
            here = 100.0 * e + step
            before = here - 1
            assert batch.vector[b, t].tolist() == [here, -here]
            assert batch.is_first[b, t] == (step == 0 or t == 0)
            assert batch.is_last[b, t] == (step == LENGTHS[e])
            assert batch.is_terminal[b, t] == (step == LENGTHS[e] and TERMINATED[e])
            assert batch.labelled[b, t]
            arrived = step > 0
            assert batch.action[b, t].tolist() == [before + 0.25 if arrived else 0.0]
            assert batch.applied_action[b, t].tolist() == [before + 0.5 if arrived else 0.0]
            assert batch.reward[b, t].item() == (before + 0.75 if arrived else 0.0)
            assert batch.context[b, t, push].item() == pytest.approx((before + 0.125) / push_scale if arrived else 0.0)
            assert batch.context[b, t, friction].item() == pytest.approx(-1 + 2 * e / 3, abs=1e-6)
            assert batch.demonstrated[b, t].tolist() == [0.0 if step == LENGTHS[e] else here + 0.375]


def test_a_segment_runs_on_into_the_next_episode_of_its_split_and_resets_there(reader):
    replay = Replay(reader, context_of(reader), episodes=[2, 0])
    batch = replay.gather((np.array([[10]]) + np.arange(6)) % replay.total)
    assert batch.episode.tolist() == [[2, 2, 2, 0, 0, 0]]
    assert batch.step.tolist() == [[10, 11, 12, 0, 1, 2]]
    assert batch.is_first.tolist() == [[True, False, False, True, False, False]]
    assert batch.reward.tolist() == [[209.75, 210.75, 211.75, 0.0, 0.75, 1.75]]


def test_the_last_episode_is_followed_by_the_first(reader):
    replay = Replay(reader, context_of(reader), episodes=[1, 3])
    batch = replay.gather((np.array([[replay.total - 2]]) + np.arange(4)) % replay.total)
    assert batch.episode.tolist() == [[3, 3, 1, 1]] and batch.step.tolist() == [[4, 5, 0, 1]]


def test_only_the_given_episodes_are_drawn_and_every_row_of_them(reader):
    replay = Replay(reader, context_of(reader), episodes=[0, 3], terminal_share=0.0)
    batch = replay.sample(4000, 1, np.random.default_rng(0))
    seen = {(int(e), int(s)) for e, s in zip(batch.episode.ravel(), batch.step.ravel(), strict=True)}
    assert seen == {(0, s) for s in range(8)} | {(3, s) for s in range(6)}


def test_terminal_share_places_terminations(reader):
    context = context_of(reader)
    for share in (0.0, 0.5, 1.0):
        batch = Replay(reader, context, terminal_share=share).sample(2000, 4, np.random.default_rng(0))
        held = batch.is_terminal.any(1).float().mean().item()
        by_chance = 8 / 31  # two terminal rows, each in 4 of the 31 places where a segment of 4 may start
        assert held == pytest.approx(share + (1 - share) * by_chance, abs=0.04)
    everywhere = batch.is_terminal.float().mean(0)
    assert (everywhere > 0.15).all(), "a forced termination may fall on any row of the segment"


def test_no_termination_is_forced_where_none_is_logged(reader):
    replay = Replay(reader, context_of(reader), episodes=[1, 2], terminal_share=0.9)
    assert not replay.sample(50, 5, np.random.default_rng(0)).is_terminal.any()


def test_sampling_is_decided_by_the_generator(reader):
    replay = Replay(reader, context_of(reader))
    first, second = (replay.sample(8, 6, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first.vector, second.vector)


def test_whole_episodes_are_padded_with_their_last_row(reader):
    batch = Replay(reader, context_of(reader)).whole([1, 0], 6)
    assert batch.vector[0, :, 0].tolist() == [100.0, 101.0, 102.0, 103.0, 103.0, 103.0]
    assert batch.vector[1, :, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_logs_without_labels_are_marked_so(tmp_path):
    labelled, bare = named_after_origin([4, 4], [False, False]), named_after_origin([4], [False], label=False)
    reader = write_log(tmp_path, [*labelled, *bare])
    context = ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0))
    batch = Replay(reader, context).whole([0, 2], 3)
    assert batch.labelled.tolist() == [[True] * 3, [False] * 3]
    assert batch.known[:, 0].tolist() == [[1.0], [0.0]]


def test_actions_are_scaled_by_the_bounds_in_the_schema(tmp_path):
    episode = slide(1.0, np.array([-4.0, 0.0, 16.0, 6.0]), 0.0, 0.0)
    reader = write_log(tmp_path, [episode, episode], bounds=(-4.0, 16.0))
    batch = Replay(reader, context_of(reader)).whole([0], 5)
    assert batch.action[0, :, 0].tolist() == pytest.approx([0.0, -1.0, -0.6, 1.0, 0.0])
    assert batch.applied_action[0, :, 0].tolist() == batch.action[0, :, 0].tolist()
    assert batch.demonstrated[0, :, 0].tolist() == pytest.approx([-1.0, -0.6, 1.0, 0.0, 0.0])


def test_statistics_by_hand(tmp_path):
    reader = write_log(tmp_path, [slide(0.0, np.ones(2), 0.0, 0.0), slide(0.0, np.zeros(2), 5.0, 0.0)])
    # x: 0 0 .04, 5 5 5; v: 0 .4 .8, 0 0 0; changes of x: 0 .04 0 0, of v: .4 .4 0 0
    statistics = Replay(reader, context_of(reader)).statistics()
    assert statistics.mean == pytest.approx([15.04 / 6, 0.2], rel=1e-5)
    assert statistics.std[1] == pytest.approx(np.std([0, 0.4, 0.8, 0, 0, 0]), rel=1e-5)
    assert statistics.step_std == pytest.approx([np.std([0, 0.04, 0, 0]), 0.2], rel=1e-4)


def test_a_channel_that_never_moves_has_a_usable_scale(tmp_path):
    episodes = named_after_origin([4, 4], [False, False])
    for episode in episodes:
        episode.observation["vector"][:, 1] = 3.0
    reader = write_log(tmp_path, episodes)
    statistics = Replay(reader, context_of(reader)).statistics()
    assert statistics.std[1] == 1.0 and statistics.step_std[1] > 0


def test_no_episodes_is_a_clear_error(reader):
    with pytest.raises(UserError, match="no episodes to learn from"):
        Replay(reader, context_of(reader), episodes=[])
