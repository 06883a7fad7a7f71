"""Rows of the Jacobian times the root of the output Hessian: G = A Aᵀ and its Gram matrix AᵀA.

With R_n R_nᵀ the output Hessian of item n, the columns of A are √w_n J_nᵀ R_n. The Gram matrix has
the non-zero eigenvalues of Gauss-Newton and is smaller than n x n when N (C - 1) < n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesscope.autodiff.jacobian import single_examples
from hesscope.perceptron.layerwise import layerwise_gram
from hesscope.perceptron.mlp import recognise
from hesscope.problem.data import Batch
from hesscope.problem.evaluation import Evaluation
from hesscope.problem.examples import num_examples
from hesscope.problem.losses import CrossEntropy, OutputLoss, known_loss
from hesscope.problem.problem import Problem
from hesscope.system import progress
from hesscope.system.memory import available_bytes, human


def gram_matrix(problem: Problem, num_rows: int) -> Tensor:
    """AᵀA, (M, M) in float64: layer by layer for multilayer perceptrons, else from rows of J.

    `num_rows` is M, from `num_square_root_rows`.

    Raises:
        ValueError: as for `square_root_rows`.
    """
    mlp = recognise(problem)
    if mlp is not None:
        num = sum(num_examples(batch.content) for batch in problem.batches)
        rank, left = divmod(num_rows, num)
        if left == 0 and rank > 0:  # no example is ignored
            return layerwise_gram(mlp, rank)
    return _gram(square_root_rows(problem))


def num_square_root_rows(problem: Problem) -> int:
    """M: items times C - 1 for softmax cross-entropy, times C for other losses; a forward pass."""
    loss = known_loss(problem, "the Gram matrix")
    total = 0
    with problem.evaluation() as e:
        for batch in e.batches:
            outputs, targets = e.outputs(batch)
            z = outputs.detach()
            counted = int((loss.weights(z, targets) > 0).sum())
            total += counted * (loss.rows(z).shape[1] - isinstance(loss, CrossEntropy))
    return total


def square_root_rows(problem: Problem) -> Tensor:
    """Aᵀ, (M, n): the rows √w_n R_nᵀ J_n of all items n, with G = A Aᵀ.

    Each example has a small graph of its own, so that a row costs one example, not one batch.

    Raises:
        ValueError: if they do not fit in memory, or the examples of a batch cannot be told apart.
    """
    loss = known_loss(problem, "the Gram matrix")
    single = single_examples(problem)
    blocks: list[Tensor] = []
    with single.evaluation() as e:
        for batch in e.batches:
            blocks.append(_rows_of_one(e, loss, batch))
            if len(blocks) == 1:
                _refuse_too_large(len(blocks[0]) * len(single.batches), problem)
            progress.report("Jacobian rows: examples", len(blocks), len(single.batches))
    return torch.cat(blocks)


def _rows_of_one(e: Evaluation, loss: OutputLoss, batch: Batch) -> Tensor:
    """(items that count x r, n) rows of one example."""
    outputs, targets = e.outputs(batch)
    z = outputs.detach()
    weights = (loss.weights(z, targets) * batch.count / e.num_items).sqrt()
    root = loss.root(z, targets) * weights[:, None, None]  # (items, C, r)
    items, _, rank = root.shape
    cotangents = [
        loss.outputs(_one_item(root[i, :, j], i, items), outputs)
        for i in torch.nonzero(weights).flatten().tolist()
        for j in range(rank)
    ]
    pulled = torch.autograd.grad(
        outputs,
        e.leaves,
        torch.stack(cotangents),
        is_grads_batched=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([piece.reshape(len(cotangents), -1) for piece in pulled], 1)


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


def _refuse_too_large(num_rows: int, problem: Problem) -> None:
    need = 2 * num_rows * problem.n * problem.dtype.itemsize + 3 * 8 * num_rows**2
    free = available_bytes(problem.device)
    if need > free:
        msg = (
            f"the Gram matrix of {num_rows} rows for {problem.n} parameters needs {human(need)} of "
            f"memory and {human(free)} are free; use hs.eigsh(hs.GaussNewton(problem))."
        )
        raise ValueError(msg)
