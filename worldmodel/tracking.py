"""Weights & Biases, where the user has it. Our own files are the truth; nothing here may end a run or a night."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs import UserError
from worldmodel.processes import command, kill, started_by

Mode = Literal["auto", "online", "offline", "off"]

INIT_TIMEOUT_S = 20.0  # a server that does not answer costs the night no more than this, once
FINISH_TIMEOUT_S = 30.0  # what is not uploaded by then stays on disk, for `wandb sync`
HUNG_S = 60.0  # longer than W&B's own limits: who does not answer by then never will, and is ended
MOST_FAILURES = 3  # in a row; then W&B is left alone for the rest of the night


class Tracker:
    """Scalars, pictures, tables and videos, to a W&B run below `run_dir`/wandb.

    Modes: `auto` is `online` where the user is logged in, else `offline`; `off` does nothing at all. WANDB_MODE,
    WANDB_PROJECT and WANDB_ENTITY are honoured. After construction `mode` says what it came to.

    Steps never go back: a smaller `step` than the last counts as the last. To go on with a run, pass its `run_id`.
    Online the curves continue. Offline every start is a segment of its own (W&B cannot resume offline); segments share
    the id, and `wandb sync --append` puts them together.
    """

    def __init__(
        self,
        run_dir: Path,
        mode: Mode = "auto",
        config: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        warn: Callable[[str], None] | None = None,
    ):
        if mode not in ("auto", "online", "offline", "off"):
            raise UserError(f'W&B mode "{mode}" is unknown; there are: auto, online, offline, off')
        self.run_id = run_id
        self.mode: Mode = "off"
        self._run: Any = None
        self._warn = warn or (lambda message: print(message, file=sys.stderr))
        self._warned = False
        self._failures = 0
        self._step = 0
        if mode != "off":
            self._start(Path(run_dir), mode, dict(config or {}))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Nested names are joined: {"loss": {"reward": 1}} becomes loss/reward."""
        if self._run is not None:
            self._send(lambda wandb: flatten(metrics), step)

    def log_figure(self, name: str, png: Path, step: int, caption: str = "") -> None:
        self._send(lambda wandb: {name: wandb.Image(str(png), caption=caption or None)}, step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._send(lambda wandb: {name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def log_video(self, name: str, mp4: Path, step: int, caption: str = "") -> None:
        self._send(lambda wandb: {name: wandb.Video(str(mp4), caption=caption or None, format="mp4")}, step)

    def finish(self) -> None:
        run, self._run = self._run, None
        if run is not None and self._guard(lambda: run.finish() or True) is None:
            self._give_up()

    def _start(self, run_dir: Path, mode: Mode, config: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # the settings below come too late for its login message
        if mode == "auto" and os.environ.get("WANDB_MODE") in ("disabled", "offline"):
            if os.environ["WANDB_MODE"] == "disabled":
                return
            mode = "offline"
        run_dir.mkdir(parents=True, exist_ok=True)
        if mode in ("auto", "online"):
            logged_in = self._guard(self._logged_in, quiet=mode == "auto")
            if logged_in and self._guard(lambda: self._init(run_dir, "online", config)):
                return
            if mode == "online" and not logged_in:
                self._complain("nobody is logged in here (`wandb login`)")
        # offline means that no byte leaves the machine, W&B's own error reports included
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._guard(lambda: self._init(run_dir, "offline", config))

    @staticmethod
    def _logged_in() -> bool:
        import wandb

        return bool(wandb.login(prompt=False, verify=False))  # verifying takes ten seconds without a network

    def _init(self, run_dir: Path, mode: Literal["online", "offline"], config: dict[str, Any]) -> bool:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dream"),
            name=run_dir.resolve().name,
            id=self.run_id,
            resume="allow" if self.run_id and mode == "online" else None,
            dir=str(run_dir),
            mode=mode,
            config=config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,  # the folder that `dream` is typed in is none of W&B's business
                disable_code=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
            ),
        )
        self.run_id, self.mode = self._run.id, mode
        self._step = int(self._run.step)
        return True

    def _send(self, make: Callable[[Any], Mapping[str, Any]], step: int) -> None:
        if self._run is None:
            return
        self._step = max(self._step, int(step))

        def send() -> bool:
            import wandb

            self._run.log(make(wandb), step=self._step)
            return True

        if self._guard(send):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._give_up()

    def _give_up(self) -> None:
        """W&B's own clean-up at exit would print a traceback about a service that is gone."""
        import wandb

        self._run, self.mode = None, "off"
        self._guard(wandb.teardown, quiet=True)

    def _guard(self, action: Callable[[], Any], quiet: bool = False) -> Any:
        """The action's result, or None if W&B failed. W&B raises its own errors, pydantic's, and many more."""
        try:
            with patience(HUNG_S):
                return action()
        except Exception as error:
            if not quiet:
                self._complain(f"{type(error).__name__}: {error}")
            return None

    def _complain(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            first_line = reason.strip().splitlines()[0][:200]
            self._warn(f"W&B: {first_line}. The run folder holds everything all the same.")


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Ends W&B's own process if what is done here takes longer. Who waits for it, for ever otherwise, gets an error."""
    timer = threading.Timer(seconds, _end_service)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_service() -> None:
    """Kills those of this process's that are W&B's."""
    kill([process for process in started_by() if "wandb" in command(process)])


def flatten(mapping: Mapping[str, Any], separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """{"loss": {"reward": 1}} becomes {"loss/reward": 1}."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
