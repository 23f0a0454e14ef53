"""What the parts of `real_floors.py` add up to.

An error is the root mean square over windows and channels, each channel in its own standard deviations.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from dreaming.statistics import interquartile_mean, stratified_bootstrap

RIVALS = ("persistence", "linear", "lstm", "dreamer")
OURS = ("unknown", "motion", "likelihood", "head", "given")
CORRECTED = tuple(f"{name} corrected" for name in (*RIVALS, *OURS))
AHEAD_S = ("0.25 s", "0.5 s", "1 s")
Errors = dict[int, dict[str, list[np.ndarray]]]  # by ice and arm: one (N, horizons, channels) a seed


def load(out: Path) -> Errors:
    """Of every part that is finished."""
    found: Errors = defaultdict(lambda: defaultdict(list))
    for file in sorted(out.glob("seed-*/ice-*/*.json")):
        ice = int(file.parent.name.removeprefix("ice-"))
        for name, errors in json.loads(file.read_text())["errors"].items():
            found[ice][name].append(np.asarray(errors))
    return {ice: dict(found[ice]) for ice in sorted(found)}


def figure(errors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(horizons,) of one seed's errors (N, horizons, channels)."""
    return np.sqrt(((errors / scale) ** 2).mean((0, 2)))


def gain(ours: list[np.ndarray], rival: list[np.ndarray], scale: np.ndarray, draws: int = 2000) -> tuple[float, ...]:
    """Share by which our error 1 s ahead lies below the rival's, and its 95% interval over episodes and seeds.

    Episodes, three windows each, and the seeds that both have are drawn anew; both are judged on the same draw.
    """
    rng, seeds = np.random.default_rng(0), min(len(ours), len(rival))
    squares = [np.stack([((e[:, -1] / scale) ** 2).mean(1).reshape(-1, 3).mean(1) for e in arm[:seeds]])
               for arm in (ours, rival)]  # fmt: skip

    def share(s: np.ndarray, e: np.ndarray) -> np.ndarray:  # of draws (K, seeds) and (K, episodes)
        mine, others = (np.sqrt(arm[s[:, :, None], e[:, None, :]].mean(2)).mean(1) for arm in squares)
        return 1 - mine / others

    episodes = squares[0].shape[1]
    drawn = share(rng.integers(0, seeds, (draws, seeds)), rng.integers(0, episodes, (draws, episodes)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(share(np.arange(seeds)[None], np.arange(episodes)[None])[0]), float(low), float(high)


def markdown(out: Path, scale: np.ndarray) -> str:
    found, lines = load(out), []
    lines += [
        "| ice | arm | seeds | 0.25 s | 0.5 s | 1 s | wheels, yaw at 1 s | first window | later ones |",
        "|---" * 9 + "|",
    ]
    for ice, arms in found.items():
        for name in (*RIVALS, *OURS, *CORRECTED):
            if name not in arms:
                continue
            each = np.stack([figure(e, scale) for e in arms[name]])  # (seeds, horizons)
            texts = [_interval(each[:, h]) for h in range(len(AHEAD_S))]
            units = np.sqrt(np.mean([e[:, -1] ** 2 for e in arms[name]], (0, 1)))
            parts = [np.mean([figure(e[which], scale)[-1] for e in arms[name]]) for which in _by_window(arms[name][0])]
            lines.append(
                f"| {ice} | {name} | {len(each)} | {' | '.join(texts)} | "
                f"{units[0]:.2f} {units[1]:.2f} rad/s, {units[2]:.3f} rad/s | {parts[0]:.3f} | {parts[1]:.3f} |"
            )
    lines.append("")
    for ice, arms in found.items():
        rivals = {name: np.mean([figure(e, scale)[-1] for e in arms[name]]) for name in RIVALS if name in arms}
        if not rivals:
            continue
        best = min(rivals, key=lambda name: rivals[name])
        for name in (name for name in (*OURS, *CORRECTED) if name in arms):
            share, low, high = gain(arms[name], arms[best], scale)
            lines.append(f"{ice} of ice, {name}: {share:+.0%} [{low:+.0%}, {high:+.0%}] below {best}, 1 s ahead")
    return "\n".join(lines)


def _by_window(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An episode's first window, in which the command changed, and the others."""
    first = np.arange(len(errors)) % 3 == 0
    return first, ~first


def _interval(by_seed: np.ndarray) -> str:
    low, high = stratified_bootstrap([by_seed])
    return f"{interquartile_mean(by_seed):.3f} [{low:.3f}, {high:.3f}]"
