"""A contender's process: in its own Python, bound to cores, asked one question at a time."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from contenders.protocol import QUESTIONS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    script: str
    dtype: str = "float32"
    environment: dict[str, str] = field(default_factory=dict)


# The like of what worldmodel/speed.py sets for ours, given to peers: freed memory stays in the process (page faults of
# large temporaries are a tenth of an eager step and more), float32 products go to oneDNN.
BLOCKS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**26)}
CONTENDERS = {
    "ours": Contender("ours"),
    "ours-bf16": Contender("ours", "bfloat16"),
    "official": Contender("peer_official"),
    "official-bf16": Contender("peer_official", "bfloat16"),
    "sheeprl": Contender("peer_sheeprl"),
    "sheeprl-tuned": Contender("peer_sheeprl", "float32-tuned", BLOCKS),
    "sheeprl-bf16": Contender("peer_sheeprl", "bfloat16"),
    "sheeprl-mixed": Contender("peer_sheeprl", "bfloat16-mixed"),
    "torchrl": Contender("peer_torchrl"),
    "torchrl-tuned": Contender("peer_torchrl", "float32-tuned", BLOCKS),
}


@dataclass(frozen=True)
class Home:
    """What contenders need from this machine."""

    peers_python: Path = Path(sys.executable)
    """Of an environment with sheeprl and TorchRL."""
    jax_python: Path | None = None
    """Of the environment that tests/reference/README.md describes."""
    official: Path | None = None
    """A checkout of danijar/dreamerv3 beside it."""

    def python(self, script: str) -> str:
        if script == "ours":
            return sys.executable
        option = "jax_python" if script == "peer_official" else "peers_python"
        found: Path | None = getattr(self, option)
        if found is None or not found.exists():
            raise AbsentError(f"no Python at --home.{option.replace('_', '-')}")
        return str(found)

    def environment(self, script: str, threads: int, device: str = "cpu") -> dict[str, str]:
        path = {"ours": HERE.parent.parent, "peer_official": self.official}.get(script)
        eigen = "false" if threads == 1 else "true"
        # What was put into this Python's path is for no other's.
        inherited = os.environ.get("PYTHONPATH") if self.python(script) == sys.executable else None
        return {
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}",
            "JAX_PLATFORMS": device,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # it would take most of a GPU that contenders share
            "PYTHONPATH": os.pathsep.join(filter(None, (str(path or ""), inherited))),
        }


class AbsentError(Exception):
    """A contender cannot run here."""


class Worker:
    """Once made it is built and has taken its first step."""

    def __init__(self, name: str, size: str, threads: int, home: Home, log: Path, device: str = "cpu") -> None:
        contender, self.name, self.log = CONTENDERS[name], name, log
        arguments = ["--size", size, "--threads", str(threads), "--dtype", contender.dtype, "--device", device]
        command = [home.python(contender.script), str(HERE / f"{contender.script}.py"), *arguments]
        surroundings = os.environ | home.environment(contender.script, threads, device) | contender.environment
        begun, pipe = time.perf_counter(), subprocess.PIPE
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, env=surroundings, text=True, bufsize=1
            )
        # No library's own number of threads covers all it starts.
        if device == "cpu" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[-threads:])
        self.first = self._answer()
        self.first["wall_s"] = time.perf_counter() - begun
        self.answers: dict[str, list[dict]] = {question: [] for question in QUESTIONS}

    def ask(self, question: str) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{question}\n")
        return self._answer()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def report(self) -> dict:
        """Numbers alone; times are pairs: seconds that passed, CPU seconds."""
        peak = max(answer["peak_bytes"] for given in self.answers.values() for answer in given)
        return {
            "versions": self.first["versions"],
            "parameters": self.first["parameters"],
            "peak_bytes": peak,
            "first_step_s": [self.first["wall_s"], self.first["cpu_s"]],
            "answers": {name: [[a["wall_s"], a["cpu_s"]] for a in given] for name, given in self.answers.items()},
        }

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        said = [text for text in self.log.read_text().splitlines() if text.strip()]
        reason = f"{said[-1] if said else status} ({self.log})"
        raise AbsentError(reason) if "ModuleNotFoundError" in reason else RuntimeError(f"{self.name}: {reason}")
