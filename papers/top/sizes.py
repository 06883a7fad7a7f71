"""What a run of the study takes time for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of seeds, examples, steps and units."""

    seeds: int = 5
    examples: int = 200
    hidden: int = 12
    channels: tuple[int, int] = (4, 6)
    steps: int = 600  # of training
    looks: tuple[int, ...] = (0, 10, 50, 200, 599)
    walk: int = 100  # steps after the switch
    every: int = 25  # steps between searches for the directions
    flat: int = 30  # directions that are taken out, where only flat ones are left
    networks: int = 3
    rates: tuple[float, ...] = (0.2, 0.5, 1.2, 3.0)


TINY = Sizes(
    seeds=1, examples=20, hidden=2, channels=(1, 2), steps=6, looks=(0, 3, 5), walk=4, every=2,
    flat=12, rates=(0.5, 1.0), networks=2,
)  # fmt: skip
