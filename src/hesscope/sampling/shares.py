"""Which examples cause the curvature along a vector: v'Hv as a sum over examples.

With outputs z of a batch and its mean loss L(z), example n owns the rows z_n, and along theta + ε v

    d²L/dε² = Σ_n [ z_n'·(∂²L/∂z² z')_n + (∂L/∂z)_n·z_n'' ],   z' = dz/dε, z'' = d²z/dε².

The terms are the examples' own second derivatives for any loss that is a mean over examples,
whatever their weights. q(u) = (Jᵀu)·v is linear in a cotangent u, with ∂q/∂u = z'; so is
r(u) = (∂q/∂theta)·v, with ∂r/∂u = z''. A constant number of backward passes gives the shares of all
examples of a batch at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import Jacobian, output_jacobian
from hesscope.curvature.hessian import Hessian
from hesscope.derivatives.by_autograd import hessian_product
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.results.sampling import Shares
from hesscope.sampling.parts import products_of
from hesscope.sampling.per_example import per_example
from hesscope.system import collectives

PASSES = 3.0  # what the shares of a vector cost, in products


def curvature_shares(problem: Problem, V: Tensor) -> Shares:
    """The shares of all examples, that is rows of the outputs, in v'Hv for each column of V.

    Where the outputs are not known (closures) or the model has no third derivative, every example
    is a batch of its own. Exact to rounding: the sums are compared with k products of H. Costs
    about 3k products, or N k products of single examples.

    Raises:
        ValueError: if single examples are needed and cannot be told apart, or do not add up.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> p = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, x))
    >>> curvature_shares(p, torch.ones(1, 1)).examples.flatten()  # 2 x²/N
    tensor([1., 9.], dtype=torch.float64)
    """
    truth = (V.double() * (Hessian(problem) @ V).double()).sum(0).cpu()
    shares, alone = per_example(
        problem,
        truth,
        lambda e, batch: _of_batch(problem, e, batch, V),
        lambda e, one: _of_example(e, one, V),
        "shares",
    )
    cost = float(shares.numel()) if alone else PASSES * V.shape[1]
    by_class, sizes = _by_class(problem, shares)
    return Shares(shares, by_class, sizes, cost + V.shape[1])


def _of_batch(problem: Problem, e: Evaluation, batch: Batch, V: Tensor) -> Tensor:
    """(rows of the outputs, k)."""
    J = output_jacobian(e, batch)
    assert problem.loss_fn is not None
    point = J.outputs.detach().requires_grad_()
    loss = problem.loss_fn(point, J.targets)
    (slope,) = torch.autograd.grad(loss, point, create_graph=True)
    weight = batch.count / e.num_items
    columns = []
    for v in V.unbind(1):
        first, second = _output_derivatives(J, problem.layout.split(v.contiguous()))
        bent = hessian_product(slope, point, first)
        terms = first.double() * bent.double() + slope.detach().double() * second.double()
        columns.append(weight * terms.reshape(len(terms), -1).sum(1))
    return torch.stack(columns, 1).cpu()


def _of_example(e: Evaluation, one: Batch, V: Tensor) -> Tensor:
    """(k,), without outputs."""
    return (V.double() * products_of(e, one, V).double()).sum(0)


def _output_derivatives(J: Jacobian, pieces: list[Tensor]) -> tuple[Tensor, Tensor]:
    """z' and z'' along v, given in the shapes of the parameters, each in the shape of z."""
    none = torch.zeros_like(J.cotangent)
    q = _dot(J.pulled_back, pieces)
    if q is None:
        return none, none
    (first,) = torch.autograd.grad(q, J.cotangent, retain_graph=True)
    back = torch.autograd.grad(
        q, J.leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    r = _dot(back, pieces)
    if r is None:
        return first, none
    (second,) = torch.autograd.grad(
        r, J.cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return first, second


def _dot(tensors: tuple[Tensor, ...], pieces: list[Tensor]) -> Tensor | None:
    """Σ_i t_i·v_i over the tensors that are no constants; None if there is none."""
    terms = [(t * v).sum() for t, v in zip(tensors, pieces, strict=True) if t.requires_grad]
    return torch.stack(terms).sum() if terms else None


def _by_class(problem: Problem, shares: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Sums of shares by label, (C, k), and the number of examples of each, over all processes."""
    labels, num = _labels(problem)
    unfit = len(labels) != len(shares) or not bool((labels < num).all())
    if collectives.sum_of_number(float(unfit)):
        return None, None
    counted = labels >= 0  # a negative label is one to ignore
    sums = torch.zeros(num, shares.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels[counted], shares[counted])
    sizes = torch.bincount(labels[counted], minlength=num).double()
    return collectives.sum_over_processes(sums), collectives.sum_over_processes(sizes)


_NO_LABELS = torch.zeros(0, dtype=torch.int64)


def _labels(problem: Problem) -> tuple[Tensor, int]:
    """The integer targets of all examples, if they are that, and the number of classes."""
    found, num = [], 0
    if problem.predict is None:
        return _NO_LABELS, 0
    with problem.evaluation() as e, torch.no_grad():
        for batch in e.batches:
            outputs, targets = e.predict(batch)
            if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
                return _NO_LABELS, 0
            if isinstance(outputs, Tensor) and outputs.ndim > 1:
                num = outputs.shape[1]
            found.append(targets.cpu().long())
    labels = torch.cat(found)
    alone = collectives.num_processes() == 1  # the classes of others are not known
    return labels, max(num, int(labels.max()) + 1) if alone else num
