from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dreaming.report.video import side_by_side


def frames(count: int, value: tuple[int, int, int], height: int = 63, width: int = 97) -> list[np.ndarray]:
    return [np.full((height, width, 3), value, np.uint8) for _ in range(count)]


def read(path: Path) -> tuple[list[np.ndarray], av.VideoStream]:
    container = av.open(str(path))
    return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)], container.streams.video[0]


def test_the_dream_is_left_and_tinted_the_truth_is_right_and_true(tmp_path):
    path = side_by_side(tmp_path / "v.mp4", frames(40, (90, 160, 90)), frames(40, (90, 160, 90)), hz=20, title="t")
    pictures, stream = read(path)
    height, width, _ = pictures[0].shape
    assert (height % 2, width % 2) == (0, 0)
    assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert stream.average_rate == Fraction(20)
    dream, truth = (pictures[10][height // 2, x].astype(int) for x in (width // 4, 3 * width // 4))
    assert np.abs(truth - (90, 160, 90)).max() < 12
    assert dream[2] > truth[2] + 20  # violet


def test_a_side_that_ends_first_keeps_its_last_frame_darkened(tmp_path):
    pictures, _ = read(
        side_by_side(tmp_path / "v.mp4", frames(10, (200, 200, 200)), frames(60, (200, 200, 200)), hz=20)
    )
    height, width, _ = pictures[0].shape
    before, after = (int(pictures[t][height * 2 // 3, width // 4].sum()) for t in (5, 40))
    assert after < 0.6 * before
    assert len(pictures) >= 60


@pytest.mark.parametrize(("count", "hz", "rate"), [(80, 20.0, 20.0), (16, 60.6, 60.6 / 8), (3, 60.6, 60.6 / 16)])
def test_short_clips_are_slowed_down_by_a_power_of_two(tmp_path, count, hz, rate):
    _, stream = read(side_by_side(tmp_path / "v.mp4", frames(count, (9, 9, 9)), frames(count, (9, 9, 9)), hz=hz))
    assert stream.average_rate is not None
    assert float(stream.average_rate) == pytest.approx(rate, rel=1e-3)


def test_a_bad_frame_is_named_and_nothing_is_left_behind(tmp_path):
    truth = frames(3, (1, 1, 1))
    truth[2] = truth[2][:-1]
    with pytest.raises(ValueError, match="truth frame 2"):
        side_by_side(tmp_path / "v.mp4", frames(3, (1, 1, 1)), truth, hz=20)
    with pytest.raises(ValueError, match="at least one frame"):
        side_by_side(tmp_path / "v.mp4", [], truth, hz=20)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_video_survives_a_failed_write(tmp_path, monkeypatch):
    path = side_by_side(tmp_path / "v.mp4", frames(2, (1, 1, 1)), frames(2, (1, 1, 1)), hz=20)
    content = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(OSError, match="No space"):
        side_by_side(path, frames(2, (9, 9, 9)), frames(2, (9, 9, 9)), hz=20)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
