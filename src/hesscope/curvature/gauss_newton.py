"""Positive semidefinite relatives of the Hessian: mean over items of Jᵀ M J, M an output metric.

With M the Hessian of the loss in the outputs this is the generalised Gauss-Newton matrix
(Schraudolph 2002); the Fisher matrices in `fisher.py` differ in M alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import Jacobian, output_jacobian
from hesscope.autodiff.kept import KeptGraphs
from hesscope.curvature.double import error_of_product
from hesscope.curvature.shared import SharedOperator
from hesscope.curvature.square_root import gram_matrix, num_square_root_rows
from hesscope.operator import SpectralForm
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.losses import Differentiated, known_loss
from hesscope.problem.problem import Problem
from hesscope.system import collectives

Metric = Callable[[Tensor], Tensor]  # on output rows (items, C)


class OutputMetricOperator(SharedOperator):
    """Σ_n w_n J_nᵀ M_n J_n over the items n of all batches, with weights that add up to one.

    A product costs one pass through each of two kept graphs, about 1.4 gradients.
    """

    def __init__(self, problem: Problem, *, memory: int | None = None) -> None:
        self.loss = known_loss(problem, type(self).__name__)
        super().__init__(problem)
        # The known families are convex in the outputs; of a loss of the user's own nobody knows.
        self.positive_semidefinite = not isinstance(self.loss, Differentiated)
        self.graphs = KeptGraphs(problem, self._build, lambda kept: kept[0].kept_bytes(), memory)

    @abstractmethod
    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:
        """The function U -> (M_n u_n)_n on the output rows of a batch."""

    def measured_noise(self, v: Tensor) -> float:
        """‖A v - A₆₄ v‖ on at most 128 examples, for a problem that is not in float64."""
        return error_of_product(self.problem, type(self), v, own=self)

    def matmat(self, V: Tensor) -> Tensor:
        """The product with V of shape (n, k); graphs are built once for all columns."""
        return self.graphs.mean(lambda kept: self._columns(*kept, V), V)

    def facts(self) -> dict[str, Any]:
        """The facts of the operator, the problem and the kept graphs."""
        return {
            **super().facts(),
            **self.problem.facts(),
            "product": "Jacobian by double backward",
            **self.graphs.facts(),
        }

    def _build(self, e: Evaluation, batch: Batch) -> tuple[Jacobian, Metric]:
        J = output_jacobian(e, batch)
        self.graphs.note_calls(J.calls)
        z = J.outputs.detach()
        metric = self.metric(z, J.targets, batch)
        weights = self.loss.weights(z, J.targets)[:, None]
        return J, lambda U: weights * metric(U)

    def _columns(self, J: Jacobian, metric: Metric, V: Tensor) -> Tensor:
        columns = [self._product(J, metric, v) for v in V.unbind(1)]
        return torch.stack(columns, 1) if len(columns) > 1 else columns[0][:, None]

    def _product(self, J: Jacobian, metric: Metric, v: Tensor) -> Tensor:
        Jv = J.forward(self.problem.layout.split(v.contiguous()))
        return J.transposed(self.loss.outputs(metric(self.loss.rows(Jv)), Jv))


class GaussNewton(OutputMetricOperator):
    """G = mean over items of Jᵀ (∂²ℓ/∂z²) J: positive semidefinite for a loss convex in z.

    H = G + R, where R = Σ_c ∂ℓ/∂z_c ∂²z_c/∂theta² (the residual, `Hessian(p) - GaussNewton(p)`)
    vanishes for models linear in theta and where the loss is flat in the outputs. Exact to
    rounding; a product costs about 1.4 gradients (Hessian: 2). The output Hessian is in closed
    form for cross-entropy (class weights, ignored labels, smoothing), squared error and the
    logistic loss, and by autograd for any other loss of (outputs, targets).

    Args:
        problem: made with `Problem(model, loss_fn, data)`; closures do not tell outputs apart.
        memory: bytes that kept graphs may take; by default 40 % of what is free.

    Raises:
        ValueError: if the problem has no outputs, or its loss is piecewise linear in them.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> problem = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, x))
    >>> hs.GaussNewton(problem).to_dense()  # 2 mean(x²), the Hessian itself: R = 0
    tensor([[10.]])
    """

    def metric(self, outputs: Tensor, targets: Any, batch: Batch) -> Metric:  # noqa: ARG002
        """∂²ℓ/∂z²."""
        return self.loss.curvature(outputs, targets)

    def spectral_form(self) -> SpectralForm:
        """The Gram matrix of the square-root columns, where it is smaller than G.

        Of several processes each has the rows of its own examples only, and G comes from products.
        """
        alone = collectives.num_processes() == 1
        rows = num_square_root_rows(self.problem) if alone else self.n
        if rows >= self.n:
            return super().spectral_form()
        return SpectralForm(
            size=rows,
            assemble=lambda: gram_matrix(self.problem, rows),
            how=f"Gram matrix of {rows} rows of the Jacobian",
            zeros={"more parameters than rows of the Jacobian": self.n - rows},
        )
