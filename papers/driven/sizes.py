"""What a run of the study takes time for."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = 1e-4  # the gradient norm that the paper names


@dataclass(frozen=True)
class Sizes:
    """Numbers of seeds, examples and steps."""

    widths: tuple[int, ...] = (10, 30, 70)
    examples: int = 1000
    pool: int = 1  # side of the squares of pixels that are averaged; 1 leaves images alone
    steps: int = 60_000  # of gradient descent on digits
    stage: int = 1_000
    seeds: int = 20  # of small networks
    stds: tuple[float, ...] = (0.7, 0.9, 1.1, 1.5)  # of overlapping blobs
    points: int = 100
    descent: int = 10_000  # steps of small networks
    lbfgs: int = 300  # iterations
    newton_steps: tuple[int, ...] = (150, 60, 40, 40, 60, 80, 80)  # for each β
    far: tuple[int, ...] = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)  # steps
    far_newton: int = 50
    width: int = 10  # of networks on random inputs
    wide_seeds: int = 5
    wide_lbfgs: int = 250
    wide_newton: int = 15  # steps for each β
    pairs: int = 20
    narrow_seeds: int = 5  # of 784-2-10
    narrow_descent: int = 5_000
    narrow_lbfgs: int = 400
    narrow_newton: tuple[int, ...] = (22, 8, 6, 4, 4)


TINY = Sizes(
    widths=(2, 3), examples=30, pool=7, steps=60, stage=60, seeds=2, stds=(0.7,), points=10,
    descent=5, lbfgs=3, newton_steps=(2, 2, 2, 2, 2, 2, 2), width=3, wide_seeds=1, wide_lbfgs=3,
    wide_newton=1, pairs=3, narrow_seeds=1, narrow_descent=4, narrow_lbfgs=3,
    narrow_newton=(1, 1, 1, 1, 1), far=(2, 20), far_newton=2,
)  # fmt: skip
