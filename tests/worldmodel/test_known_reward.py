import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_logs import sliding_mass, write_log

from worldmodel.known_reward import KnownReward
from worldmodel.logs.expression import FUNCTIONS, Expression
from worldmodel.loss import to_be_learnt
from worldmodel.model import ModelConfig
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import load_model
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig, train

TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)
QUICK = TrainerConfig(
    batch=4, length=8, warmup=10, transition_steps=2, transition_batch=32, ensemble=2, ensemble_batch=32
)
GOAL = "exp(-abs(x_m)) + 2*(abs(x_m) < 0.1)*(abs(v_m_s) < 0.5) - 0.1*push_N**2"
NUMBERS = st.floats(-3, 3, width=32)


def known(text: str) -> KnownReward:
    return KnownReward(text, ("x_m", "v_m_s"), ("push_N",), (-4.0,), (2.0,))


def logged(folder, texts: list[str | None], text: str = GOAL, ends: float = 0.0) -> LogReader:
    """Logs that pay by `text`, and say so in `texts`; of every other episode the last step pays `ends` beside."""
    episodes = []
    for number, (one, said) in enumerate(zip(sliding_mass(len(texts), steps=30), texts, strict=True)):
        x, v = one.observation["vector"][1:].T.astype(np.float64)
        reward = Expression.parse(text, ["x_m", "v_m_s", "push_N"])(
            {"x_m": x, "v_m_s": v, "push_N": one.action[:, 0].astype(np.float64)}
        )
        over = bool(ends) and number % 2 == 0
        reward[-1] += ends * over
        info = {} if said is None else {"reward": said}
        episodes.append(
            dataclasses.replace(one, reward=reward.astype(np.float32), terminated=over, truncated=not over, info=info)
        )
    return write_log(folder, episodes, bounds=(-2.0, 2.0), names=["x_m", "v_m_s"], commands=["push_N"])


@pytest.mark.parametrize(
    "text",
    [
        "x_m",
        "2",
        "-x_m**2 + v_m_s/2 - 1",
        "min(x_m, v_m_s, 0.5) + max(push_N, 1)",
        "(x_m < 0) + (x_m <= v_m_s) + (0 > push_N) + (v_m_s >= 1)",
        "sin(x_m) + cos(v_m_s) + tanh(push_N) + exp(-x_m) + sqrt(x_m**2) + abs(v_m_s)",
        "1 / 3 + 2**3",
    ],
)
@given(x=NUMBERS, v=NUMBERS, action=st.floats(-1, 1, width=32))
def test_it_is_what_the_import_reckoned(text, x, v, action):
    numpys = Expression.parse(text, ["x_m", "v_m_s", "push_N"])
    push = -1.0 + 3.0 * action  # from -4 to 2
    expected = numpys({"x_m": np.array([x]), "v_m_s": np.array([v]), "push_N": np.array([push])})
    vector, command = torch.tensor([[x, v]]), torch.tensor([[action]])
    near = abs(x - v) < 1e-5 or abs(push) < 1e-5 or abs(x) < 1e-5 or abs(v - 1) < 1e-5
    if not near:  # a comparison of floats may go either way there
        assert known(text)(vector, command).tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_all_that_an_expression_may_hold_can_be_dreamt():
    calls = " + ".join(f"{name}(x_m{', v_m_s' * (name in ('min', 'max'))})" for name in FUNCTIONS)
    assert torch.isfinite(known(calls)(torch.full((2, 3, 2), 0.5), torch.zeros(2, 3, 1))).all()


def test_an_edge_says_on_which_side_it_pays():
    x = torch.linspace(-1, 1, 201).requires_grad_()
    vector = torch.stack([x, torch.zeros_like(x)], -1)
    reward = known("(x_m < 0.5) + 3*(x_m >= -0.5)")(vector, torch.zeros(201, 1))
    assert set(reward.tolist()) <= {1.0, 3.0, 4.0}  # no slope in what is paid
    (slope,) = torch.autograd.grad(reward.sum(), x)
    assert slope[150] < -1 and slope[50] > 3  # but in its gradient, at the edges
    assert slope[100].abs() < 1e-3  # and nowhere else


def test_where_it_has_no_slope_gradients_stay_finite():
    vector = torch.zeros(4, 2, requires_grad=True)
    reward = known("sqrt(x_m**2 + v_m_s**2) + (x_m < 0)")(vector, torch.zeros(4, 1))
    reward.sum().backward()
    assert vector.grad is not None and torch.isfinite(vector.grad).all()


def test_only_what_all_episodes_say_and_is_understood_is_known(tmp_path):
    def of(name: str, texts: list[str | None]) -> KnownReward | None:
        return KnownReward.of(logged(tmp_path / name, texts), [0, 1])

    found = of("all", [GOAL] * 3)
    assert found is not None and (found.text, found.low) == (GOAL, (-2.0,))
    assert of("held out", [GOAL, GOAL, "x_m"]) == found
    assert of("one", [GOAL, "x_m", GOAL]) is None
    assert of("nothing", [None] * 3) is None
    assert of("none", ["none"] * 3) is None
    assert of("another's", ["dense", "dense", None]) is None


def test_heads_learn_only_the_rest(tmp_path):
    """Of a reward whose expression is all there is but for what the last step costs."""
    trainer = Trainer(logged(tmp_path, [GOAL] * 6, ends=-5.0), TINY, QUICK)
    batch = trainer.replay.whole(range(5), 31)
    rest, ended = to_be_learnt(trainer.model, batch), batch.is_terminal
    assert ended.sum() == 3
    assert rest[ended].tolist() == pytest.approx([-5.0] * 3, abs=1e-3)
    assert rest[~ended].abs().max() < 1e-4
    segment = trainer.replay.gather(np.array([[3, 4, 5]]))  # its first row was led to, if nothing is shown of that
    assert to_be_learnt(trainer.model, segment).abs().max() < 1e-4


def test_it_is_known_before_anything_is_learnt_and_kept(tmp_path):
    trainer = Trainer(logged(tmp_path / "logs", [GOAL] * 6), TINY, QUICK)
    batch = trainer.replay.whole([0, 1], 20)
    with torch.no_grad():
        belief = trainer.model.filter(
            batch.vector, None, trainer.model.inputs(batch, torch.zeros_like(batch.labelled)), batch.is_first
        )[0]
        said = trainer.model.eval().predict_reward(belief, batch.action)
    assert said[:, 1:].numpy() == pytest.approx(batch.reward[:, 1:].numpy(), abs=1e-4)
    trainer.save(tmp_path / "run")
    assert load_model(tmp_path / "run")[0].known_reward == trainer.model.known_reward


def test_a_run_that_has_learnt_it_goes_on_learning_it(tmp_path):
    """Its heads say all of the reward; logs that say it now must not have it count twice."""
    silent, telling = logged(tmp_path / "silent", [None] * 6), logged(tmp_path / "telling", [GOAL] * 6)
    first = Trainer(silent, TINY, QUICK)
    train(first, lambda: first.steps / 3)
    first.save(tmp_path / "run")
    again, on_top = Trainer(telling, TINY, QUICK), Trainer(telling, TINY, QUICK)
    assert again.model.known_reward is not None
    again.restore(tmp_path / "run")
    on_top.start_from(tmp_path / "run", [])
    assert again.model.known_reward is None and on_top.model.known_reward is None
