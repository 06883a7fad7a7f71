"""Which learning rate to try, measured: the numbers of a quick look that it rests on."""

from __future__ import annotations

from dataclasses import replace

from torch.optim import Optimizer

from hesscope.diagnosis.learning_rate import learning_rate
from hesscope.examination.batches import batch_stability
from hesscope.examination.gradients import gradient_noise
from hesscope.examination.look import Look
from hesscope.examination.motion import step
from hesscope.examination.question import asked
from hesscope.problem.problem import Problem
from hesscope.results.learning_rate import LearningRate
from hesscope.sampling.parts import num_units, unit_of
from hesscope.system.contexts import public


@public
def suggest_lr(
    problem: Problem,
    optimizer: Optimizer | None = None,
    batch_size: int | None = None,
    *,
    max_matvecs: int | None = None,
    seed: int | None = None,
) -> LearningRate:
    """A learning rate to try, from the curvature and the noise of the gradient where θ is now.

    Half of the largest lr at which repeated steps of this optimiser are stable (2/λmax for gradient
    descent; momentum, preconditioner and weight decay counted in: `hs.diagnose`), with the noise of
    batches where it can be had (`hs.batch_stability`); or, if that is less, the lr at which one
    step on such batches is expected to lower the loss most (McCandlish et al. 2018). It is the
    number that `hs.diagnose` and its advice give, and holds here and now: λmax grows in training,
    up to where the steps hover at their limit, and falls while a warm-up raises the lr.

    Args:
        problem: whose loss is trained, at its current parameters.
        optimizer: that trains; by default plain gradient descent. An adaptive one needs a few steps
            made, else only its next step counts. The lr is what multiplies its gradient: that of
            the group with the largest, times 1 minus the dampening.
        batch_size: examples in a batch, drawn at random; by default all data.
        max_matvecs: Hessian-vector products at most, 40 by default, and 12 for a preconditioner.
        seed: of the random starts.

    Costs those products, 2 to 3 gradients, and with batches at most 42 products of Gauss-Newton.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: if the loss or a product is not finite, or the optimiser does not fit.

    >>> import torch, hesscope as hs
    >>> bowl = hs.Problem.from_function(lambda t: t[0] ** 2 + 4 * t[1] ** 2, torch.ones(2))
    >>> found = hs.suggest_lr(bowl)  # λmax = 8: stable below 1/4
    >>> round(found.lr, 4), found.limited_by
    (0.125, 'the sharpest direction')
    """
    question = asked(optimizer, None, "quick", max_matvecs, batch_size=batch_size, seed=seed)
    look = Look(problem, question)
    made = look.of(step)
    batches = None
    if batch_size is not None:
        other = look if optimizer is not None else Look(problem, replace(question, lr=1.0))
        batches = other.maybe(batch_stability)
        look.gradients += other.gradients if other is not look else 0.0
    size = batch_size if unit_of(problem) == "examples" else None
    found = learning_rate(made, look.of(gradient_noise), num_units(problem), size, batches)
    return replace(found, num_matvecs=look.num_matvecs, num_gradients=look.gradients)
