"""What a night found that was to find its own what-ifs, as the report takes it."""

import numpy as np

from dreaming.exploration import Exploration, restored
from dreaming.night import Night
from dreaming.reach import FAILING, missing
from dreaming.report import data
from dreaming.territory import REFUSED, Cell
from envs.physics import FACTORS

SHOWN = 5  # worlds that fail


def findings(night: Night) -> tuple[data.Explored, list[str]]:
    """How far each factor was followed, and what these logs cannot teach, in words."""
    task = night.config.task
    exploration = restored(night.state.exploration, task)
    refusals = exploration.territory.refusals()
    if night.has_model:
        refusals += missing(night.scenarios, night.trainer.model.context, task)
    return explored(exploration), refusals


def explored(exploration: Exploration) -> data.Explored:
    territory, space = exploration.territory, exploration.space
    trusted, calibrated = territory.ends(), territory.calibrated()
    factors = []
    for f, axis in enumerate(space.axes):
        refused = [
            list(territory.bounds(Cell(side, number)))
            for side in (2 * f, 2 * f + 1)
            for number, standing in enumerate(territory.standing[side])
            if standing == REFUSED
        ]
        pair = lambda ends, f=f: [float(ends[0, f]), float(ends[1, f])]  # noqa: E731
        factors.append(
            data.Factor(
                name=axis.factor,
                unit=FACTORS[axis.factor].unit,
                explored=[axis.low, axis.high],
                logged=list(axis.logged),
                calibrated=pair(calibrated),
                trusted=pair(trusted),
                reach=pair(exploration.reach.ends),
                refused=refused,
                logarithmic=axis.logarithmic,
            )
        )
    growth = [
        {"seconds": row["seconds"], **dict(zip(space.names, np.array(row["reach"]).T.tolist(), strict=True))}
        for row in exploration.history
    ]
    return data.Explored(factors, growth, failing(exploration))


def failing(exploration: Exploration) -> list[str]:
    """The worst of the last search's elites."""
    archive = exploration.archive
    if archive is None:
        return []
    cells = archive.filled[archive.failure[archive.filled] >= FAILING]
    worst = cells[np.argsort(-archive.failure[cells], kind="stable")][:SHOWN]
    return [
        f"{archive.failure[cell]:.0%} failure with "
        + ", ".join(
            f"{name} {value:.3g}"
            for name, value in zip(archive.space.names, archive.space.points(archive.elites[[cell]])[0], strict=True)
        )
        for cell in worst
    ]
