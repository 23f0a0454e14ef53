"""What a model that learns on from other logs has gained on these and forgotten of the earlier ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worldmodel.checkpoint import write_atomically
from worldmodel.evaluation import OpenLoop
from worldmodel.plots import Change, before_and_after_plot
from worldmodel.results import milestones
from worldmodel.trainer import Trainer

FILE, PICTURE, NEW = "forgetting.json", "forgetting.png", "these logs"
STARTS = 256


@dataclass(frozen=True)
class Before:
    """Held-out error by horizon, in standard deviations of the earliest logs, of the model as it began."""

    errors: dict[str, list[float]]  # by log folder, NEW for the present one
    hz: float

    @classmethod
    def of(cls, folder: Path, trainer: Trainer) -> "Before | None":
        """As kept in `folder`, or measured now; None for a model that began from nothing."""
        if trainer.began_as is None:
            return None
        hz, file = float(trainer.reader.schema["control_hz"]), folder / FILE
        if file.exists():
            return cls(json.loads(file.read_text())["before"], hz)
        if trainer.steps:
            return None  # the file was lost, and the model is no longer what it was
        made = {NEW: trainer.evaluate(starts=STARTS), **trainer.evaluate_earlier(starts=STARTS)}
        before = cls({name: one.model.tolist() for name, one in made.items()}, hz)
        write_atomically(file, json.dumps({"before": before.errors}).encode())
        return before

    def _pairs(self, new: OpenLoop, earlier: Mapping[str, OpenLoop]) -> list[tuple[str, list[float], OpenLoop]]:
        """Before and now, of what was there then and is now."""
        return [(name, self.errors[name], now) for name, now in {NEW: new, **earlier}.items() if name in self.errors]

    def lines(self, new: OpenLoop, earlier: Mapping[str, OpenLoop]) -> list[str]:
        lines = []
        for name, before, now in self._pairs(new, earlier):
            at = [h for h in milestones(now) if h <= len(before)]
            was, after = (" / ".join(f"{errors[h - 1]:.3f}" for h in at) for errors in (before, now.model))
            where = name if name == NEW else f"the earlier logs {name}"
            lines.append(f"on {where} after {' / '.join(map(str, at))} steps: {was} before, {after} now")
        return lines

    def scalars(self, earlier: Mapping[str, OpenLoop]) -> dict[str, float]:
        """Of the earlier logs, means over the horizon, numbered as the lines are."""
        values: dict[str, float] = {}
        for i, (name, now) in enumerate(earlier.items()):
            values[f"error_{i}"] = float(now.model.mean())
            if name in self.errors:
                values[f"before_{i}"] = sum(self.errors[name]) / len(self.errors[name])
        return values

    def save(self, folder: Path, new: OpenLoop, earlier: Mapping[str, OpenLoop], step: int) -> Path:
        pairs = self._pairs(new, earlier)
        now = {name: one.model.tolist() for name, _, one in pairs}
        still = {name: one.persistence.tolist() for name, _, one in pairs}
        kept = {"before": self.errors, "now": now, "standing_still": still, "step": step}
        write_atomically(folder / FILE, json.dumps(kept).encode())
        changes = [Change(name, was, now[name], still[name]) for name, was, _ in pairs]
        return before_and_after_plot(folder / PICTURE, self.hz, changes)
