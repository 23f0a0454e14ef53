"""The judge is judged with models whose error is known: one that stands still, one that is the system itself."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_logs import slide, sliding_mass, write_log

from worldmodel.context import ContextSpec
from worldmodel.evaluation import open_loop
from worldmodel.model import WorldModel
from worldmodel.replay import Batch, Replay


class Still:
    """Foretells that nothing moves."""

    training = False
    std = torch.tensor([2.0, 1.0])
    observe_past = WorldModel.observe_past

    def eval(self):
        self.training = False

    def train(self, mode: bool = True):
        self.training = mode

    def inputs(self, batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
        assert not hidden.any()  # known physics is told
        return torch.cat([batch.action, batch.context, batch.known], -1)

    def filter(self, vector, image, inputs, is_first):
        return SimpleNamespace(at=lambda rows, t: vector[rows, t]), None, None

    def imagine(self, start, inputs):
        return start.unsqueeze(1).expand(-1, inputs.shape[1], -1)

    def decode(self, imagined):
        return imagined


class TheSystemItself(Still):
    """Steps the sliding mass with the actions it is given; friction 1."""

    def imagine(self, start, inputs):
        x, v = start.unbind(-1)
        rows = []
        for t in range(inputs.shape[1]):
            x, v = x + 0.1 * v, v + 0.1 * (4 * inputs[:, t, 0] - v)
            rows.append(torch.stack([x, v], -1))
        return torch.stack(rows, 1)


class TheSystemOneStepLate(TheSystemItself):
    def imagine(self, start, inputs):
        return super().imagine(start, torch.roll(inputs, 1, 1))


def judge(model: Any, replay: Replay, **kw):
    return open_loop(model, replay, **{"horizon": 8, **kw})


@pytest.fixture
def replay(tmp_path) -> Replay:
    reader = write_log(tmp_path, sliding_mass(5, steps=30, friction=(1.0, 1.0)))
    return Replay(reader, ContextSpec((), (), ()))


def test_the_system_itself_makes_no_error(replay):
    result = judge(TheSystemItself(), replay)
    assert result.model.max() < 1e-5 and result.channels.max() < 1e-5
    assert (result.persistence > 0.01).all()


def test_actions_that_come_one_step_late_are_noticed(replay):
    assert judge(TheSystemOneStepLate(), replay).model.max() > 0.05


def test_standing_still_has_persistences_error(replay):
    result = judge(Still(), replay)
    assert np.array_equal(result.model, result.persistence)
    assert np.array_equal(result.channels, result.channels_persistence)


def test_errors_by_hand(tmp_path):
    """Speed 1 without friction or action: after k steps position has moved 0.1 k, speed not at all."""
    reader = write_log(tmp_path, [slide(0.0, np.zeros(12), 0.0, 1.0)])
    result = judge(Still(), Replay(reader, ContextSpec((), (), ())), horizon=3, warmup=4)
    assert result.channels_persistence[:, 0] == pytest.approx([0.1, 0.2, 0.3], rel=1e-4)
    assert result.channels_persistence[:, 1] == pytest.approx([0.0, 0.0, 0.0])
    # The position's standard deviation is given as 2; the root mean square over two channels halves the square.
    assert result.persistence == pytest.approx(np.array([0.1, 0.2, 0.3]) / 2 / np.sqrt(2), rel=1e-4)


def test_rollouts_stay_within_an_episode_and_reach_its_last_row(tmp_path):
    """Episode e holds the values 100 e + t: any change above the horizon would have crossed a border."""
    episodes = [slide(0.0, np.zeros(length), 0.0, 0.0) for length in (10, 13)]
    for e, episode in enumerate(episodes):
        episode.observation["vector"][:, 0] = 100 * e + np.arange(episode.length + 1)
    replay = Replay(write_log(tmp_path, episodes), ContextSpec((), (), ()))
    result = judge(Still(), replay, horizon=6, warmup=5, starts=200)
    assert result.channels_persistence[:, 0] == pytest.approx(np.arange(1, 7))
    ends = result.traces[0, :, -1, 0]
    assert ((ends % 100) <= 13).all()
    many = [judge(Still(), replay, horizon=6, warmup=5, seed=s).traces[0, :, -1, 0] for s in range(30)]
    assert {10.0, 113.0} <= set(np.concatenate(many).tolist())


def test_short_episodes_shrink_the_horizon(tmp_path):
    replay = Replay(write_log(tmp_path, sliding_mass(3, steps=6)), ContextSpec((), (), ()))
    result = judge(Still(), replay, horizon=50)
    assert result.model.shape == (6,) and np.isfinite(result.model).all()


def test_even_episodes_of_one_step_can_be_judged(tmp_path):
    replay = Replay(write_log(tmp_path, sliding_mass(3, steps=1)), ContextSpec((), (), ()))
    assert judge(Still(), replay).model.shape == (1,)


def test_traces_begin_with_what_was_last_seen(replay):
    result = judge(TheSystemItself(), replay)
    assert result.traces.shape == (2, 6, 9, 2)
    assert np.allclose(result.traces[0], result.traces[1], atol=1e-5)


def test_judging_disturbs_neither_random_numbers_nor_the_training_mode(replay):
    model = Still()
    model.training = True
    torch.manual_seed(5)
    judge(model, replay)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)) and model.training
