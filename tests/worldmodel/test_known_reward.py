import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_logs import sliding_mass, write_log

from configs import UserError
from worldmodel.known_reward import KnownReward
from worldmodel.logs.expression import FUNCTIONS, Expression
from worldmodel.model import ModelConfig
from worldmodel.replay import Batch
from worldmodel.rssm import RSSMConfig
from worldmodel.saved import load_model
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig, train

TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)
QUICK = TrainerConfig(
    batch=4, length=8, warmup=10, transition_steps=2, transition_batch=32, ensemble=2, ensemble_batch=32
)
GOAL = "exp(-abs(x_m)) + 2*(abs(x_m) < 0.1)*(abs(v_m_s) < 0.5) - 0.1*push_N**2"
NAMES = ["x_m", "v_m_s", "push_N"]
NUMBERS = st.floats(-3, 3, width=32)


def known(text: str) -> KnownReward:
    return KnownReward(text, ("x_m", "v_m_s"), ("push_N",), (-4.0,), (2.0,))


def logged(
    folder: Path,
    texts: list[Any],
    text: str = GOAL,
    ends: float = 0.0,
    idle: bool = False,
    begins_at: float | None = None,
    bounds: tuple[float, float] = (-2.0, 2.0),
) -> LogReader:
    """Logs that pay by `text` and say `texts`.

    Args:
        ends: what the last step of every other episode pays beside.
        idle: every other command is nothing.
        begins_at: the first row's position, as logged.
    """
    episodes = []
    for number, (one, said) in enumerate(zip(sliding_mass(len(texts), steps=30), texts, strict=True)):
        vector, action = one.observation["vector"].copy(), one.action.copy()
        action[::2] *= not idle
        vector[0, 0] = vector[0, 0] if begins_at is None else begins_at
        rows = {"x_m": vector[1:, 0], "v_m_s": vector[1:, 1], "push_N": action[:, 0]}
        reward = Expression.parse(text, NAMES)(rows)
        over = bool(ends) and number % 2 == 0
        reward[-1] += ends * over
        episodes.append(
            dataclasses.replace(
                one,
                observation={"vector": vector},
                action=action,
                reward=reward.astype(np.float32),
                terminated=over,
                truncated=not over,
                info={} if said is None else {"reward": said},
            )
        )
    return write_log(folder, episodes, bounds=bounds, names=NAMES[:2], commands=NAMES[2:])


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
    numpys = Expression.parse(text, NAMES)
    push = -1.0 + 3.0 * action  # from -4 to 2
    expected = numpys({"x_m": np.array([x]), "v_m_s": np.array([v]), "push_N": np.array([push])})
    vector, command = torch.tensor([[x, v]]), torch.tensor([[action]])
    near = abs(x - v) < 1e-5 or abs(push) < 1e-5 or abs(x) < 1e-5 or abs(v - 1) < 1e-5
    if not near:  # a comparison of floats may go either way there
        assert known(text)(vector, command).tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_all_that_an_expression_may_hold_can_be_dreamt():
    calls = " + ".join(f"{name}(x_m{', v_m_s' * (name in ('min', 'max'))})" for name in FUNCTIONS)
    assert torch.isfinite(known(calls)(torch.full((2, 3, 2), 0.5), torch.zeros(2, 3, 1))).all()


def test_a_number_alone_is_a_reward_on_every_device():
    on_meta = torch.zeros(2, 3, 2, device="meta"), torch.zeros(2, 3, 1, device="meta")
    for text in ("1", "2 + 3", "1 < 2", "min(x_m, 0) + (x_m < 1)"):
        assert known(text)(*on_meta).shape == (2, 3)


def test_an_edge_says_on_which_side_it_pays():
    x = torch.linspace(-1, 1, 201).requires_grad_()
    vector, none = torch.stack([x, torch.zeros_like(x)], -1), torch.zeros(201, 1)
    edged = dataclasses.replace(known("(x_m < 0.5) + 3*(x_m >= -0.5)"), edges=(0.05, 0.02))
    reward = edged(vector, none)
    assert set(reward.tolist()) <= {1.0, 3.0, 4.0}  # no slope in what is paid
    (slope,) = torch.autograd.grad(reward.sum(), x)
    assert slope[150] == pytest.approx(-0.25 / 0.05, rel=1e-3)  # but in its gradient, at the edges
    assert slope[50] == pytest.approx(3 * 0.25 / 0.02, rel=1e-3)
    assert slope[100].abs() < 1e-3  # and nowhere else
    with torch.no_grad():
        assert torch.equal(edged(vector, none), reward)


def test_no_dream_however_far_off_spoils_another():
    vector = torch.zeros(3, 2)
    vector[1:, 0] = torch.tensor([1e30, -1e30])
    vector.requires_grad_()
    text = "exp(3*x_m) + sqrt(x_m**2 + v_m_s**2) + (exp(3*x_m) < 2) + 1/v_m_s*0"
    reward = dataclasses.replace(known(text), edges=(0.1,), least=-2.0, most=3.0)(vector, torch.zeros(3, 1))
    assert ((reward >= -2) & (reward <= 3)).all()
    (slope,) = torch.autograd.grad(known("sqrt(x_m**2 + v_m_s**2)")(vector, torch.zeros(3, 1))[0], vector)
    assert torch.equal(slope, torch.zeros(3, 2))


def test_only_what_all_episodes_say_and_rewards_bear_out_is_known(tmp_path):
    def of(name: str, texts: list[Any], text: str = GOAL) -> KnownReward | None:
        return KnownReward.of(logged(tmp_path / name, texts, text), [0, 1])

    found = of("all", [GOAL] * 3)
    assert found is not None and found.low == (-2.0,)
    assert found.text == str(Expression.parse(GOAL, NAMES))
    assert len(found.edges) == 2 and all(edge > 0 for edge in found.edges)
    assert found.least < 0 < found.most < 10
    assert of("held out", [GOAL, GOAL, "x_m"]) is not None
    assert of("nothing", [None] * 3) is None
    assert of("none", ["none"] * 3) is None
    assert of("a return", [1.5] * 3) is None
    for texts, words in (
        ([GOAL, "x_m", GOAL], "do not all say the same"),
        ([GOAL, None, GOAL], "do not all say the same"),
        (["dense"] * 3, 'channel "dense" is unknown'),
        (["-" * 900 + "x_m"] * 3, "nested too deeply"),
        (["x_m*1" + "0" * 400] * 3, "is larger than 1e+38"),
        (["x_m"] * 3, r"60 of 60 rewards are not what the logs say that a step pays, x_m"),
        (["(x_m - 1e6)**0.5"] * 3, "60 of 60 rewards"),
    ):
        with pytest.raises(UserError, match=re.escape(words) if "+" in words else words):
            of(str(texts)[:20], texts)


def test_what_is_shown_of_it_is_plain(tmp_path):
    found = KnownReward.of(logged(tmp_path, ["x_m # \x1b[2J"] * 3, "x_m"), [0, 1])
    assert found is not None and found.text == "x_m"


def test_heads_learn_only_the_rest(tmp_path):
    """Of a reward whose expression is all there is but for what the last step costs."""
    trainer = Trainer(logged(tmp_path, [GOAL] * 6, ends=-5.0), TINY, QUICK)
    batch = trainer.replay.whole(range(5), 31)
    assert batch.is_terminal.sum() == 3
    assert batch.rest[batch.is_terminal].tolist() == pytest.approx([-5.0] * 3, abs=1e-3)
    assert batch.rest[~batch.is_terminal].abs().max() < 1e-4
    segment = trainer.replay.gather(np.array([[3, 4, 5]]))  # its first row was led to, if nothing is shown of that
    assert segment.reward[0, 0] != 0 and segment.rest.abs().max() < 1e-4


def test_a_command_at_a_threshold_is_the_command_that_was_logged(tmp_path):
    """Scaled to its bounds and back, nothing stays nothing in few cases."""
    text, bounds = "-(abs(push_N) > 0)", (-0.97, 1.13)
    reader = logged(tmp_path, [text] * 4, text, idle=True, bounds=bounds)
    batch = Trainer(reader, TINY, QUICK).replay.whole(range(3), 31)
    assert set(batch.reward.unique().tolist()) == {-1.0, 0.0}
    assert not batch.rest.any()


def test_what_a_first_row_would_pay_is_never_asked(tmp_path):
    text = "1 / x_m"
    reader = logged(tmp_path, [text] * 4, text, begins_at=0.0)
    trainer = Trainer(reader, TINY, QUICK)
    assert trainer.model.known_reward is not None
    assert np.isfinite(trainer.update()["loss"]) and not trainer.skipped


def test_it_is_known_before_anything_is_learnt_and_after(tmp_path):
    trainer = Trainer(logged(tmp_path / "logs", [GOAL] * 6), TINY, QUICK)
    for _ in range(2):
        said, batch = pays(trainer)
        off = (said - batch.reward)[:, 1:].abs()
        assert off.median() < 1e-3  # two-hot heads begin at nothing, and jump on single rows until they are learnt
        train(trainer, lambda: trainer.steps / 60)  # heads that learnt the whole reward would now count it twice
    trainer.save(tmp_path / "run")
    assert load_model(tmp_path / "run")[0].known_reward == trainer.model.known_reward


def pays(trainer: Trainer) -> tuple[torch.Tensor, Batch]:
    """What the model makes of logged rows, and these."""
    batch, model = trainer.replay.whole([0, 1], 20), trainer.model.eval()
    with torch.no_grad():
        inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
        belief = model.filter(batch.vector, None, inputs, batch.is_first)[0]
        return model.predict_reward(belief, batch.action), batch


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
    for trainer in (again, on_top):
        batch = trainer.replay.whole([0], 20)
        assert trainer.model.known_reward is None and torch.equal(batch.rest, batch.reward)


def test_a_model_that_begins_as_another_pays_what_its_own_logs_say(tmp_path):
    """Each log's rewards less what that log says; the rest is the same in both."""
    before, now = "(x_m < 0.5) - v_m_s", "3*(x_m < -0.5)"
    first = Trainer(logged(tmp_path / "before", [before] * 6, before), TINY, QUICK)
    train(first, lambda: first.steps / 3)
    first.save(tmp_path / "run")
    trainer = Trainer(logged(tmp_path / "now", [now] * 6, now), TINY, QUICK)
    trainer.start_from(tmp_path / "run", [str(tmp_path / "before")])
    assert trainer.model.known_reward is not None and trainer.model.known_reward.text == "3 * (x_m < -0.5)"
    for replay in (trainer.replay, trainer.earlier[0].replay, trainer.held_out):
        batch = replay.whole([0], 20)
        assert batch.reward.any() and batch.rest.abs().max() < 1e-5
    silent = Trainer(logged(tmp_path / "silent", [None] * 6, before), TINY, QUICK)
    silent.start_from(tmp_path / "run", [])
    assert silent.model.known_reward == first.model.known_reward  # says nothing else
    assert silent.replay.whole([0], 20).rest.abs().max() < 1e-5


def test_it_can_be_learnt_all_the_same(tmp_path):
    trainer = Trainer(logged(tmp_path, [GOAL] * 6), TINY, dataclasses.replace(QUICK, known_reward=False))
    batch = trainer.replay.whole([0], 20)
    assert trainer.model.known_reward is None and torch.equal(batch.rest, batch.reward)


def test_what_is_wrong_with_it_is_said_and_it_is_learnt(tmp_path):
    trainer = Trainer(logged(tmp_path, ["x_m"] * 6), TINY, QUICK)
    assert trainer.model.known_reward is None
    assert any("rewards are not what the logs say" in text for text in trainer.trouble)
