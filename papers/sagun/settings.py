"""The conditions of every experiment, and a tiny version of each for a quick test.

The paper does not state its step sizes, its radius of initial points, the number and the standard
deviation of the points in the blobs. What is chosen here is written on the generated page.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

TAU = 1e-4  # "near zero": absolute, in units of the loss, or relative to the largest |λ|


@dataclass(frozen=True)
class Digits:
    """784-k-k-10 ReLU networks on MNIST, full-batch gradient descent."""

    examples: int = 1000
    pool: int = 1  # side of the squares of pixels that are averaged; 1 leaves images alone
    sigma: float = 0.1  # rms of a parameter at the start: the radius is sigma √n
    lr: float = 0.5
    steps: int = 60_000
    small_lr: float = 0.05  # of 784-2-10, which the larger one makes bounce
    random_lr: float = 0.1  # on random inputs, where the larger one kills most units
    less_steps: int = 20_000  # of these two
    stage: int = 1_000  # steps between two checkpoints
    tolerance: float = 1e-4
    seed: int = 0
    seeds: int = 10  # starts of the smallest network
    snapshots: tuple[int, ...] = (0, 20, 30, 40, 50, 60, 70, 80, 90, 100)

    def gentle(self, lr: float) -> Digits:
        """The same with a smaller step size, and fewer of them."""
        return replace(self, lr=lr, steps=self.less_steps)


@dataclass(frozen=True)
class Blobs:
    """2-k-k-2 ReLU networks on two Gaussian blobs."""

    points: int = 100
    std: float = 0.5
    sigma: float = 0.5
    lr: float = 1.0
    steps: int = 30_000
    tolerance: float = 1e-4
    seeds: int = 50
    widths: tuple[int, ...] = (2, 6, 10, 14, 18)
    early: int = 100  # steps after which classes are counted, too
    mse_lr: float = 0.02
    mse_steps: int = 60_000
    mse_seeds: int = 20


@dataclass(frozen=True)
class Starts:
    """Figure 8: many starts of one system."""

    width: int = 6
    num: int = 5_000
    part: int = 500  # networks between two checkpoints


@dataclass(frozen=True)
class Overlap:
    """Figure 9: blobs of growing standard deviation, several step sizes, equal time lr x steps."""

    width: int = 6
    stds: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
    rates: tuple[float, ...] = (0.05, 0.2, 1.0)
    time: float = 2_000.0
    seeds: int = 30


@dataclass(frozen=True)
class Lines:
    """Figure 10: lines between runs of gradient descent and of SGD."""

    width: int = 10
    lr: float = 0.1
    batch: int = 50
    record: tuple[int, ...] = (0, 3, 10, 30, 60, 100, 200, 400, 700, 1_000)
    seeds: int = 10
    points: int = 31


@dataclass(frozen=True)
class Agreement:
    """The figure of four answers on one network."""

    pairs: int = 12
    matvecs: int = 160


@dataclass(frozen=True)
class Settings:
    """All conditions of one run."""

    digits: Digits = field(default_factory=Digits)
    blobs: Blobs = field(default_factory=Blobs)
    starts: Starts = field(default_factory=Starts)
    overlap: Overlap = field(default_factory=Overlap)
    lines: Lines = field(default_factory=Lines)
    agreement: Agreement = field(default_factory=Agreement)
    widths: tuple[int, ...] = (10, 30)  # of figure 1, exact; 50 and 70 are to be asked for
    densities: tuple[int, ...] = (50, 70)  # of figure 1, from products alone
    tiny: bool = False


def tiny() -> Settings:
    """Everything at a size that takes seconds; its numbers mean nothing."""
    return Settings(
        digits=Digits(
            examples=60,
            pool=4,
            steps=300,
            less_steps=300,
            stage=100,
            tolerance=1e-4,
            seeds=2,
            snapshots=(0, 20, 50),
        ),
        blobs=Blobs(
            points=20, steps=300, seeds=3, widths=(2, 6), mse_steps=200, mse_seeds=2, tolerance=1e-2
        ),
        starts=Starts(num=20, part=10),
        overlap=Overlap(stds=(0.3, 0.9, 1.5), rates=(0.2, 1.0), time=40.0, seeds=3),
        lines=Lines(width=4, record=(0, 5, 20), seeds=2, points=5, batch=10),
        agreement=Agreement(pairs=4, matvecs=40),
        widths=(3, 4),
        densities=(5,),
        tiny=True,
    )
