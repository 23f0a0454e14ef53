"""Choosing a device, and world models on another one than the CPU (tests/elsewhere.py says how without a GPU)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from elsewhere import alike, needs_gpu
from toy_logs import sliding_mass, with_images, write_log

from configs import UserError
from worldmodel.device import CPU, choose_device, random_kept, random_state, seeded, set_random_state
from worldmodel.model import ModelConfig
from worldmodel.rssm import RSSMConfig
from worldmodel.storage import LogReader
from worldmodel.trainer import Trainer, TrainerConfig

TINY = ModelConfig(RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, blocks=4), units=8, depth=2, layers=1)
QUICK = TrainerConfig(
    batch=3, length=5, warmup=2, transition_steps=2, transition_batch=8, transition_ahead=2, compute="float32"
)


@pytest.fixture
def logs(tmp_path) -> LogReader:
    return write_log(tmp_path / "logs", sliding_mass(6, steps=10))


@pytest.fixture
def filmed(tmp_path) -> LogReader:
    return write_log(tmp_path / "filmed", [with_images(e) for e in sliding_mass(3, steps=10)])


def trainer_on(device: torch.device, logs: LogReader, seed: int = 3, config: TrainerConfig = QUICK) -> Trainer:
    return Trainer(logs, TINY, config, seed, device)


def updates(trainer: Trainer, *progress: float) -> list[float]:
    return [value for share in progress for value in trainer.update(share).values()]


def numbers(trainer: Trainer) -> list[Any]:
    """What training gives there: losses of several updates, the open loop on held-out logs, losses again."""
    losses = updates(trainer, 0.0, 0.3)
    seen = trainer.evaluate(5, starts=8)
    return [*losses, *vars(seen).values(), *updates(trainer, 0.8)]


# -- choosing --------------------------------------------------------------------------------------------------------


def with_gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_gpu_is_taken_where_there_is_one(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with_gpus(monkeypatch, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1) and choose_device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda", 0, "cuda is not available here.*: give cpu or auto"),
        ("cuda:2", 2, "cuda:2 is not available here.*: give cpu or auto"),
        ("gpu", 2, "there is no device 'gpu': give auto, cpu, cuda, or cuda:1"),
        ("cuda:", 2, "there is no device 'cuda:'"),
        ("cuda:-1", 2, "there is no device 'cuda:-1'"),
    ],
)
def test_what_is_not_there_is_refused(monkeypatch, name, gpus, said):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UserError, match=said):
        choose_device(name)


def test_on_the_cpu_nothing_is_moved(logs):
    batch = trainer_on(CPU, logs).replay.whole([0], 4)
    assert batch.to("cpu") is batch


# -- random numbers --------------------------------------------------------------------------------------------------


def test_a_seeded_stream_is_that_of_the_seed_and_leaves_the_others_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(8)
    before = torch.get_rng_state()
    with random_kept(CPU):
        set_random_state(seeded(5, CPU), CPU)
        assert torch.equal(torch.rand(3), wanted)
    assert torch.equal(torch.get_rng_state(), before)


@needs_gpu
def test_a_gpus_stream_is_kept_too():
    gpu = torch.device("cuda", 0)
    state = random_state(gpu)
    drawn = torch.rand(3, device=gpu)
    with random_kept(gpu):
        set_random_state(seeded(5, gpu), gpu)
        five = torch.rand(3, device=gpu)
    later = torch.rand(3, device=gpu)
    set_random_state(state, gpu)
    assert torch.equal(torch.rand(3, device=gpu), drawn) and torch.equal(torch.rand(3, device=gpu), later)
    set_random_state(seeded(5, gpu), gpu)
    assert torch.equal(torch.rand(3, device=gpu), five)


# -- elsewhere -------------------------------------------------------------------------------------------------------


def test_elsewhere_refuses_what_lies_here(elsewhere):
    x = torch.arange(6.0).view(2, 3).to(elsewhere)
    with pytest.raises(RuntimeError, match="same device"):
        x.add(torch.ones(2, 3))
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()
    assert (x * 2 + torch.ones(2, 3, device=elsewhere)).cpu().tolist() == [[1, 3, 5], [7, 9, 11]]


@pytest.mark.parametrize("given", ["logs", "filmed"])
def test_training_gives_the_numbers_of_the_cpu(elsewhere, request, given):
    logs = request.getfixturevalue(given)
    here = numbers(trainer_on(CPU, logs))
    trainer = trainer_on(elsewhere, logs)
    assert alike(numbers(trainer), here, elsewhere)
    assert {value.device for value in trainer.model.state_dict().values()} == {elsewhere}


@pytest.mark.parametrize(("compute", "asked"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_rssm_alone_may_round(elsewhere, logs, compute, asked):
    for device in (CPU, elsewhere):
        model = trainer_on(device, logs, config=replace(QUICK, compute=compute)).model
        assert model.rssm.compute == model.rssm.in_deter.linear.compute == asked
        assert model.decoder.out.compute == torch.float32
        assert model.transition is not None and model.transition.head.out.compute == torch.float32


def test_training_rounds_there_as_here(elsewhere, logs):
    if elsewhere.type == "cuda":
        pytest.skip("a GPU rounds sums otherwise, which in bfloat16 is enough to draw other latents")
    here, there = (numbers(trainer_on(d, logs, config=replace(QUICK, compute="bfloat16"))) for d in (CPU, elsewhere))
    assert alike(there, here, elsewhere)


def test_a_run_moves_between_devices(elsewhere, logs, tmp_path):
    there = trainer_on(elsewhere, logs)
    updates(there, 0.0, 0.1)
    file = there.save(tmp_path / "run")
    after = updates(there, 0.2)
    assert _devices(torch.load(file, weights_only=True)) == {CPU}
    here, back = trainer_on(CPU, logs, seed=77), trainer_on(elsewhere, logs, seed=78)
    for trainer in (here, back):
        trainer.restore(tmp_path / "run")
        assert alike(updates(trainer, 0.2), after, elsewhere)
    here.save(tmp_path / "again")
    after = updates(here, 0.4)
    back.restore(tmp_path / "again")
    assert alike(updates(back, 0.4), after, elsewhere)


def test_trust_is_calibrated_there_as_here(elsewhere, logs):
    bounds = []
    for device in (elsewhere, CPU):
        trainer = trainer_on(device, logs)
        updates(trainer, 0.0, 0.5)
        bounds.append(trainer.calibrate(coverage=0.5))
    there, here = ([made.scale, made.level, *made.shape] for made in bounds)
    assert alike(there, here, elsewhere)


def test_bad_losses_go_back_to_the_good_state_there(elsewhere, logs):
    trainer = trainer_on(elsewhere, logs)
    trainer.steps = 199
    updates(trainer, 0.1)
    good = {name: value.cpu().clone() for name, value in trainer.model.state_dict().items()}
    updates(trainer, 0.1)
    with torch.no_grad():
        trainer.model.decoder.out.bias.fill_(float("nan"))
    updates(trainer, *[0.1] * 5)
    assert trainer.trouble and all(torch.equal(v.cpu(), good[k]) for k, v in trainer.model.state_dict().items())


def _devices(state: Any) -> set[torch.device]:
    if isinstance(state, dict | list):
        parts = state.values() if isinstance(state, dict) else state
        return {device for part in parts for device in _devices(part)}
    return {state.device} if isinstance(state, torch.Tensor) else set()
