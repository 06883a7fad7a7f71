"""What a measurement takes in memory in each of W processes, and the fastest way that fits.

Pure arithmetic, on numbers that were counted of a problem or are written down for one that is not
there. Weights and data are there already, and are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hesscope.autodiff.footprint import Footprint, Kind
from hesscope.curvature.double import EXAMPLES, at_once
from hesscope.krylov.noise import PROBES
from hesscope.krylov.rows import per_block
from hesscope.system.memory import human

Task = Literal["diagnose", "product", "eigsh", "density"]
GRADIENTS: dict[Kind, float] = {"graph kept": 2.0, "graph rebuilt": 3.0, "lean": 4.0}
BUILDING = 1.0  # gradients that the first product costs besides, where its graph is kept
DOUBLE = 8  # bytes of a number in float64
COMPARED = 2.5  # such vectors for each that is compared: itself, in both dtypes, and its product
STEP = 6  # vectors of a Lanczos step besides its basis
IN_PIECES = 3  # whole vectors besides: the one that is multiplied, the product, and its sum
GATHERED = 4  # blocks: of weights and of the vector, for one block and the next
SPARE = 8  # pairs that are locked besides, and vectors that are made at a time
LOCKED = 4  # one of so many products of a density may give an outlier that is locked
VERIFYING = 8  # one of so many goes to the second start


@dataclass(frozen=True)
class Phase:
    """Vectors at one time: in the place of the basis, and in memory besides."""

    placed: int
    besides: int
    multiplies: bool = False  # whether a product is made meanwhile, with its own memory
    compares: bool = False  # whether one on a few examples is, in float64
    whole: int = 0  # vectors that each of several processes then has, in memory, for its user


def phases_of(
    task: Task, num_matvecs: int, k: int, n: int, *, verify: bool = True
) -> tuple[Phase, ...]:
    """Those of a measurement with so many products, for vectors of n numbers.

    A search grows its basis, locks what it has found, with residuals, and puts that together.
    A density grows two, the second in the complement of what is locked.

    >>> [phase.placed for phase in phases_of("eigsh", 30, k=5, n=10**6)]
    [32, 64, 32, 0]
    """
    block = per_block(n)

    def blocks(vectors: int) -> int:
        return -(-vectors // block) * block

    if task == "product":
        return (Phase(0, 0, multiplies=True),)
    basis = blocks(num_matvecs)
    if task == "eigsh":
        found = k + SPARE * verify
        locked = 2 * blocks(found)
        growing, locking = (
            Phase(basis, STEP, multiplies=True),
            Phase(basis + locked, 2 * min(SPARE, found)),
        )
        comparing, told = Phase(locked, 3 * k + STEP, compares=True), Phase(0, k, whole=k)
        return growing, locking, comparing, told
    second = blocks(num_matvecs // VERIFYING + 1)
    both = basis + blocks(num_matvecs // LOCKED) + second
    return Phase(both, STEP, multiplies=True), Phase(basis, STEP, compares=True)


@dataclass(frozen=True)
class Size:
    """Of a problem, as one of W processes sees it."""

    n: int
    element: int  # bytes of a number
    batch: float  # examples of the largest batch here
    batches: float  # here
    processes: int = 1
    examples: float = math.inf  # in all of the data here
    block: float = 0.0  # numbers of the largest block, where weights are cut and gathered by blocks

    @property
    def local(self) -> int:
        """Numbers of a vector that this process holds."""
        return -(-self.n // self.processes)


@dataclass(frozen=True)
class Way:
    """One way to go, and what it takes in each process."""

    kind: Kind
    place: str  # of the basis
    memory: float  # bytes at most, weights and data not among them
    placed: float  # bytes in that place, if it is not memory
    gradients: float  # of one product

    def __str__(self) -> str:
        there = f", {human(self.placed)} on the {self.place}" if self.placed else ""
        return f"{self.kind}: {human(self.memory)}{there}"


def ways(print_: Footprint, size: Size, phases: tuple[Phase, ...]) -> Iterator[Way]:
    """All ways, the fastest first: a basis elsewhere costs less than another kind of product."""
    for kind, gradients in GRADIENTS.items():
        if kind == "lean" and print_.lean is None:
            continue
        memory, placed = _taken(print_, size, phases, kind, apart=False)
        yield Way(kind, "memory", memory, 0.0, gradients)
        if placed:
            apart, _ = _taken(print_, size, phases, kind, apart=True)
            yield Way(kind, "disk", apart, placed, gradients)


def _taken(
    print_: Footprint, size: Size, phases: tuple[Phase, ...], kind: Kind, *, apart: bool
) -> tuple[float, float]:
    """Bytes in memory and of placed vectors, which may be apart from it, at most in any phase."""
    local, most = size.local * size.element, print_.most(kind, size.batch, size.batches)
    if size.block and print_.lean:  # no whole graph is there to compare the first product with
        most = print_.lean(size.batch)
    held = print_.graph(size.batch) * size.batches if kind == "graph kept" else 0.0
    whole = IN_PIECES * size.n * size.element if size.processes > 1 else 0.0
    if size.block:
        whole = GATHERED * size.block * size.element
    products = {
        (True, False): most + whole * bool(phases[0].placed),
        (False, True): held + _compared(print_, size, kind),
        (False, False): held,
    }
    bytes_ = [
        products[p.multiplies, p.compares]
        + local * (p.besides + (0 if apart else p.placed))
        + size.n * size.element * p.whole * (size.processes > 1)
        for p in phases
    ]
    return max(bytes_), float(local * max(p.placed for p in phases))


def _compared(print_: Footprint, size: Size, kind: Kind) -> float:
    """Products in float64 on a few examples, if others are not.

    Of some vectors at once, which are there as well as their products while the graph stays.
    """
    if size.element >= DOUBLE or size.block:  # no process has all that it takes
        return 0.0
    few, vectors = size.batch * min(1.0, EXAMPLES / size.examples), min(PROBES, at_once(size.n))
    whole: Kind = "graph kept" if vectors > 1 else "graph rebuilt"
    once = print_.most("lean" if kind == "lean" else whole, few)
    return DOUBLE / size.element * (once + COMPARED * vectors * size.n * size.element)


def chosen(found: list[Way], free: float, on_disk: float) -> Way | None:
    """The first way that fits."""
    fit = (way for way in found if way.memory <= free and way.placed <= on_disk)
    return next(fit, None)


def told(found: list[Way], free: float, on_disk: float) -> str:
    """That nothing fits, and what comes nearest."""
    least = min(found, key=lambda way: way.memory)
    cure = "smaller batches or more processes" if least.memory > free else "a larger disk"
    there = f" and {human(on_disk)} on the disk" if least.placed > on_disk else ""
    return f"nothing fits in {human(free)}{there}; the least is {least}. Take {cure}."
