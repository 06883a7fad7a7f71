"""An examination: measures a problem within a budget of matvecs and lets diagnosis judge.

One Lanczos run serves both ends of the spectrum and their certificates.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesscope import progress, report
from hesscope.curvature.checks import check_problem
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.sampling import gradient_with_noise
from hesscope.diagnosis.critical_point import Curvature, critical_point, definiteness
from hesscope.diagnosis.step_size import step_size
from hesscope.linalg.eigsh import NOISE, eigsh
from hesscope.problem.problem import Problem
from hesscope.results import record
from hesscope.results.check import Check
from hesscope.results.spectrum import Eigenpairs
from hesscope.results.verdict import Verdict


@record.savable
@dataclass(frozen=True)
class Examination:
    """The verdicts on a problem, the results that they rest on, and what it all cost."""

    verdicts: tuple[Verdict, ...]
    results: dict[str, Any]
    num_matvecs: int
    seconds: float
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """True when no verdict calls for action."""
        return not any(verdict.finding for verdict in self.verdicts)

    def verdict(self, name: str) -> Verdict:
        """The verdict of this name.

        Raises:
            ValueError: if there is none.
        """
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        msg = f"no verdict {name!r}; there are {', '.join(repr(v.name) for v in self.verdicts)}."
        raise ValueError(msg)

    def save(self, folder: str | Path) -> Path:
        """Writes the examination to a folder, from which `hesscope.load` reads it.

        Raises:
            RuntimeError: if the folder cannot be written.
        """
        return record.save(self, folder)

    def to_html(self, path: str | Path) -> Path:
        """Writes one self-contained page: verdicts, figures, numbers, cost and provenance.

        Raises:
            RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
        """
        return report.write(path, "hesscope examination", self.verdicts, self.results, self.cost())

    def __str__(self) -> str:
        lines = [str(verdict) for verdict in self.verdicts]
        return "\n".join([*lines, self.cost()])

    def cost(self) -> str:
        """What it took, in one line."""
        facts = self.facts
        return (
            f"{self.num_matvecs} matvecs, {self.seconds:.1f} s, seed {self.seed}, "
            f"{facts.get('items', 0):g} items, n = {facts.get('n', 0)}, {facts.get('dtype', '')}, "
            f"{facts.get('mode', '')}"
        )


def diagnose(
    problem: Problem,
    *,
    lr: float | None = None,
    budget: int = 150,
    top: int = 6,
    gradient_tolerance: float = 0.0,
    seed: int = 0,
    delta: float = 1e-3,
    check: bool = True,
) -> Examination:
    """Says where a model stands and whether its step is right, with the evidence.

    `check_problem` comes first; a fault there stops the rest. Then the gradient with its noise
    over the data, and one Lanczos run for both ends of the spectrum: λmax and λmin with residual
    intervals, and certified bounds.

    Args:
        problem: what to look at, at its current parameters.
        lr: the learning rate of plain gradient descent to be judged.
        budget: Hessian-vector products to spend at most (an HVP costs about two gradients).
        top: eigenvalues to ask for, half of them from each end.
        gradient_tolerance: gradient norms below are called zero, besides rounding.
        seed: of all random starts.
        delta: probability that a certified statement is wrong.
        check: False leaves out `check_problem` (about 20 gradients on 8 examples).

    Raises:
        ValueError: if lr or budget is not positive.
        RuntimeError: if the loss or a product is not finite.

    >>> import torch, hesscope as hs
    >>> saddle = hs.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2))
    >>> hs.diagnose(saddle).verdict("minimum?").claim
    'a strict saddle: a direction of negative curvature leads down'
    """
    if lr is not None and not lr > 0:
        msg = f"lr={lr} is not a positive learning rate; give the lr of your optimiser."
        raise ValueError(msg)
    if budget < 4:
        msg = f"budget={budget} matvecs is too little to say anything; the usual is 150."
        raise ValueError(msg)
    started = time.perf_counter()
    found = Check(())
    if check:
        progress.report("checking the model", 0)
        found = check_problem(problem)
        if not found.ok:
            return _faulty(problem, found, seed, time.perf_counter() - started)
    H = Hessian(problem)
    pairs = eigsh(
        H,
        k=min(top, problem.n),
        which="BE" if problem.n > 1 else "LA",
        tol=1e-2,
        verify=False,
        max_matvecs=budget - 1,
        seed=seed,
        delta=delta,
    )
    loss = problem.loss()
    return Examination(
        verdicts=_verdicts(problem, H, pairs, loss, lr, gradient_tolerance),
        results={"loss": loss, "check": found, "eigenpairs": pairs},
        num_matvecs=pairs.num_matvecs + found.num_matvecs + 1,
        seconds=time.perf_counter() - started,
        seed=seed,
        facts=H.facts(),
    )


def _verdicts(
    problem: Problem,
    H: Hessian,
    pairs: Eigenpairs,
    loss: float,
    lr: float | None,
    tolerance: float,
) -> tuple[Verdict, ...]:
    """The gradient with its noise, one product along it, and what all of it means."""
    progress.report("gradient", 0)
    gradient, noise = gradient_with_noise(problem)
    ends = _ends(H, pairs)
    g_dot_g, g_dot_Hg = _along(H, gradient)
    change = math.nan if lr is None else _change(problem, gradient, lr, loss)
    rounding = 10 * _eps(problem) * ends.lambda_max * float(problem.theta.norm())
    return (
        critical_point(math.sqrt(g_dot_g), noise, rounding, tolerance, ends),
        definiteness(ends),
        step_size(g_dot_g, g_dot_Hg, ends.lambda_max, ends.lambda_max_error, lr, change),
    )


def _faulty(problem: Problem, found: Check, seed: int, seconds: float) -> Examination:
    fault = found.faults[0]
    verdict = Verdict(
        name="model fault",
        claim=f"{fault.name}: {fault.cause}",
        confidence="measured",
        advice=fault.cure,
        source="hesscope.check_problem",
        finding=True,
    )
    return Examination(
        (verdict,), {"check": found}, found.num_matvecs, seconds, seed, problem.facts()
    )


def _ends(H: Hessian, pairs: Eigenpairs) -> Curvature:
    values, errors = pairs.eigenvalues, pairs.residuals
    size = float(values.abs().max())
    return Curvature(
        lambda_max=float(values[0]),
        lambda_max_error=float(errors[0]),
        lambda_min=float(values[-1]),
        lambda_min_error=float(errors[-1]),
        lower=pairs.certificate.lower,
        upper=pairs.certificate.upper,
        noise=NOISE * float(torch.finfo(H.dtype).eps) * size,
        delta=pairs.certificate.delta,
    )


def _along(H: Hessian, gradient: Tensor) -> tuple[float, float]:
    """g·g and g·Hg; one matvec."""
    g = gradient[:, None]
    return float(H.inner(g, g)), float(H.inner(g, H.matmat(g)))


def _change(problem: Problem, gradient: Tensor, lr: float, loss: float) -> float:
    """L(θ - lr g) - L(θ), infinite where the step leaves the finite losses."""
    try:
        return problem.at(problem.theta - lr * gradient).loss() - loss
    except RuntimeError:
        return math.inf


def _eps(problem: Problem) -> float:
    return float(torch.finfo(problem.dtype).eps)
