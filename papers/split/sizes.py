"""What a run of the study takes time for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of seeds, examples, steps and units."""

    seeds: int = 5
    examples: int = 100
    hidden: int = 6
    record: tuple[int, ...] = (0, 30, 300, 3000)  # steps
    widths: tuple[int, ...] = (6, 12, 24, 48, 96)
    descent: int = 1000  # steps of wide networks
    starts: int = 40  # of deep linear networks
    linear_steps: int = 5_000
    penalised: int = 120  # steps with a penalty


TINY = Sizes(
    seeds=1, examples=12, hidden=2, record=(0, 5), widths=(4, 8), descent=5, starts=4,
    linear_steps=300, penalised=3,
)  # fmt: skip
