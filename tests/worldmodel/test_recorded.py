"""Work that a GPU records: what it may do, what it gets and gives; tests/elsewhere.py stands in for the GPU."""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from elsewhere import needs_gpu, second_device
from torch import Tensor, nn

from worldmodel import recorded
from worldmodel.optim import Gradients, LaProp, SafeStep
from worldmodel.recorded import Recorded, mapped, tensors


class Pair(NamedTuple):
    first: Tensor
    second: dict[str, Tensor]


@dataclass
class Row:
    given: Tensor
    number: np.ndarray
    missing: Tensor | None = None
    name: str = "a"


def tree() -> tuple[Any, ...]:
    one, two, three = (torch.full((n,), float(n)) for n in (1, 2, 3))
    return Pair(one, {"x": two}), [Row(three, np.arange(2))], "word"


def test_a_tree_is_taken_apart_and_put_together():
    assert [len(x) for x in tensors(tree())] == [1, 2, 3]
    pair, (row,), word = mapped(tree(), lambda x: 2 * x)
    assert isinstance(pair, Pair)
    assert isinstance(row, Row)
    assert (pair.first.tolist(), pair.second["x"].tolist(), row.given.tolist()) == ([2], [4, 4], [6, 6, 6])
    assert (row.number, row.missing, row.name, word) == (None, None, "a", "word")


def test_on_a_cpu_the_work_is_done_as_it_is():
    given: list[Any] = []
    work = Recorded(lambda *inputs: given.append(inputs) or inputs[1][0].number.sum())
    inputs = tree()
    assert work(*inputs) == 1
    assert all(a is b for a, b in zip(given[0], inputs, strict=True))


@pytest.fixture
def there():
    with second_device() as device:
        yield device


def test_a_recording_gets_tensors_of_its_own_and_gives_the_same_ones_each_time(there):
    seen: list[Tensor] = []

    def work(row: Row, factor: float) -> Pair:
        assert row.number is None  # it would be remembered as it was
        seen.append(row.given)
        return Pair(factor * row.given, {"squared": row.given**2})

    done = Recorded(work)
    first = done(Row(torch.ones(2, device=there), np.zeros(2)), 3.0)
    assert first.first.cpu().tolist() == [3, 3]
    second = done(Row(torch.full((2,), 5.0, device=there), np.zeros(2)), 3.0)
    assert second is first
    assert seen[0] is seen[1]
    assert (first.first.cpu().tolist(), first.second["squared"].cpu().tolist()) == ([15, 15], [25, 25])


def test_other_shapes_and_other_settings_are_recorded_apart(there):
    done = Recorded(lambda x, factor: factor * x)
    row, more = torch.ones(2, device=there), torch.ones(3, device=there)
    kept = [done(row, 2.0), done(more, 2.0), done(row, 4.0)]
    assert [x.cpu().tolist() for x in kept] == [[2, 2], [2, 2, 2], [4, 4]]
    assert done(5 * row, 2.0) is kept[0]


def test_dicts_of_other_names_are_recorded_apart(there):
    done, one = Recorded(lambda x: x["a"] if "a" in x else -x["b"]), torch.ones(1, device=there)
    assert [float(done({name: one})) for name in "ab"] == [1, -1]


def test_work_that_cannot_be_recorded_is_done_as_it_is_and_told_of(there, monkeypatch):
    class Never:
        def __init__(self, work: Any, inputs: tuple) -> None:
            raise recorded.UnrecordableError("no room")

    monkeypatch.setitem(recorded.RECORDERS, there.type, Never)
    monkeypatch.setattr(recorded, "TROUBLE", [])
    done, one = Recorded(lambda x: 2 * x), torch.ones(1, device=there)
    assert [float(done(n * one)) for n in (1.0, 2.0)] == [2, 4]
    assert ["no room" in text for text in recorded.TROUBLE] == [True]
    assert there.type not in recorded.RECORDERS


def test_the_first_calls_are_not_recorded(there, monkeypatch):
    monkeypatch.setattr(recorded, "UNRECORDED", 2)
    done, one = Recorded(lambda x: 2 * x), torch.ones(1, device=there)
    found = [done(one) for _ in range(4)]
    assert len({id(x) for x in found}) == 3


@pytest.mark.parametrize(
    "work",
    [
        lambda x: 2 * x if x.sum() > 0 else x,
        lambda x: x * float(x[0]),
        lambda x: x + torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.clone().index_put_((x > 0,), torch.zeros((), device=x.device)),
    ],
)
def test_what_could_not_be_recorded_is_refused_here(there, work):
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        Recorded(work)(torch.ones(2, device=there))


def two_layers(device: torch.device | str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(device)


def learnt(device: torch.device | str, rounds: int = 6) -> list[list[float]]:
    """Weights and losses after steps on two losses in turn, of which one leaves half of the weights out."""
    net = two_layers(device)
    step = SafeStep(LaProp(net.parameters(), 1e-2, warmup=0))
    whole = Gradients(lambda x: ((net(x) ** 2).mean(), None), net.parameters())
    half = Gradients(lambda x: ((net[0](x) - 1).square().mean(), {"x": x.mean()}), net.parameters())
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        for gradients in (whole, half):
            loss, _, finite = gradients(torch.tensor(rng.normal(size=(4, 3)), dtype=torch.float32).to(device))
            found.append([float(loss)])
            assert step.take(finite)
    return [*found, *(p.detach().cpu().flatten().tolist() for p in net.parameters())]


def test_gradients_recorded_are_those_unrecorded(there):
    assert learnt(there) == learnt("cpu")


@pytest.mark.parametrize("where", ["cpu", "there"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_told_and_not_learnt_from(there, where, bad):
    net = two_layers(there if where == "there" else "cpu")
    step = SafeStep(LaProp(net.parameters(), 1e-2, warmup=0))
    gradients = Gradients(lambda x: (net(x).sum(), None), net.parameters())
    before = copy.deepcopy(net.state_dict())
    x = torch.ones(2, 3, device=before["0.weight"].device)
    assert not step.take(gradients(x * bad).finite)
    assert step.skipped == 1
    assert all(bool((before[name] == value).all()) for name, value in net.state_dict().items())
    assert step.take(gradients(x).finite)


@needs_gpu
def test_a_gpu_learns_recorded_as_unrecorded(monkeypatch):
    found = learnt("cuda")
    monkeypatch.setattr(recorded, "UNRECORDED", 10**9)
    for own, other in zip(found, learnt("cuda"), strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-6)


@needs_gpu
def test_a_recording_draws_anew_each_time():
    done, one = Recorded(lambda x: x * torch.rand(3, device=x.device)), torch.ones(3, device="cuda")
    assert len({tuple(done(one).tolist()) for _ in range(6)}) == 6


@needs_gpu
def test_what_a_gpu_cannot_record_is_done_as_it_is(monkeypatch):
    monkeypatch.setitem(recorded.RECORDERS, "cuda", recorded.CudaGraph)  # and back afterwards
    monkeypatch.setattr(recorded, "TROUBLE", [])
    done, one = Recorded(lambda x: x * float(x[0])), torch.ones(2, device="cuda")
    found = [done((i + 1) * one).tolist() for i in range(recorded.UNRECORDED)]
    found += [done(3 * one).tolist(), done(4 * one).tolist()]
    assert len(recorded.TROUBLE) == 1
    assert found == [[i * i] * 2 for i in (1, 2, 3, 4)]
    assert float(torch.rand(1, device="cuda")) >= 0  # the random numbers go on
