from types import SimpleNamespace

import numpy as np
import pytest
import torch
from report_fixture import make_report

from dreaming import outlook
from dreaming.report.accuracy import refused_section


@pytest.fixture
def rollout(monkeypatch):
    """Two worlds of three dreams each, trusted for 8, 8, 8 and 8, 2, 2 steps."""
    horizon = torch.tensor([8, 8, 8, 8, 2, 2])
    monkeypatch.setattr(outlook, "judge", lambda *_: SimpleNamespace(horizon=horizon))
    world = SimpleNamespace(at=lambda *_: None)
    return SimpleNamespace(world=world, inputs=None)


@pytest.mark.parametrize("least, trusted", [(3.9, [True, True]), (4.1, [True, False]), (8.1, [False, False])])
def test_a_world_is_trusted_by_the_mean_of_its_dreams(rollout, least, trusted):
    trust = outlook.trusted_for(None, None, least)  # pyright: ignore[reportArgumentType]
    assert trust(np.zeros((2, 1)), rollout).tolist() == trusted


def test_the_page_says_what_the_logs_cannot_teach():
    report = make_report()
    report.refused, report.not_learnable = [], ["record some with floor_friction below 0.1 & more"]
    html = refused_section(report)
    assert "What these logs cannot teach" in html and "below 0.1 &amp; more" in html and "was learned from" not in html
    report.not_learnable = []
    assert refused_section(report) == ""


def test_a_model_that_states_no_trust_says_nothing():
    trainer = SimpleNamespace(model=SimpleNamespace(calibration=None))
    night = SimpleNamespace(trainer=trainer, config=SimpleNamespace(task=""))
    assert outlook.outlook(night) == []  # pyright: ignore[reportArgumentType]
