"""Parts of a measurement that are timed, to be multiplied with how often they are done."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from hesscope import probes
from hesscope.krylov.basis import Basis
from hesscope.krylov.lanczos import Lanczos, Start
from hesscope.operator import SymmetricOperator
from hesscope.operator.door import Function
from hesscope.quadrature import mass_bounds

SWEEPS = 2.5  # readings of the Krylov basis per step: two, and a third where rounding asks for it
BOUNDS = 150  # mass bounds behind the counts of an examination
CERTIFICATES = 290  # evaluations of the run's polynomials behind its certificates
clock = time.perf_counter


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, by the clock on the wall."""
    started = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def orthogonalising(H: SymmetricOperator, steps: int, locked: int = 0) -> float:
    """m steps read the j vectors so far: Σ_j j = m²/2 of them, a few times each; and their ends.

    A step besides passes over a few vectors, whatever j. Each vector that is locked, and its
    residual, are made of all m.
    """
    some = min(8, steps)
    A = Function(lambda V: V * weights[:, None], H.n, H.dtype, H.device)
    weights = torch.linspace(1, 2, H.n, dtype=H.dtype, device=H.device)
    run = Lanczos(A, Start(H.probe(probes.key(0, "forecast")), 0.0), Basis(A))
    took: list[float] = []
    while len(took) < some and not run.exhausted:
        took.append(seconds(run.step))
    coefficients = np.ones((run.num_steps, 1))
    sweep = min(seconds(lambda: run.vectors(coefficients)) for _ in range(2)) / run.num_steps
    of_few = SWEEPS * sweep * (len(took) - 1) / 2
    apart = max(0.0, sorted(took)[len(took) // 2] - of_few)
    return apart * steps + SWEEPS * sweep * steps**2 / 2 + 2 * locked * sweep * steps


def arithmetic(steps: int) -> float:
    """Counts and certificates of a run: no products, but arithmetic on its coefficients."""
    alpha, beta = np.zeros(max(steps, 2)), np.ones(max(steps, 2))
    bound = min(seconds(lambda: mass_bounds(alpha, beta, 0.5)) for _ in range(2))
    x = np.array([3.0])
    polynomials = min(seconds(lambda: _recurrence(alpha, x)) for _ in range(2))
    return BOUNDS * bound + CERTIFICATES * polynomials


def _recurrence(alpha: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """The arithmetic of one evaluation, for its time."""
    current = np.ones_like(x)
    for a in alpha:
        current = np.where(np.abs(current) > 1e100, 1.0, (x - a) * current)
        np.log(np.abs(current) + 1.0)
