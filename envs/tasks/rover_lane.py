"""What rover's driver knows, and no simulator: the car's measures, and the lane.

The lane is a winding line on the floor, measured by the arc length along it.
"""

from __future__ import annotations

import math

import numpy as np

CONTROL_HZ = 20.0
TOP_SPEED_M_S = 4.0  # at a command of 1
MOST_STEERING_RAD = 0.4  # at a command of 1, to the left
WHEELBASE_M = 0.325
LOOKAHEAD_M = tuple(0.5 * k for k in range(11))  # where the robot sees the lane's curvature, from where it is
# A long wave and a short one, ranges to draw from: the peak of each one's curvature, and its length along the lane.
PEAKS_1_M = ((0.4, 0.6), (0.15, 0.3))
LENGTHS_M = ((6.0, 10.0), (3.5, 5.5))
# The way that the lane winds about, between +x and +y. Bullet reckons friction along these two; it bounds its size
# rightly wherever a wheel slides to, but its direction is right where both make the same angle with the wheel. Along
# one of them, a wheel that slides and spins at once would be held by hardly anything but sideways force.
AHEAD_RAD = math.pi / 4
REACH_M = 40.0  # it is known this far from its start, either way
STEP_M = 0.025


class Lane:
    """It starts at the origin. Heading is a sum of sines of the arc length, so that heading and curvature are exact;
    places are tabled.

    Args:
        peaks_1_m, lengths_m, phases_rad: (n,) of the sines; of none, the lane is straight. Peaks are of curvature.
    """

    def __init__(self, peaks_1_m: np.ndarray, lengths_m: np.ndarray, phases_rad: np.ndarray) -> None:
        self._peaks, self._phases = np.asarray(peaks_1_m, float), np.asarray(phases_rad, float)
        self._waves = 2 * math.pi / np.asarray(lengths_m, float)  # rad/m
        self._s = np.arange(-REACH_M, REACH_M + STEP_M, STEP_M)
        headings = self.heading(self._s[:-1] + STEP_M / 2)
        ways = [np.concatenate([[0.0], np.cumsum(STEP_M * f(headings))]) for f in (np.cos, np.sin)]
        self._x, self._y = (way - np.interp(0.0, self._s, way) for way in ways)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Lane:
        peaks, lengths = (np.array([rng.uniform(*bounds) for bounds in ranges]) for ranges in (PEAKS_1_M, LENGTHS_M))
        return cls(peaks, lengths, rng.uniform(-math.pi, math.pi, len(peaks)))

    def heading(self, s: float | np.ndarray) -> np.ndarray:
        """rad from +x towards +y."""
        angles = np.multiply.outer(s, self._waves) + self._phases
        return AHEAD_RAD + np.sin(angles) @ (self._peaks / self._waves)

    def curvature(self, s: float | np.ndarray) -> np.ndarray:
        """1/m, positive where the lane bends to the left."""
        return np.cos(np.multiply.outer(s, self._waves) + self._phases) @ self._peaks

    def place(self, s: float) -> tuple[float, float]:
        """x and y in metres."""
        return float(np.interp(s, self._s, self._x)), float(np.interp(s, self._s, self._y))

    def nearest(self, x: float, y: float, s: float) -> tuple[float, float]:
        """The arc length of the lane's point nearest to (x, y), sought from near `s`, and how far left of it (x, y) is.

        Newton's method; a robot moves too little in one step to need more than two of it.
        """
        left = 0.0
        for last in (False, False, True):
            lane_x, lane_y = self.place(s)
            heading = float(self.heading(s))
            cos, sin = math.cos(heading), math.sin(heading)
            ahead = (x - lane_x) * cos + (y - lane_y) * sin
            left = (y - lane_y) * cos - (x - lane_x) * sin
            if not last:
                # Beyond the centre of a bend there is no nearest point; the bound keeps the step finite there.
                s += ahead / max(1.0 - float(self.curvature(s)) * left, 0.2)
        return s, left
