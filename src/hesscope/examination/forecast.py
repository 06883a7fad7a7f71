"""What an examination will cost, before it starts: products, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import Optimizer

from hesscope import probes
from hesscope.checks.sample import small_problem
from hesscope.curvature.hessian import Hessian
from hesscope.examination.efforts import GRADIENTS_PER_MATVEC, EffortName
from hesscope.examination.quantities import cost_of
from hesscope.examination.question import asked
from hesscope.krylov.basis import Basis
from hesscope.problem.problem import Problem
from hesscope.quadrature import mass_bounds
from hesscope.results.result import Result
from hesscope.sampling.gradient import gradient_with_noise
from hesscope.system.contexts import public
from hesscope.system.memory import human

SWEEPS = 2.5  # readings of the Krylov basis per step: two, and a third where rounding asks for it
BOUNDS = 150  # mass bounds behind the counts of an examination
CERTIFICATES = 290  # evaluations of the run's polynomials behind its certificates
CHECK = 60.0  # gradients on a few examples that check_problem amounts to, products included
CHECK_DATA = 4.0  # and over all data: a gradient, three losses in float64
CHECK_MATVECS = 5  # that check_problem reports, on a few examples


@dataclass(frozen=True)
class Forecast(Result):
    """Cost of an examination, from one gradient and two products that were timed."""

    num_matvecs: int  # Hessian-vector products at most
    gradients: float  # all of the cost, in gradients of the mean loss
    seconds: float
    memory: int  # bytes that are kept: graphs and Krylov vectors; not what passes through products
    n: int
    effort: str
    products: str = ""  # how they are computed, where no graph is kept, and why

    def __str__(self) -> str:
        time = f"{self.seconds:.1f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        how = f"; {self.products}" if self.products else ""
        return (
            f"{self.effort}: at most {self.num_matvecs} matvecs, {self.gradients:.0f} gradients' "
            f"worth, about {time} and {human(self.memory)} for {self.n} parameters{how}"
        )


@public
def plan(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    lr: float | None = None,
    effort: EffortName = "standard",
    max_matvecs: int | None = None,
    batch_size: int | None = None,
    held_out: Problem | None = None,
    check: bool = True,
) -> Forecast:
    """What `diagnose` with the same arguments will cost: matvecs, time and memory.

    Times one gradient, the first product (which builds the kept graphs) and one more, a pass over
    some Krylov vectors, and the arithmetic behind one count; the rest is multiplication. Costs
    about 13 gradients.

    Raises:
        ValueError: as `diagnose`.

    >>> import torch, hesscope as hs
    >>> p = hs.Problem.from_function(lambda t: (t**2).sum(), torch.ones(3))
    >>> hs.plan(p, effort="quick").num_matvecs
    44
    """
    question = asked(optimizer, lr, effort, max_matvecs, batch_size=batch_size, held_out=held_out)
    cost, steps = cost_of(question), question.spending.survey
    H = Hessian(problem)
    v = H.probe(probes.key(0, "forecast"))
    first = _seconds(lambda: H @ v)
    product = sorted(_seconds(lambda: H @ v) for _ in range(3))[1]
    gradient = sorted(_seconds(problem.gradient) for _ in range(3))[1]
    in_parts = _seconds(lambda: gradient_with_noise(problem))  # many small gradients
    seconds = product * cost.matvecs + gradient * cost.gradients + in_parts * cost.parts
    seconds += first + _orthogonalising(H, steps) + _arithmetic(steps)
    if check:
        few = small_problem(problem).problem
        seconds += CHECK * _seconds(few.gradient) + CHECK_DATA * gradient
    vectors = steps + steps // 4
    element, facts = H.dtype.itemsize, H.facts()
    each, products = _products(facts)
    kept = int(facts["graph_bytes"]) if facts.get("graph") == "graph kept" else 0
    return Forecast(
        num_matvecs=cost.matvecs + CHECK_MATVECS * check,
        gradients=each * cost.matvecs + cost.gradients,
        seconds=seconds,
        memory=kept + vectors * H.n * element,
        n=H.n,
        effort=effort,
        products=products,
    )


def _products(facts: dict[str, Any]) -> tuple[float, str]:
    """What a product costs in gradients, and why it is not one with kept graphs, if so."""
    why = facts.get("why", "")
    if facts["product"] == "lean":
        return 4.0, f"lean products, for {why}"
    if facts.get("graph") == "graph rebuilt":
        return 3.0, f"graphs are rebuilt for every product, for {why}"
    return GRADIENTS_PER_MATVEC, ""


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _orthogonalising(H: Hessian, steps: int) -> float:
    """m steps read the j vectors so far: Σ_j j = m²/2 of them, a few times each."""
    basis = Basis(H)
    unit = H.probe(probes.key(0, "forecast"))
    unit = unit / float(unit.norm())
    some = min(8, steps)
    for _ in range(some):
        basis.append(unit)
    one_sweep = (
        min(
            _seconds(lambda: basis.combine(torch.ones(some, 1, dtype=torch.float64)))
            for _ in range(2)
        )
        / some
    )
    return SWEEPS * one_sweep * steps**2 / 2


def _arithmetic(steps: int) -> float:
    """Counts and certificates of a run: no products, but arithmetic on its coefficients."""
    alpha, beta = np.zeros(max(steps, 2)), np.ones(max(steps, 2))
    bound = min(_seconds(lambda: mass_bounds(alpha, beta, 0.5)) for _ in range(2))
    x = np.array([3.0])
    polynomials = min(_seconds(lambda: _recurrence(alpha, x)) for _ in range(2))
    return BOUNDS * bound + CERTIFICATES * polynomials


def _recurrence(alpha: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """The arithmetic of one evaluation, for its time."""
    current = np.ones_like(x)
    for a in alpha:
        current = np.where(np.abs(current) > 1e100, 1.0, (x - a) * current)
        np.log(np.abs(current) + 1.0)
