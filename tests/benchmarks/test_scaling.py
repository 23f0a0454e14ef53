"""`benchmarks/scaling.py`: one point measured, and the table and figure of points whose numbers are given."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from scaling import Measured, Point, Scaling, draw, markdown, run  # noqa: E402


def given(cpu_ms: float) -> Measured:
    return Measured(1000, (cpu_ms + 1, cpu_ms), (9, 8), (cpu_ms / 2 + 1, cpu_ms / 2), 0, 3 * 10**9, 10**9)


def test_the_table_says_how_far_above_the_line_each_point_lies(tmp_path):
    axis = [(16.0, "16", {1: given(30)}), (32.0, "32", {1: given(40)}), (64.0, "64", {1: given(80)})]
    rows = markdown("length", axis, (1,)).splitlines()[2:]
    assert rows[0] == "| 16 | 31 (30) | 1.50 | 16 (15) | 0 | 3.00 GB |"
    assert [row.split(" | ")[2] for row in rows] == ["1.50", "1.00", "1.00"]
    draw(tmp_path / "scaling.png", {"length": axis, "segments": axis}, 1)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_point_is_measured_in_a_process_of_its_own():
    measured = run(Point("debug", 2, 4, 1), Scaling(updates=3, seconds=0.1))
    assert measured is not None and measured.parameters == 92_879 + 264_600  # of the ensemble
    assert 0 < measured.bare_cpu_ms[1] <= measured.bare_cpu_ms[0] and 0 < measured.cpu_ms[1] <= measured.cpu_ms[0]
    assert 50e6 < measured.start_bytes <= measured.peak_bytes
