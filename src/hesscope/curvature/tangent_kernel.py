"""The tangent kernel J Jᵀ, and the exact spectrum of Gauss-Newton through a Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import Jacobian, output_jacobian
from hesscope.autodiff.kept import KeptGraphs
from hesscope.curvature.gauss_newton import GaussNewton
from hesscope.curvature.square_root import num_square_root_rows
from hesscope.dense.spectrum import spectrum
from hesscope.operator import SymmetricOperator
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.problem import Problem
from hesscope.results.spectrum import Spectrum
from hesscope.system import collectives
from hesscope.system.contexts import public


class TangentKernel(SymmetricOperator):
    """K = J Jᵀ over (example, output) pairs, (N·C, N·C): the empirical neural tangent kernel.

    Rows are ordered by batch, example, output. Not divided by N. Costs one pass of Jᵀ and one of
    J over all data, about 1.4 gradients per product (Jacot, Gabriel and Hongler 2018).

    Raises:
        ValueError: if the problem has no outputs, or processes share the data: rows and columns
            are those of pairs of examples, which would have to meet.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> p = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, x))
    >>> hs.TangentKernel(p).to_dense()
    tensor([[1., 3.],
            [3., 9.]])
    """

    positive_semidefinite = True

    def __init__(self, problem: Problem, *, memory: int | None = None) -> None:
        collectives.refuse_several("the tangent kernel")
        self.problem = problem
        self.graphs = KeptGraphs(problem, self._build, Jacobian.kept_bytes, memory)
        self.sizes = [J.outputs.numel() for _, J in self.graphs.each()]
        super().__init__(sum(self.sizes), dtype=problem.dtype, device=problem.device)

    @property
    def precision(self) -> torch.dtype:
        """The dtype with the fewest digits between theta and the loss."""
        return self.problem.weakest

    def matmat(self, V: Tensor) -> Tensor:
        """J (Jᵀ V): the vector of parameters is summed over all batches in between."""
        return torch.stack([self._product(v) for v in V.unbind(1)], 1)

    def _build(self, e: Evaluation, batch: Batch) -> Jacobian:
        J = output_jacobian(e, batch)
        self.graphs.note_calls(J.calls)
        return J

    def _product(self, v: Tensor) -> Tensor:
        w = torch.zeros(self.problem.n, dtype=self.dtype, device=self.device)
        for (_, J), part in zip(self.graphs.each(), v.split(self.sizes), strict=True):
            w += J.transposed(part.view_as(J.outputs))
        pieces = self.problem.layout.split(w)
        return torch.cat([J.forward(pieces).reshape(-1) for _, J in self.graphs.each()])


@public
def gram_spectrum(problem: Problem) -> Spectrum:
    """The exact spectrum of Gauss-Newton, from the Gram matrix of its M square-root columns.

    M = N (C - 1) for softmax cross-entropy over C classes, N C for other losses of C outputs. The
    non-zero eigenvalues are those of the Gram matrix; the other n - M are exact zeros. Costs M
    rows of the Jacobian, M n numbers of memory, and an eigenvalue problem of size M; each value is
    off by at most eps·√M·λmax.

    Raises:
        ValueError: if M exceeds n, or the rows do not fit in the free memory.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0, 2.0, 2.0]])
    >>> p = hs.Problem(torch.nn.Linear(3, 1, bias=False), torch.nn.MSELoss(), (x, x[:, :1]))
    >>> hs.gram_spectrum(p).eigenvalues.round(decimals=4)  # 2 |x|²
    tensor([ 0.,  0., 18.], dtype=torch.float64)
    """
    rows = int(collectives.sum_of_number(num_square_root_rows(problem)))
    if rows > problem.n:
        msg = (
            f"the Gram matrix would have {rows} rows, more than the {problem.n} parameters; "
            "use hs.spectrum(hs.GaussNewton(problem))."
        )
        raise ValueError(msg)
    return spectrum(GaussNewton(problem))
