"""Films of a dream beside the truth, from the same start, with the same commands under the same physics."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreaming.audit import Dream
from dreaming.report.data import Video
from dreaming.report.summary import words
from dreaming.report.video import side_by_side
from dreaming.truth import Truth
from envs import registry
from envs.physics import Physics

WIDTH, HEIGHT = 240, 180
MOST_FRAMES = 45  # a side; one takes 30 to 50 ms to draw
FIRST = "slippery"  # what a newcomer looks for


def in_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: name != FIRST)


def film(run: Path, task: str, dream: Dream, truth: Truth, control_hz: float) -> Video:
    """Draws both sides with the simulator's own shapes and writes RUN/report/dream-SCENARIO.mp4."""
    physics = Physics.from_dict(dream.physics, registry.nominal(task)).replace(sensor_noise=0.0)
    ends = np.flatnonzero(dream.continuation < 0.5)
    dreamt = dream.observation[: int(ends[0]) + 2] if len(ends) else dream.observation
    stride = math.ceil(max(len(dreamt), len(truth.lived)) / MOST_FRAMES)
    env = registry.make(task, physics=physics)
    try:
        sides = []
        for vectors in (dreamt, truth.lived):
            posed = list(zip(vectors, env.travelled(vectors), strict=True))[::stride]
            sides.append([env.render_vector(v, WIDTH, HEIGHT, x_m=float(x)) for v, x in posed])
    finally:
        env.close()
    name = f"report/dream-{dream.scenario}.mp4"
    factors = changed(dream.physics, task)
    title = f"{dream.scenario}: {factors}" if factors else dream.scenario
    end = "lost" if task == "push-box" else words(task).lost
    side_by_side(
        run / name, sides[0], sides[1], hz=control_hz / stride, title=title,
        dream_end=f"{end}, as dreamt", truth_end=end if truth.fell else "time is up",
    )  # fmt: skip
    seconds = (len(dream.observation) - 1) / control_hz
    return Video(name, f"{title}. {seconds:.1f} s from step {dream.step} of the held-out episode {dream.episode}.")


def changed(physics: dict[str, float], task: str) -> str:
    """The factors that differ from the task's usual world, as text."""
    world = Physics.from_dict(physics, registry.nominal(task))
    usual = registry.nominal(task)
    skipped = ("light_", "push_start", "push_every", "box_")
    parts = []
    for name, value in world.to_dict().items():
        if value != getattr(usual, name) and not name.startswith(skipped):
            parts.append(f"{name} {value:.3g}")
    return ", ".join(parts)
