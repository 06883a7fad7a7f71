"""What a run takes time for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """Seeds, data, losses and steps of all parts."""

    digits: int = 6  # seeds
    train: int = 700  # digits
    width: int = 32  # hidden units
    steps: int = 300  # of the network that is rescaled
    targets: tuple[float, ...] = (0.3, 0.1, 0.03)
    most: int = 40_000
    edges: int = 5  # seeds
    edge: tuple[float, int, int] = (2.0, 3_000, 150)  # lr, steps, steps between looks
    images: int = 500
    looked_at: int = 50  # images of which the curvature is taken
    depth: int = 20
    cifar_seeds: int = 5
    cifar_targets: tuple[float, ...] = (1.0,)
    epochs: int = 80
    factors: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)  # of one layer's weights
    cifar: Path | None = None


def tiny() -> Sizes:
    """Seconds; its numbers mean nothing."""
    return Sizes(
        digits=1, train=60, width=2, steps=20, factors=(1.0, 10.0), targets=(2.2,), most=400,
        edges=1, edge=(2.0, 20, 5), cifar_seeds=1, images=40, looked_at=20, depth=8,
        cifar_targets=(2.4,), epochs=4,
    )  # fmt: skip
