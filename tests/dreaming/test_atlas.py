"""The atlas: fed the truth it fails what truly failed, and its correlation is the one worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreaming import atlas as atlas_module
from dreaming.atlas import Atlas, AtlasCell, dreamable, dreamt_failures
from envs import registry
from envs.record import ExpertPolicy
from worldmodel.context import ContextSpec

TASK = "push-box"


def episodes(friction: float, count: int) -> list[tuple[np.ndarray, bool, bool]]:
    """Observations, padded with the last as a dream that ended would go on, lost, success."""
    env = registry.make(TASK)
    policy = ExpertPolicy(TASK)
    played = []
    for seed in range(count):
        vector, _ = env.reset(seed=seed, options={"physics": {"floor_friction": friction}})
        policy.reset(1)
        rows, over, info = [vector], False, {}
        while not over:
            first = np.array([len(rows) == 1])
            vector, _, terminated, truncated, info = env.step(policy.act({"vector": rows[-1][None]}, first)[0])
            rows.append(vector)
            over = terminated or truncated
        rows += [rows[-1]] * (env.max_steps + 1 - len(rows))
        played.append((np.stack(rows), info["failure"], info["success"]))
    env.close()
    return played


@pytest.fixture(scope="module")
def slippery():
    return episodes(0.3, 6) + episodes(0.02, 6)


def test_dreams_that_are_the_truth_fail_where_the_truth_does(slippery, monkeypatch):
    asked = []

    def imagine(model, actor, starts, physics, horizon, explore=False, noisy=False):
        assert not explore, "as the robot acts"
        asked.append((len(starts), horizon))
        mine = [slippery[i] for i in starts]
        continuation = torch.ones(len(mine), horizon)
        continuation[[lost for _, lost, _ in mine], -1] = 0.1
        return SimpleNamespace(
            observation=torch.as_tensor(np.stack([rows for rows, _, _ in mine])), continuation=continuation
        )

    monkeypatch.setattr(atlas_module, "imagine", imagine)
    monkeypatch.setattr(atlas_module, "starts_from", lambda observe, rows, view: rows)
    monkeypatch.setattr(atlas_module, "dream_physics", lambda *arguments: None)
    monkeypatch.setattr(atlas_module, "MOST_STATES", 5 * 80)
    replay = SimpleNamespace(episodes=np.arange(12), offset=np.arange(12), gather=lambda rows: rows[:, 0].tolist())
    actor = SimpleNamespace(view="blind")
    found = dreamt_failures(SimpleNamespace(observe=None), actor, replay, TASK, registry.nominal(TASK), 12, seed=3)
    began_at = np.random.default_rng(3).choice(12, 12)
    assert found.tolist() == [not slippery[i][2] for i in began_at]
    assert 0 < sum(found) < 12, "both outcomes should be among them"
    assert any(slippery[i][1] for i in began_at), "a lost box should be among them"
    assert asked == [(5, 80), (5, 80), (2, 80)]


def made_up(dreamt: list[int], true: list[int], of: int = 20) -> Atlas:
    cells = [AtlasCell("s", str(i), {}, False, of, d, of, t) for i, (d, t) in enumerate(zip(dreamt, true, strict=True))]
    return Atlas(TASK, "clone", cells)


def test_the_rank_correlation_is_over_worlds():
    assert made_up([0, 2, 10, 20], [1, 0, 9, 15]).rank_correlation() == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert made_up([0, 0, 0], [1, 5, 9]).rank_correlation() is None


def test_scatter_says_how_much_so_few_episodes_can_tell():
    interval, itself = made_up([0, 5, 10, 15, 20], [0, 5, 10, 15, 20]).scatter(draws=300)
    assert interval is not None and itself is not None
    assert 0.7 < interval[0] <= interval[1] <= 1.0 and 0.9 < itself <= 1.0
    many = made_up([0, 500, 1000, 1500, 2000], [0, 500, 1000, 1500, 2000], of=2000).scatter(draws=300)
    assert many == ((1.0, 1.0), 1.0)
    # Worlds that all fail alike have an order by chance only.
    _, itself = made_up([10] * 12, [10] * 12).scatter(draws=300)
    assert itself is not None and abs(itself) < 0.15
    assert made_up([20] * 3, [20] * 3).scatter(draws=10) == (None, None)


def test_worlds_that_the_model_cannot_be_told_are_named():
    nominal = registry.nominal(TASK)
    model = SimpleNamespace(context=ContextSpec(("floor_friction",), (0.5,), (0.3,)))
    cells = [
        ("a", "ice", nominal.replace(floor_friction=0.1)),
        ("a", "late", nominal.replace(latency_steps=2)),
        ("b", "heavy ice", nominal.replace(floor_friction=0.1, payload_kg=1.0)),
    ]
    kept, left_out = dreamable(cells, model, nominal)
    assert [label for _, label, _ in kept] == ["ice", "late"]
    assert left_out == {"b heavy ice": "the logs never vary payload_kg"}
