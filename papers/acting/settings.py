"""How much is run: in earnest, or in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Sizes of all experiments."""

    seeds: int = 5
    escapes: int = 200  # seeds of PerturbedSGD
    radii: tuple[float, ...] = (1e-2, 1e-4, 1e-6)
    plane_steps: int = 2000
    linear_steps: int = 2000
    widths: tuple[int, ...] = (196, 64, 32, 16, 6, 16, 32, 64, 196)
    examples: int = 1000
    gradients: float = 400.0  # of all examples
    seconds: float = 5.0  # of the processor
    million: tuple[int, ...] = (784, 1000, 200, 10)
    images: int = 500
    steps: int = 60


def tiny() -> Settings:
    """Numbers that mean nothing."""
    return Settings(
        seeds=2,
        escapes=2,
        radii=(1e-2, 1e-4),
        plane_steps=20,
        linear_steps=8,
        widths=(196, 16, 4, 16, 196),
        examples=100,
        gradients=6.0,
        seconds=0.05,
        million=(784, 20, 10),
        images=100,
        steps=6,
    )
