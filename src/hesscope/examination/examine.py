"""The door for everybody: where am I, is my step right, and what is wrong with this training?"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from pathlib import Path

from torch.optim import Optimizer

from hesscope.checks.check_problem import check_problem
from hesscope.curvature.hessian import Hessian
from hesscope.diagnosis.judge import judge
from hesscope.examination.efforts import EffortName
from hesscope.examination.examination import Examination
from hesscope.examination.quantities import measure
from hesscope.examination.question import asked
from hesscope.operator.kept import KeptProducts
from hesscope.problem.problem import Problem
from hesscope.results.check import Check
from hesscope.results.measurements import Measurements
from hesscope.results.record import provenance
from hesscope.system import progress
from hesscope.system.contexts import public


@public
def diagnose(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    lr: float | None = None,
    effort: EffortName = "standard",
    max_matvecs: int | None = None,
    batch_size: int | None = None,
    gradient_tolerance: float = 0.0,
    seed: int | None = None,
    delta: float = 1e-3,
    held_out: Problem | None = None,
    scratch: str | Path | None = None,
    check: bool = True,
) -> Examination:
    """Says where a model stands and whether its step is right, with the evidence.

    `check_problem` comes first; a fault there stops the rest. Then the gradient with its noise over
    the data, and one Lanczos run for both ends of the spectrum, certificates, density, counts and
    conditioning; the optimiser's next update beside the curvature; layers, noise and smoothness.
    A quantity that cannot be measured leaves the verdicts that need it undecided, with the cause,
    and stops no other. `hs.plan` says beforehand what it will cost.

    Args:
        problem: what to look at, at its current parameters.
        optimizer: the one that trains the model: its real next update is judged, with momentum and
            preconditioner; it is not changed.
        lr: instead, the learning rate of plain gradient descent to be judged.
        effort: "quick" 39 matvecs, "standard" 105, "deep" 389 with data error bars of more pairs
            and other points around this one.
        max_matvecs: Hessian-vector products to spend at most, in place of the effort's.
        batch_size: of the training, for the verdicts on noise and, with an optimizer or lr, on the
            step: the limit of random batches then costs 40 to 70 products of Gauss-Newton more.
        gradient_tolerance: gradient norms below are called zero, besides rounding.
        seed: of all random starts; None draws a fresh one, which the record keeps.
        delta: probability that a certified statement is wrong.
        held_out: the same model and loss on data that it was not trained on: does what was learnt
            carry over? Costs a forward pass over that data.
        scratch: a folder that keeps the products of the Hessian and the seed, so that a look which
            was killed goes on from there, to the same numbers (`hs.as_operator`). Remove it
            afterwards.
        check: False leaves out `check_problem` (at most 30 gradients).

    Raises:
        ValueError: if lr, effort or max_matvecs is out of range, or the optimiser does not fit.
        RuntimeError: if the loss or a product is not finite.
        KeyboardInterrupt: before anything of use is known. Interrupted later, it warns and returns
            the verdicts on what was measured until then, marked as such.

    >>> import torch, hesscope as hs
    >>> saddle = hs.Problem.from_function(lambda t: t[0] ** 2 - t[1] ** 2, torch.zeros(2))
    >>> hs.diagnose(saddle).verdict("critical_point").claim
    'a strict saddle: there is no slope, but the loss falls along at least one direction'
    """
    if scratch is not None:
        kept = KeptProducts(Hessian(problem), scratch)
        seed = kept.drawn_seed(kept.seed_of_run(seed))
    question = asked(
        optimizer,
        lr,
        effort,
        max_matvecs,
        batch_size=batch_size,
        tolerance=gradient_tolerance,
        seed=seed,
        delta=delta,
        held_out=held_out,
    )
    question = replace(question, scratch=None if scratch is None else Path(scratch))
    started = time.perf_counter()
    found = Check(())
    if check:
        progress.report("checking the model", 0)
        found = check_problem(problem)
    if found.ok:
        look = measure(problem, question)
    else:
        look = Measurements({}, asked=question.given(), seed=question.seed, facts=problem.facts())
    look = replace(
        look,
        values={**look.values, "check": found},
        facts={**look.facts, "provenance": provenance()},
        num_matvecs=look.num_matvecs + found.num_matvecs,
        seconds=time.perf_counter() - started,
    )
    if look.interrupted:
        warnings.warn("interrupted: returning the verdicts on what was measured", stacklevel=4)
    return Examination(judge(look), look)
