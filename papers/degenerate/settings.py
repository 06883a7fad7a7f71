"""How large the study of degenerate minima is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of a run."""

    truths: tuple[tuple[tuple[int, ...], int], ...] = (
        ((2, 2, 2), 0),
        ((2, 2, 2), 1),
        ((2, 2, 2), 2),
        ((3, 2, 3), 1),
        ((3, 3, 3), 1),
        ((2, 2, 2, 2), 1),
    )  # linear networks and the rank of what they learn
    temperature: float = 1e4  # t of exp(-t K)
    chains: int = 32
    draws: int = 1_500
    leaps: int = 16
    students: tuple[int, ...] = (2, 3, 4, 6)  # hidden units, of two that are needed
    seeds: int = 5
    iterations: int = 120  # of a descent
    walk: int = 60  # steps along the bottom
    straight: int = 3  # walks of hs.basin
    widths: tuple[int, ...] = (2, 4, 8)
    toy_seeds: int = 8
    toy_steps: int = 4_000
    networks: int = 300  # whose halting times are counted, of each kind
    halting_steps: int = 4_000
    matrices: int = 1_000


def tiny() -> Sizes:
    """Seconds."""
    return Sizes(
        truths=(((2, 2, 2), 0), ((2, 2, 2), 1), ((2, 1, 2), 0)),
        chains=4,
        draws=20,
        leaps=3,
        students=(2, 3),
        seeds=1,
        iterations=8,
        walk=1,
        straight=1,
        widths=(2, 8),
        toy_seeds=2,
        toy_steps=20,
        networks=12,
        halting_steps=600,
        matrices=20,
    )
