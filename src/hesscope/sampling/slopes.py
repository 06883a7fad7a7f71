"""The slope of the loss of each example along a few vectors, from the outputs of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import output_jacobian
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.sampling.per_example import per_example


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
    slopes, _ = per_example(
        problem,
        truth,
        lambda e, batch: _of_batch(problem, e, batch, V),
        lambda e, one: e.gradient(one).double() @ V.double(),
        "slopes",
    )
    return slopes


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
