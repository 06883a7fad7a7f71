"""The tangent kernel J Jᵀ, and the exact spectrum of Gauss-Newton through its Gram matrix.

G = A Aᵀ with columns A = √w_n J_nᵀ R_n, where R_n R_nᵀ is the output Hessian of item n. The Gram
matrix AᵀA has the same non-zero eigenvalues and is smaller than n x n when N (C - 1) < n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope import progress
from hesscope.curvature.gauss_newton import GaussNewton, known_loss
from hesscope.curvature.jacobian import Jacobian, output_jacobian, single_examples
from hesscope.curvature.kept import KeptGraphs
from hesscope.memory import available_bytes, human
from hesscope.operator import SymmetricOperator
from hesscope.problem.data import Batch
from hesscope.problem.losses import OutputLoss
from hesscope.problem.problem import Problem
from hesscope.results.spectrum import Spectrum


class TangentKernel(SymmetricOperator):
    """K = J Jᵀ over (example, output) pairs, (N·C, N·C): the empirical neural tangent kernel.

    Rows are ordered by batch, example, output. Not divided by N. Costs one pass of Jᵀ and one of
    J over all data, about 1.4 gradients per product (Jacot, Gabriel and Hongler 2018).

    Raises:
        ValueError: if the problem has no outputs.

    >>> import torch, hesscope as hs
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> p = hs.Problem(torch.nn.Linear(1, 1, bias=False), torch.nn.MSELoss(), (x, x))
    >>> hs.TangentKernel(p).to_dense()
    tensor([[1., 3.],
            [3., 9.]])
    """

    def __init__(self, problem: Problem, *, memory: int | None = None) -> None:
        self.problem = problem
        self.graphs = KeptGraphs(problem, self._build, Jacobian.kept_bytes, memory)
        self.sizes = [J.outputs.numel() for _, J in self.graphs.each()]
        super().__init__(sum(self.sizes), dtype=problem.dtype, device=problem.device)

    def matmat(self, V: Tensor) -> Tensor:
        """J (Jᵀ V): the vector of parameters is summed over all batches in between."""
        return torch.stack([self._product(v) for v in V.unbind(1)], 1)

    def _build(self, batch: Batch, leaves: list[Tensor]) -> Jacobian:
        J = output_jacobian(self.problem, batch, leaves)
        self.graphs.note_calls(J.calls)
        return J

    def _product(self, v: Tensor) -> Tensor:
        w = torch.zeros(self.problem.n, dtype=self.dtype, device=self.device)
        for (_, J), part in zip(self.graphs.each(), v.split(self.sizes), strict=True):
            w += J.transposed(part.view_as(J.outputs))
        pieces = self.problem.layout.split(w)
        return torch.cat([J.forward(pieces).reshape(-1) for _, J in self.graphs.each()])


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
    rows = square_root_rows(problem)
    eigenvalues = torch.linalg.eigvalsh(_gram(rows)).clamp_min(0).cpu()
    zeros = torch.zeros(problem.n - len(eigenvalues), dtype=torch.float64)
    eps = torch.finfo(problem.dtype).eps
    return Spectrum(
        eigenvalues=torch.cat([zeros, eigenvalues]),
        error=eps * len(rows) ** 0.5 * float(eigenvalues[-1]),
        num_matvecs=len(rows),
        facts={**GaussNewton(problem).facts(), "product": f"Gram matrix of {len(rows)} rows"},
    )


def square_root_rows(problem: Problem) -> Tensor:
    """Aᵀ, (M, n): the rows √w_n R_nᵀ J_n of all items n, with G = A Aᵀ.

    Each example has a small graph of its own, so that a row costs one example, not one batch.

    Raises:
        ValueError: if there are more rows than parameters, they do not fit in memory, or the
            examples of a batch cannot be told apart.
    """
    loss = known_loss(problem, "the Gram matrix")
    single = single_examples(problem)
    blocks: list[Tensor] = []
    with single.evaluating() as leaves:
        for batch in single.batches:
            blocks.append(_rows_of_one(single, loss, batch, leaves))
            if len(blocks) == 1:
                _refuse_too_many(len(blocks[0]) * len(single.batches), problem)
            progress.report("Jacobian rows: examples", len(blocks), len(single.batches))
    return torch.cat(blocks)


def _rows_of_one(problem: Problem, loss: OutputLoss, batch: Batch, leaves: list[Tensor]) -> Tensor:
    """(items x r, n) rows of one example."""
    outputs, targets = problem.batch_output(batch)
    z = outputs.detach()
    weights = (loss.weights(z, targets) * batch.count / problem.count).sqrt()
    root = loss.root(z, targets) * weights[:, None, None]  # (items, C, r)
    items, _, rank = root.shape
    cotangents = [
        loss.outputs(_one_item(root[i, :, j], i, items), outputs)
        for i in range(items)
        for j in range(rank)
    ]
    pulled = torch.autograd.grad(
        outputs,
        leaves,
        torch.stack(cotangents),
        is_grads_batched=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([piece.reshape(items * rank, -1) for piece in pulled], 1)


def _one_item(column: Tensor, i: int, items: int) -> Tensor:
    rows = column.new_zeros(items, len(column))
    rows[i] = column
    return rows


def _gram(rows: Tensor) -> Tensor:
    """Rows rowsᵀ in float64, by blocks of columns, so that no float64 copy of the rows is made."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in rows.split(4096, dim=1):
        double = block.double()
        gram.addmm_(double, double.T)
    return gram


def _refuse_too_many(num_rows: int, problem: Problem) -> None:
    if num_rows > problem.n:
        msg = (
            f"the Gram matrix would have {num_rows} rows, more than the {problem.n} parameters; "
            "use hs.spectrum(hs.GaussNewton(problem))."
        )
        raise ValueError(msg)
    need = 2 * num_rows * problem.n * problem.dtype.itemsize + 3 * 8 * num_rows**2
    free = available_bytes(problem.device)
    if need > free:
        msg = (
            f"the Gram matrix of {num_rows} rows for {problem.n} parameters needs {human(need)} of "
            f"memory and {human(free)} are free; use hs.eigsh(hs.GaussNewton(problem))."
        )
        raise ValueError(msg)
