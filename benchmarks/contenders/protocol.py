"""How a contender is asked: one word a line in, one JSON object a line out; and the work that all of them do.

Standard library only, so that it runs in any contender's own Python. A contender's script builds it and calls `serve`.
"""

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple, Protocol

BATCH, LENGTH, HORIZON = 16, 64, 15  # segments, their steps, steps dreamt from each of their states
OBSERVATION, ACTION = 28, 8
PACKAGES = ("torch", "jax", "sheeprl", "torchrl")  # whose versions go into the report
QUESTIONS = ("step", "world_model", "imagine", "policy")


class Size(NamedTuple):
    """DreamerV3's sizes, for contenders that have no configuration of that name."""

    deter: int
    hidden: int
    classes: int
    units: int
    stoch: int = 32
    blocks: int = 8


SIZES = {"1m": Size(512, 64, 4, 64), "12m": Size(2048, 256, 16, 256)}


class Contender(Protocol):
    """Answers are numbers computed from the result: they must be finite, and a lazy library must have finished."""

    def step(self) -> float:
        """A whole training step: world model, dreams, actor, critic and its slow copy, optimisers."""
        ...

    def world_model(self) -> float:
        """The world model's loss and its gradient."""
        ...

    def imagine(self) -> float:
        """Dreams of HORIZON steps from all BATCH x LENGTH states: policy and dynamics; no gradient, no other heads."""
        ...

    def policy(self) -> float:
        """One action for one observation, and the belief after it."""
        ...

    def weights(self) -> dict[str, tuple[int, float]]:
        """Trained parameters by part (encoder, actor, ...): their number, and a sum that tells whether they moved."""
        ...


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def serve(build: Callable[[argparse.Namespace], Contender]) -> None:
    """Builds, takes a first step, says so, and answers until the questions end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values: object) -> None:
        answers.write(json.dumps({**values, "peak_bytes": peak_bytes(given.device)}) + "\n")

    given = options()
    contender = build(given)
    before = contender.weights()
    value = finite("step", contender.step())
    after = contender.weights()
    still = [part for part in before if before[part][1] == after[part][1]]
    if still:
        raise RuntimeError(f"a training step did not move: {', '.join(still)}")
    cpu = time.process_time()
    parameters = {part: count for part, (count, _) in after.items()}
    versions = {name: version(name) for name in PACKAGES if name in sys.modules}
    if given.device == "cuda" and "torch" in sys.modules:
        versions["GPU"] = sys.modules["torch"].cuda.get_device_name()
    answer(value=value, cpu_s=cpu, parameters=parameters, versions=versions)
    for line in sys.stdin:
        question = line.strip()
        if question not in QUESTIONS:
            raise ValueError(f"unknown question {question!r}; known: {', '.join(QUESTIONS)}")
        ask = getattr(contender, question)
        wall, cpu = time.perf_counter(), time.process_time()
        value = ask()
        finish(given.device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer(value=finite(question, value), wall_s=wall, cpu_s=cpu)


def finish(device: str) -> None:
    """Waits for the GPU; JAX's contender waits by itself."""
    if device == "cuda" and "torch" in sys.modules:
        sys.modules["torch"].cuda.synchronize()


def peak_bytes(device: str) -> int:
    """Of the process, or of the GPU's memory as the library counts that asked for it."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.max_memory_allocated()
    return sys.modules["jax"].local_devices()[0].memory_stats()["peak_bytes_in_use"]


def finite(question: str, value: float) -> float:
    if not math.isfinite(value):
        raise FloatingPointError(f"{question} gave {value}")
    return value
