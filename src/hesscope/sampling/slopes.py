"""The slope of the loss of each example along a few vectors, from the outputs of whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import output_jacobian
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.sampling.shares import DO_NOT_ADD_UP, adds_up, single_examples
from hesscope.system import collectives, progress


def slopes_along(problem: Problem, V: Tensor) -> Tensor:
    """w_n g_n·v for every example n (a row of the outputs) and column v of V, (N, k) in float64.

    With w_n the weight of the example in the mean loss and g_n its gradient, so that columns add up
    to g·v, which is checked. (∂L/∂z)_n·(J v)_n from one product with the Jacobian a column; of a
    closure, from the gradient of every example. Costs a gradient and about .7 k gradients, or those
    of N single examples.

    Raises:
        ValueError: if single examples are needed and cannot be told apart, or do not add up.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> p = hs.Problem(model, torch.nn.MSELoss(), (x, x))
    >>> slopes_along(p, torch.ones(1, 1)).flatten()  # -2 x²/N
    tensor([-1., -9.], dtype=torch.float64)
    """
    truth = (V.double() * problem.gradient().double()[:, None]).sum(0).cpu()
    slopes = _all_at_once(problem, V)
    if not adds_up(slopes, truth, V.dtype):
        slopes = torch.cat(list(_one_by_one(problem, V)))
        if not adds_up(slopes, truth, V.dtype):
            raise ValueError(DO_NOT_ADD_UP)
    assert slopes is not None
    return slopes


def _all_at_once(problem: Problem, V: Tensor) -> Tensor | None:
    """(N, k) from the outputs; None where they are not known, if only in another process."""
    parts: list[Tensor] = []
    failed = problem.loss_fn is None
    try:
        with problem.evaluation() as e:
            for batch in () if failed else e.batches:
                parts.append(_of_batch(problem, e, batch, V))
                progress.report("slopes: batches", len(parts), len(problem.batches))
    except (RuntimeError, ValueError):  # outputs that are no tensor, or no memory for them
        failed = True
    return None if collectives.sum_of_number(float(failed)) else torch.cat(parts)


def _of_batch(problem: Problem, e: Evaluation, batch: Batch, V: Tensor) -> Tensor:
    J = output_jacobian(e, batch)
    assert problem.loss_fn is not None
    point = J.outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(problem.loss_fn(point, J.targets), point)
    weight = batch.count / e.num_items
    columns = []
    for v in V.unbind(1):
        along = J.forward(problem.layout.split(v.contiguous())).double() * slope.double()
        columns.append(weight * along.reshape(len(along), -1).sum(1))
    return torch.stack(columns, 1).cpu()


def _one_by_one(problem: Problem, V: Tensor) -> Iterator[Tensor]:
    """(1, k) for each example, as a batch of its own."""
    with problem.evaluation() as e:
        for batch in e.batches:
            for content in single_examples(batch):
                count = float(problem.batches.count_of(content))
                slope = torch.zeros(1, V.shape[1], dtype=torch.float64)
                if count > 0:
                    gradient = e.gradient(Batch(batch.index, content, count)).double()
                    slope[0] = (gradient @ V.double()).cpu()
                yield count / e.num_items * slope
