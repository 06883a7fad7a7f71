"""The curvature of random batches along their own gradients."""

from __future__ import annotations

import math

import torch

from hesscope import probes
from hesscope.curvature.hessian import Hessian
from hesscope.problem.problem import Problem
from hesscope.results.estimate import Estimate
from hesscope.sampling.parts import examples_of
from hesscope.system import progress
from hesscope.system.contexts import public


@public
def batch_sharpness(
    problem: Problem, batch_size: int, *, num_batches: int = 32, seed: int = 0
) -> Estimate:
    """E g_B·H_B g_B / E g_B·g_B over random batches B of one size, with its standard error.

    Plain SGD was seen to hover where this is 2/lr (Andreyev and Beneventano 2024, "Edge of
    stochastic stability"), as full-batch descent does where λmax is. It tells where training has
    come to, not where it breaks: it looks along the gradients of now, on whichever side of λmax
    that may be. `batch_stability` is the limit.

    The standard error is that of a ratio of two means (the delta method) over `num_batches`
    batches, drawn independently of each other, each without replacement.

    Costs num_batches·B/N products and half as many gradients.

    Raises:
        ValueError: if batch_size or num_batches is out of range, or examples cannot be told apart.
        RuntimeError: if the gradient is zero on all batches.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [2.0]]).double()
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> problem = hs.Problem(model, torch.nn.MSELoss(), (x, 0 * x))
    >>> hs.batch_sharpness(problem, 2).value  # one batch is all there is: 2 mean(x²)
    5.0
    """
    if num_batches < 2:
        msg = f"num_batches={num_batches}; a spread needs two batches at least, 32 are usual."
        raise ValueError(msg)
    slopes, curvatures = [], []
    for i in range(num_batches):
        batch = problem.subsample(batch_size, seed=probes.key(seed, "batch", i))
        g = batch.gradient()
        slopes.append(float(g.double() @ g.double()))
        curvatures.append(float(g.double() @ (Hessian(batch) @ g).double()))
        progress.report("batch sharpness: batches", i + 1, num_batches)
    below, above = torch.tensor([slopes, curvatures], dtype=torch.float64)
    if not float(below.mean()) > 0:
        msg = "the gradient of every batch is zero, so there is no direction to look along."
        raise RuntimeError(msg)
    ratio = float(above.mean() / below.mean())
    spread = float((above - ratio * below).std()) / float(below.mean())
    return Estimate(
        value=ratio,
        stderr=spread / math.sqrt(num_batches),
        num_matvecs=math.ceil(num_batches * batch_size / examples_of(problem)),
        degrees=num_batches - 1,
    )
