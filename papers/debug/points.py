"""Critical points that are known: does the Hessian tell which of them are minima?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from common.claims import NO, PARTLY, YES, Claim
from common.keeping import Arrays, Run
from common.study import Section, table
from torch import Tensor

import hesscope as hs

MINIMUM, SADDLE, MAXIMUM, OPEN = "minimum", "saddle", "maximum", "left open"
KINDS = (MINIMUM, SADDLE, MAXIMUM, OPEN)
SINGULAR = (3.0, 2.0, 1.0, 0.5)  # of the map that linear networks learn
DIM = len(SINGULAR)
RANKS = (0, 2, DIM)
Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, tuple[str, Function, int]] = {
    "x² + y²": (MINIMUM, lambda t: t.square().sum(), 2),
    "x² - y²": (SADDLE, lambda t: t[0] ** 2 - t[1] ** 2, 2),
    "-x² - y²": (MAXIMUM, lambda t: -t.square().sum(), 2),
    "x² + y⁴": (MINIMUM, lambda t: t[0] ** 2 + t[1] ** 4, 2),
    "x² - y⁴": (SADDLE, lambda t: t[0] ** 2 - t[1] ** 4, 2),
    "x² + y³": (SADDLE, lambda t: t[0] ** 2 + t[1] ** 3, 2),
    "x³ - 3xy²": (SADDLE, lambda t: t[0] ** 3 - 3 * t[0] * t[1] ** 2, 2),
    "(xy)²": (MINIMUM, lambda t: (t[0] * t[1]) ** 2, 2),
}


def measure(run: Run, sizes: Any) -> Section:
    """Looks at all of them twice: by the signs of the eigenvalues alone, and by the verdict."""
    found = run.arrays("points", sizes.points, lambda: told(*sizes.points))
    names = [name for name, _, _ in points(*sizes.points)]
    return Section(text(found, names, sizes.points[0]), [by_signs(found), by_verdict(found)])


def points(seeds: int, depths: tuple[int, ...]) -> Iterator[tuple[str, str, hs.Problem]]:
    """Name, what it is, and the problem at the point."""
    for name, (kind, f, n) in FUNCTIONS.items():
        yield name, kind, hs.Problem.from_function(f, torch.zeros(n).double())
    for depth in depths:
        for rank in RANKS:
            for seed in range(seeds):
                kind = MINIMUM if rank == DIM else SADDLE
                yield (
                    f"{depth} linear layers, rank {rank} of {DIM}",
                    kind,
                    linear(depth, rank, seed),
                )


def linear(depth: int, rank: int, seed: int) -> hs.Problem:
    """|W_d ... W_1 - A|²/2 where the product is the best map of this rank, its factors balanced.

    These are critical points, minima only at the full rank (Baldi and Hornik 1989; Kawaguchi 2016).
    """
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(DIM, DIM, generator=generator).double())[0] for _ in range(2)
    )
    S = torch.tensor(SINGULAR, dtype=torch.float64)
    A = U @ torch.diag(S) @ V.T
    root = torch.diag(torch.where(torch.arange(DIM) < rank, S ** (1 / depth), 0.0))
    factors = [root @ V.T, *[root] * (depth - 2), U @ root]

    def f(theta: Tensor) -> Tensor:
        product = torch.eye(DIM, dtype=theta.dtype)
        for W in theta.view(depth, DIM, DIM).unbind(0):
            product = W @ product
        return (product - A).square().sum() / 2

    return hs.Problem.from_function(f, torch.stack(factors).flatten())


def told(seeds: int, depths: tuple[int, ...]) -> Arrays:
    """By point, as places in KINDS: what it is, what signs say, what the verdict says."""
    rows = []
    for _, kind, problem in points(seeds, depths):
        values = hs.spectrum(hs.Hessian(problem)).eigenvalues
        look = hs.diagnose(problem, check=False, seed=0, gradient_tolerance=1e-9)
        said = read(look.verdict("critical_point").claim)
        rows.append([KINDS.index(word) for word in (kind, signs(values), said)])
    return {"kinds": torch.tensor(rows)}


def signs(values: Tensor) -> str:
    """What second derivatives alone decide: definite, or of both signs, beyond rounding."""
    noise = 1e-9 * max(float(values.abs().max()), 1.0)
    if float(values.min()) > noise:
        return MINIMUM
    if float(values.max()) < -noise:
        return MAXIMUM
    return SADDLE if float(values.min()) < -noise < noise < float(values.max()) else OPEN


def read(claim: str) -> str:
    """The kind that a claim of the verdict names."""
    for word, kind in (("saddle", SADDLE), ("maximum", MAXIMUM), ("minimum", MINIMUM)):
        if word in claim.split(":")[0]:
            return kind
    return OPEN


def counted(found: Arrays, column: int) -> tuple[int, int, int]:
    """How many points are named rightly, wrongly, and left open."""
    kinds, said = found["kinds"][:, 0], found["kinds"][:, column]
    left = said == KINDS.index(OPEN)
    return int((kinds == said).sum()), int((~left & (kinds != said)).sum()), int(left.sum())


def by_signs(found: Arrays) -> Claim:
    """YES if the signs of the eigenvalues name all points rightly, PARTLY if none wrongly."""
    right, wrong, left = counted(found, 1)
    kinds, said = found["kinds"][:, 0], found["kinds"][:, 1]
    saddles, minima = ((kinds == KINDS.index(word)) for word in (SADDLE, MINIMUM))
    return Claim(
        "At a critical point the Hessian tells a minimum from a saddle",
        f"{right} points rightly, {wrong} wrongly, {left} left open by eigenvalues of zero: of "
        f"{int(saddles.sum())} saddles {int((said[saddles] == KINDS.index(SADDLE)).sum())} are "
        "told, of "
        f"{int(minima.sum())} minima {int((said[minima] == KINDS.index(MINIMUM)).sum())}",
        YES if right == len(kinds) else PARTLY if not wrong else NO,
        "debugging/minimum-test",
        ("functions of two variables", "two linear layers", "three linear layers") if wrong else (),
    )


def by_verdict(found: Arrays) -> Claim:
    """YES if the verdict names all points rightly, PARTLY if it is right in nine of ten."""
    right, wrong, left = counted(found, 2)
    total = right + wrong + left
    return Claim(
        "hs.diagnose tells minima (to second order) from saddles, with a look at the loss itself",
        f"{right} points rightly, {wrong} wrongly, {left} left open",
        YES if right == total else PARTLY if right >= 0.9 * total else NO,
        "debugging/minimum-test",
        ("functions of two variables", "two linear layers", "three linear layers")
        if right < 0.9 * total
        else (),
    )


def text(found: Arrays, names: list[str], seeds: int) -> str:
    """A row for each point, seeds counted."""
    rows: dict[str, list[list[str]]] = {}
    for name, places in zip(names, found["kinds"], strict=True):
        rows.setdefault(name, []).append([KINDS[int(i)] for i in places])
    cells = [
        [name, said[0][0], *(tally([s[k] for s in said]) for k in (1, 2))]
        for name, said in rows.items()
    ]
    head = ["point", "it is", "signs of the eigenvalues say", "hs.diagnose says"]
    return (
        "Functions of x and y at 0, and linear networks 4-4-4 and 4-4-4-4 (loss half the squared "
        "distance to a map of "
        f"singular values {', '.join(f'{s:g}' for s in SINGULAR)}) at balanced factors of the best "
        f"map of each rank, {seeds} "
        "random maps each. `hs.diagnose` says *minimum to second order* where no eigenvalue is "
        "negative "
        "and the loss does not fall along the flattest direction; of many flat ones it looks along "
        "one, so that a saddle of higher order may pass for one.\n\n"
        f"{table(head, cells)}"
    )


def tally(words: list[str]) -> str:
    """ "saddle", or "saddle 3, left open 2"."""
    kinds = sorted(set(words), key=words.count, reverse=True)
    return (
        kinds[0] if len(kinds) == 1 else ", ".join(f"{kind} {words.count(kind)}" for kind in kinds)
    )
