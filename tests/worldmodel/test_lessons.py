from pathlib import Path

import numpy as np
import pytest
from toy_logs import named_after_origin, write_log

from configs import UserError
from worldmodel.lessons import Lessons, held_out_of, split_episodes
from worldmodel.storage import LogReader


def with_splits(folder: Path, splits: list[str | None]) -> LogReader:
    episodes = named_after_origin([3] * len(splits), [False] * len(splits))
    for episode, split in zip(episodes, splits, strict=True):
        episode.info = {"split": split} if split else {}
    return write_log(folder, episodes)


def test_every_tenth_episode_is_held_out(tmp_path):
    learn, held_out = split_episodes(with_splits(tmp_path, [None] * 25))
    assert held_out == [9, 19] and sorted(learn + held_out) == list(range(25))


def test_pieces_of_one_recording_go_together(tmp_path):
    def in_pieces(folder: Path, recordings: int) -> LogReader:
        episodes = named_after_origin([3] * 2 * recordings, [False] * 2 * recordings)
        for i, episode in enumerate(episodes):
            episode.info = {"source": f"{i // 2}.csv", "source_episode": 0, "source_part": 0}
        return write_log(folder, episodes)

    train, held_out = split_episodes(in_pieces(tmp_path / "ten", 10))
    assert held_out == [18, 19] and train == list(range(18))
    assert split_episodes(in_pieces(tmp_path / "two", 2)) == ([0, 1], [2, 3])
    assert split_episodes(in_pieces(tmp_path / "one", 1)) == ([0], [1])  # better than nothing held out


def test_few_episodes_hold_out_one(tmp_path):
    assert split_episodes(with_splits(tmp_path, [None] * 3)) == ([0, 1], [2])


def test_the_logs_own_split_counts(tmp_path):
    reader = with_splits(tmp_path, ["train", "test", "val", None, "test"])
    assert split_episodes(reader) == ([0, 3], [1, 4])


def test_validation_episodes_serve_where_no_test_episodes_are(tmp_path):
    assert split_episodes(with_splits(tmp_path, ["train", "val", "train"])) == ([0, 2], [1])


@pytest.mark.parametrize("splits", [[None], ["test", "test"]])
def test_what_cannot_be_split_is_a_clear_error(tmp_path, splits):
    with pytest.raises(UserError, match="cannot be split"):
        split_episodes(with_splits(tmp_path, splits))


def test_nothing_that_is_held_out_is_shown(tmp_path):
    lessons = Lessons(with_splits(tmp_path / "new", [None] * 12))
    earlier = with_splits(tmp_path / "earlier", ["train", "test", "train"])
    lessons.rehearsal = 0.5
    assert lessons.show(lessons.context(), [str(earlier.folder)]) == []
    rows = lessons.sample(200, 2, np.random.default_rng(0)).vector[:, 0, 0]
    episodes, counts = np.unique(rows.numpy() // 100, return_counts=True)
    assert set(episodes) == set(range(12)) - {9}  # and 1 of earlier logs' episodes, which only the new ones hold
    assert counts[[0, 2]].sum() > 100 > counts[1] > 0
    for log in (lessons.held_out, held_out_of(lessons.reader, lessons.context())):
        assert log.episodes.tolist() == [9]


def test_earlier_logs_that_are_gone_are_told_and_the_rest_goes_on(tmp_path):
    lessons = Lessons(with_splits(tmp_path / "new", [None] * 4), rehearsal=0.5)
    (missing,) = lessons.show(lessons.context(), [str(tmp_path / "gone")])
    assert "not rehearsed" in missing and "gone" in missing
    assert lessons.earlier == [] and len(lessons.sample(8, 2, np.random.default_rng(0)).vector) == 8
