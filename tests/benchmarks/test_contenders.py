"""The protocol between `benchmarks/training.py` and its contenders, with a contender that computes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAKE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from protocol import QUESTIONS, serve

LOSS, MOVES = float(sys.argv.pop(1)), int(sys.argv.pop(1))

class Fake:
    moved = 0
    def step(self):
        print("libraries talk")
        self.moved += MOVES
        return LOSS
    def weights(self):
        return {"world model": (3, float(self.moved))}

for question in QUESTIONS[1:]:
    setattr(Fake, question, lambda self: 1.0)
serve(lambda options: Fake())
"""


def answers(loss: str = "1", moves: str = "1", questions: str = "") -> tuple[list[dict], str]:
    command = [sys.executable, "-c", FAKE, str(BENCHMARKS / "contenders"), loss, moves]
    done = subprocess.run(command, input=questions, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_answers_hold_nothing_but_answers():
    (first, step, policy), said = answers(questions="step\npolicy\n")
    assert first["parameters"] == {"world model": 3}
    assert {"value", "wall_s", "cpu_s", "peak_bytes"} == set(step) == set(policy)
    assert "libraries talk" in said


@pytest.mark.parametrize(("loss", "moves", "complaint"), [("nan", "1", "step gave nan"), ("1", "0", "did not move")])
def test_work_that_was_not_done_is_refused(loss: str, moves: str, complaint: str):
    found, said = answers(loss, moves)
    assert not found and complaint in said


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from training import markdown

    def report(seconds: list[float]) -> dict:
        given = {question: [[s, s] for s in seconds] for question in ("step", "world_model", "imagine", "policy")}
        return {"parameters": {"all": 7}, "peak_bytes": 1e9, "first_step_s": [1.0, 1.0], "answers": given}

    # The machine slows down eightfold on the way: one contender always takes twice the other's time.
    table = markdown({"ours": report([1.0, 4.0, 8.0]), "peer": report([2.0, 8.0, 16.0])}, clock=0)
    assert "8000 (2000) x2.00" in table.splitlines()[-1]
