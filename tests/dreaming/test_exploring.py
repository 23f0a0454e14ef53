"""The dream phase of a night that is to find its own what-ifs, on top of a small night."""

import shutil
from dataclasses import replace

import pytest
from small_nights import Ears

from dreaming import exploring
from dreaming.audit_report import ErrorCurve, ScenarioAudit
from dreaming.clock import Budget, Share
from dreaming.dreamphase import DreamPhase
from dreaming.exploration import found_scenarios
from dreaming.findings import findings
from dreaming.night import Night
from dreaming.run import LATEST, RunFolder
from dreaming.territory import UNKNOWN
from worldmodel import checkpoint


@pytest.fixture
def run(small_night, tmp_path, monkeypatch) -> RunFolder:
    """A finished night's folder, which is asked to search from now on; quick to do so."""
    monkeypatch.setattr(exploring, "STARTS", 1)
    monkeypatch.setattr(exploring, "AHEAD", 8)
    monkeypatch.setattr(exploring, "DREAMS", 4)
    monkeypatch.setattr(exploring, "HORIZON", 8)
    monkeypatch.setattr(exploring, "SURVEY_SHARE", 0.5)
    monkeypatch.setattr("dreaming.exploration.ON_BORDER", 1)
    monkeypatch.setattr("dreaming.exploration.PIECES", ("all", "worst"))
    monkeypatch.setattr("dreaming.dreamphase.ENVS", 4)
    found = RunFolder(shutil.copytree(small_night.path, tmp_path / "run"))
    found.create(replace(found.config(), scenario="search", select=False))
    return found


def night_of(run: RunFolder, seconds: float) -> Night:
    return Night(run.config(), run, Budget(seconds, [Share("dream", 1.0)]), Ears())


def test_a_night_finds_what_ifs_audits_them_and_goes_on_from_there(run):
    before = run.progress()
    night = night_of(run, 1.0)
    night.phase("dream", lambda night, given: DreamPhase(night, given).run())
    state = run.progress().exploration
    standing = [one for row in state["territory"]["standing"].values() for one in row]
    assert set(standing) - {UNKNOWN}  # cells were audited
    assert run.progress().simulator_steps["audit"] > before.simulator_steps["audit"]
    assert state["seconds"]["surveying"] > 0 and state["seconds"]["thinking"] > 0
    assert night.dreamer.scenarios == found_scenarios(state, "push-box") == night.found()
    saved, _, _ = checkpoint.load(run.checkpoints, LATEST)
    assert {**saved["exploration"], "seconds": None} == {**state, "seconds": None}
    found, _ = findings(night)
    assert [factor.name for factor in found.factors][0] == "box_mass_kg" and found.growth

    again = night_of(run, 1.0)  # killed, say, and called again
    phase = DreamPhase(again, again.budget.phase("dream"))
    with again.workers(2) as workers:
        phase._explore(workers)
    assert phase.exploring is not None
    now = phase.exploring.state_dict()
    assert {**now, "seconds": None} == {**state, "seconds": None}
    assert now["seconds"]["elapsed"] >= state["seconds"]["elapsed"]


@pytest.mark.parametrize(
    "error, seen, believed, text",
    [
        ([0.2, 0.6], [4, 2], True, "over 2 steps dreams err by 40% of what standing still does, 4 dreams"),
        ([0.2, 0.9], [4, 2], False, "over 2 steps dreams err by 55% of what standing still does, 4 dreams"),
        # Of the second step too few dreams tell; a dream that is not finite counts for nothing.
        ([0.2, 0.9], [4, 1], True, "over 1 step dreams err by 20% of what standing still does, 4 dreams"),
        ([0.2, None], [4, 4], True, "over 1 step dreams err by 20% of what standing still does, 4 dreams"),
    ],
)
def test_a_cell_is_borne_out_by_dreams_that_err_at_most_half_as_much_as_standing_still(error, seen, believed, text):
    found = replace(
        ScenarioAudit.of_nothing("ice"), dreams=4, trusted=True, compared=seen,
        error=ErrorCurve(error, error), persistence=ErrorCurve([1.0, 1.0], [1.0, 1.0]),
    )  # fmt: skip
    assert exploring.borne_out(found) == (believed, text)
    refused = replace(found, trusted=False, reason="no better than standing still")
    assert exploring.borne_out(refused) == (False, "no better than standing still")


def test_logs_that_vary_nothing_are_dreamt_as_they_are(run, monkeypatch):
    monkeypatch.setattr(exploring, "log_ranges", lambda reader, task: {})
    night = night_of(run, 1.0)
    assert exploring.exploring(night, night.budget.phase("dream")) is None
    assert night.state.warnings[-1].startswith("nothing is searched: the logs vary no factor")
