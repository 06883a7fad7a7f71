"""The door for everybody: where am I, is my step right, and what is wrong with this training?"""

from __future__ import annotations

import math
import time

from torch.optim import Optimizer

from hesscope.checks.check_problem import check_problem
from hesscope.diagnosis.conditioning import conditioning
from hesscope.diagnosis.convexity import convexity
from hesscope.diagnosis.critical_point import critical_point
from hesscope.diagnosis.layers import layers
from hesscope.diagnosis.noise import noise
from hesscope.diagnosis.outliers import outliers
from hesscope.diagnosis.smoothness import smoothness
from hesscope.diagnosis.step_size import step_size
from hesscope.examination.examination import Examination
from hesscope.examination.levels import LEVELS, LevelName, spending
from hesscope.examination.measure import Measurements, Question, measure
from hesscope.problem.problem import Problem
from hesscope.results.check import Check
from hesscope.results.verdict import Verdict
from hesscope.system import progress

ADAPTIVE = ("Adam", "AdamW", "RMSprop", "Adagrad")


def diagnose(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    lr: float | None = None,
    level: LevelName = "standard",
    budget: int | None = None,
    batch_size: int | None = None,
    gradient_tolerance: float = 0.0,
    seed: int = 0,
    delta: float = 1e-3,
    check: bool = True,
) -> Examination:
    """Says where a model stands and whether its step is right, with the evidence.

    `check_problem` comes first; a fault there stops the rest. Then the gradient with its noise over
    the data, and one Lanczos run for both ends of the spectrum, certificates, density, counts and
    conditioning; the optimiser's next update beside the curvature; layers, noise and smoothness.
    `hs.plan` says beforehand what it will cost.

    Args:
        problem: what to look at, at its current parameters.
        optimizer: the one that trains the model: its real next update is judged, with momentum and
            preconditioner; it is not changed.
        lr: instead, the learning rate of plain gradient descent to be judged.
        level: "quick" 40 matvecs, "standard" 110, "deep" 400 with data error bars of more pairs
            and other points around this one.
        budget: Hessian-vector products to spend at most, in place of the level's.
        batch_size: of the training, for the verdict on noise.
        gradient_tolerance: gradient norms below are called zero, besides rounding.
        seed: of all random starts.
        delta: probability that a certified statement is wrong.
        check: False leaves out `check_problem` (about 20 gradients on 8 examples).

    Raises:
        ValueError: if lr, level or budget is out of range, or the optimiser does not fit.
        RuntimeError: if the loss or a product is not finite.

    >>> import torch, hesscope as hs
    >>> saddle = hs.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2))
    >>> hs.diagnose(saddle).verdict("minimum?").claim
    'a strict saddle: a direction of negative curvature leads down'
    """
    question = asked(optimizer, lr, level, budget, gradient_tolerance, seed, delta)
    started = time.perf_counter()
    found = Check(())
    if check:
        progress.report("checking the model", 0)
        found = check_problem(problem)
        if not found.ok:
            return _faulty(problem, found, seed, time.perf_counter() - started)
    measured = measure(problem, question)
    return Examination(
        verdicts=judge(problem, measured, batch_size),
        results={**measured.results, "check": found},
        num_matvecs=measured.num_matvecs + found.num_matvecs,
        seconds=time.perf_counter() - started,
        seed=seed,
        gradients=measured.gradients,
        facts=measured.pairs.facts,
    )


def asked(
    optimizer: Optimizer | None,
    lr: float | None,
    level: LevelName,
    budget: int | None,
    tolerance: float = 0.0,
    seed: int = 0,
    delta: float = 1e-3,
) -> Question:
    """The arguments as a question, with the products shared out.

    Raises:
        ValueError: if one is out of range.
    """
    if lr is not None and not lr > 0:
        msg = f"lr={lr} is not a positive learning rate; give the lr of your optimiser."
        raise ValueError(msg)
    if lr is not None and optimizer is not None:
        msg = "give the optimizer, whose lr is known, or lr for plain gradient descent, not both."
        raise ValueError(msg)
    if level not in LEVELS:
        msg = f"level={level!r}; choose 'quick', 'standard' or 'deep'."
        raise ValueError(msg)
    parts = spending(
        LEVELS[level],
        budget,
        updated=optimizer is not None,
        adaptive=type(optimizer).__name__ in ADAPTIVE,
    )
    return Question(LEVELS[level], parts, optimizer, lr, tolerance, seed, delta)


def judge(
    problem: Problem, measured: Measurements, batch_size: int | None = None
) -> tuple[Verdict, ...]:
    """All verdicts, from the numbers."""
    m, results = measured, measured.results
    critical = m.descent.gradient_norm <= max(m.descent.rounding, m.descent.tolerance)
    along = math.nan if critical else m.step.g_dot_Hg / m.step.g_dot_g
    verdicts = [
        critical_point(m.descent, m.curvature),
        step_size(m.step),
        conditioning(
            results["condition"],
            m.gradient_in_top,
            (len(m.pairs) + 1) // 2,
            lr=None if m.step.adaptive else m.step.lr,
            gradient_curvature=along,
            feature_ratio=m.feature_ratio,
        ),
        layers(results["layers"]),
        noise(
            m.descent.gradient_norm,
            m.noise,
            problem.count,
            batch_size,
            results.get("data error bars"),
        ),
        convexity(m.curvature, probes=results.get("other points")),
    ]
    if "outliers" in results:
        verdicts.append(outliers(results["outliers"]))
    if "smoothness" in results:
        verdicts.append(smoothness(results["smoothness"]))
    return tuple(verdicts)


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
        (verdict,), {"check": found}, found.num_matvecs, seconds, seed, facts=problem.facts()
    )
