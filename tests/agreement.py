"""Recorded numbers of the official DreamerV3 (tests/reference), and how far ours are from them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PART, STEP = 1e-5, 1e-4  # allowed of one part, and after whole training steps


class Recording:
    """One .npz: `recording["parts/tokens"]` is a tensor, `recording.under("weights")` the arrays below a name."""

    def __init__(self, name: str) -> None:
        with np.load(Path(__file__).parent / "reference" / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = dict(file)

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        cut = f"{prefix}/"
        return {name.removeprefix(cut): value for name, value in self.arrays.items() if name.startswith(cut)}


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; where theirs exceeds 1 anywhere, as a share of its largest number."""
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


class Agreement:
    """Collects differences by part; leaving the `with` prints them all and fails if any is too large."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.differences: dict[str, float] = {}

    def __setitem__(self, part: str, pair: tuple[Tensor, Tensor]) -> None:
        self.differences[part] = difference(*pair)

    def __enter__(self) -> "Agreement":
        return self

    def __exit__(self, error, *_) -> None:
        if error is None:
            for part, value in self.differences.items():
                print(f"{part:32} {value:.1e}")
            # Written so that NaN is too large as well.
            assert all(value <= self.tolerance for value in self.differences.values()), self.differences


def draws(logit: Tensor, stoch: Tensor) -> Iterator[Tensor]:
    """For each step (B, T, S, C) the uniform numbers (B, S, 1) with which our sampler draws what theirs has drawn."""
    probs = 0.99 * torch.softmax(logit, -1) + 0.01 / logit.shape[-1]
    middle = torch.cumsum(probs, -1) - probs / 2
    yield from (middle * stoch).sum(-1, keepdim=True).unbind(1)
