import matplotlib.image
import numpy as np

from worldmodel.plots import ChannelErrors, Trace, open_loop_plot


def trace(length: int) -> Trace:
    seconds = np.arange(length) / 20
    log = np.stack([np.sin(seconds), np.cos(seconds)], -1)
    return Trace("episode 3", seconds, log, log + 0.1, np.repeat(log[:1], length, 0))


def test_the_plot_has_a_row_for_each_channel(tmp_path):
    horizon, error = range(1, 16), np.linspace(0.1, 0.5, 15)
    alone = open_loop_plot(tmp_path / "plots" / "a.png", horizon, error, 2 * error)
    full = open_loop_plot(
        tmp_path / "b.png", horizon, error, 2 * error, ["yaw rate, rad/s", "v, m/s"], [trace(15), trace(9)]
    )
    small, large = (matplotlib.image.imread(path) for path in (alone, full))
    assert large.shape[0] > small.shape[0] + 200
    assert small[..., :3].std() > 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.png", "plots"]


def test_errors_of_channels_stand_before_their_traces(tmp_path):
    horizon, error = range(1, 16), np.linspace(0.1, 0.5, 15)
    names, examples = ["yaw rate, rad/s", "v, m/s"], [trace(15), trace(9)]
    errors = ChannelErrors(np.arange(1, 16) / 20, np.stack([error, error], 1), np.stack([2 * error, error], 1))
    bare = open_loop_plot(tmp_path / "a.png", horizon, error, error, names, examples)
    full = open_loop_plot(tmp_path / "b.png", horizon, error, error, names, examples, errors)
    small, large = (matplotlib.image.imread(path) for path in (bare, full))
    assert large.shape[1] > small.shape[1]
