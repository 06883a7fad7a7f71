"""Where the curvature of a classifier comes from: class means, cross-class means, the rest.

G = Σ_n Σ_c w_n p_{n,c} g_{n,c} g_{n,c}ᵀ with g_{n,c} = J_nᵀ (e_c - p_n): a weighted second moment
of N·C vectors, which splits over groups of label y and class c (Papyan 2019, 2020). w_n is the
share of item n in the mean loss, times the mass of its target distribution (smoothing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope import rounding
from hesscope.autodiff.jacobian import single_examples
from hesscope.problem.losses import CrossEntropy, known_loss
from hesscope.problem.problem import Problem
from hesscope.results.decomposition import ClassDecomposition
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import collectives, progress
from hesscope.system.agreement import together
from hesscope.system.contexts import public


@public
def class_decomposition(
    problem: Problem, vectors: Tensor | Eigenpairs | None = None
) -> ClassDecomposition:
    """G = G_class + G_cross + G_within for softmax cross-entropy with integer labels.

    With weights w_{y,c} = Σ_{n: y_n = y} w_n p_{n,c}, group means μ_{y,c} and, for each label, the
    mean δ_y of its μ_{y,c} over c ≠ y: G_class = Σ_y (w_y δ_y δ_yᵀ + w_{y,y} μ_{y,y} μ_{y,y}ᵀ),
    of rank C because w_{y,y} μ_{y,y} = -w_y δ_y; G_cross holds the deviations μ_{y,c} - δ_y, and
    G_within those of single vectors from their μ. Exact; traces add up to rounding.

    Args:
        problem: with `cross_entropy` as its loss.
        vectors: unit vectors (n, k) or the result of `eigsh`; their squared projections on the
            span of the δ_y are returned as `overlap`.

    Costs two passes of C backward passes per example, and (C² + C) n numbers of memory.

    Raises:
        ValueError: if the loss is no cross-entropy on integer labels.

    >>> import torch, hesscope as hs
    >>> _ = torch.manual_seed(0)
    >>> data = torch.randn(30, 4), torch.arange(30) % 3
    >>> p = hs.Problem(torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(), data)
    >>> parts = hs.class_decomposition(p)
    >>> total = parts.trace_class + parts.trace_cross + parts.trace_within
    >>> abs(total / parts.trace - 1) < 1e-5
    True
    """
    loss = known_loss(problem, "class_decomposition")
    if not isinstance(loss, CrossEntropy):
        msg = "class_decomposition needs softmax cross-entropy with integer labels as the loss."
        raise ValueError(msg)
    single = single_examples(problem)
    groups = _group_means(single, loss)
    class_part, cross_part, deltas = _levels(groups)
    total, within = _second_pass(single, loss, groups)
    return ClassDecomposition(
        trace=total,
        trace_class=float(class_part.square().sum()),
        trace_cross=float(cross_part.square().sum()),
        trace_within=within,
        class_eigenvalues=_gram_eigenvalues(class_part),
        cross_eigenvalues=_gram_eigenvalues(cross_part),
        class_means=deltas.T.cpu(),
        overlap=_overlap(deltas, vectors),
        num_gradients=2.0 * groups.weights.shape[1],
    )


@dataclass(frozen=True)
class _Groups:
    """Weights (C, C) and means (C, C, n) of the vectors g_{n,c} by label y and class c."""

    weights: Tensor
    means: Tensor


def _vectors(problem: Problem, loss: CrossEntropy) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each item: its label, its weights w p_c (C,), and its vectors g_c (C, n).

    Raises:
        ValueError: if the targets are no labels.
    """
    done = 0
    with problem.evaluation() as e:
        for batch in e.batches:
            outputs, targets = e.outputs(batch)
            if targets.is_floating_point():
                msg = "class_decomposition needs integer labels; these targets are distributions."
                raise ValueError(msg)
            z = outputs.detach()
            p = loss.rows(z).softmax(1)
            weights = loss.weights(z, targets) * loss.mass(z, targets)
            weights = weights * batch.count / e.num_items
            for i in torch.nonzero(weights).flatten().tolist():
                cotangents = torch.zeros(p.shape[1], *p.shape, dtype=p.dtype, device=p.device)
                cotangents[:, i] = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - p[i]
                pulled = torch.autograd.grad(
                    outputs,
                    e.leaves,
                    torch.stack([loss.outputs(rows, outputs) for rows in cotangents]),
                    is_grads_batched=True,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                rows = torch.cat([piece.reshape(p.shape[1], -1) for piece in pulled], 1)
                yield targets.reshape(-1)[i], weights[i] * p[i], rows
            done += 1
            progress.report("class means: examples", done, len(problem.batches))


def _group_means(problem: Problem, loss: CrossEntropy) -> _Groups:
    own: tuple[Tensor, Tensor] | None = None
    with together():
        for label, w, rows in _vectors(problem, loss):
            if own is None:
                zeros = torch.zeros(len(w), *rows.shape, dtype=torch.float64, device=w.device)
                own = zeros[:, :, 0].clone(), zeros
            own[0][label] += w
            own[1][label] += w[:, None] * rows
    weights, sums = (
        collectives.sum_over_processes(None if own is None else own[i], device=problem.device)
        for i in (0, 1)
    )
    return _Groups(weights, sums / weights.clamp_min(rounding.POSITIVE)[:, :, None])


def _levels(groups: _Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled columns of G_class (2C, n) and G_cross (C (C-1), n), and the means δ (C, n)."""
    num = len(groups.weights)
    other = ~torch.eye(num, dtype=torch.bool, device=groups.weights.device)
    w = groups.weights * other
    totals = w.sum(1)
    deltas = (w[:, :, None] * groups.means).sum(1) / totals.clamp_min(rounding.POSITIVE)[:, None]
    own = groups.means.diagonal(dim1=0, dim2=1).T * groups.weights.diagonal().sqrt()[:, None]
    class_part = torch.cat([deltas * totals.sqrt()[:, None], own])
    deviations = (groups.means - deltas[:, None]) * groups.weights.sqrt()[:, :, None]
    return class_part, deviations[other], deltas


def _second_pass(problem: Problem, loss: CrossEntropy, groups: _Groups) -> tuple[float, float]:
    """tr G, and the trace of what is left around the group means, each summed directly."""
    total = within = 0.0
    with together():
        for label, w, rows in _vectors(problem, loss):
            double = rows.double()
            total += float((w * double.square().sum(1)).sum())
            within += float((w * (double - groups.means[label]).square().sum(1)).sum())
    return collectives.sum_of_number(total), collectives.sum_of_number(within)


def _gram_eigenvalues(columns: Tensor) -> Tensor:
    """Eigenvalues of Σ columns columnsᵀ, descending, without the rounding zeros of its rank."""
    values = torch.linalg.eigvalsh(columns @ columns.T).flip(0).clamp_min(0).cpu()
    return values[values > 1e-12 * values.max()] if float(values.max()) > 0 else values[:0]


def _overlap(deltas: Tensor, vectors: Tensor | Eigenpairs | None) -> Tensor | None:
    """‖P v‖² with P the projection on the span of the class means."""
    if vectors is None:
        return None
    V = vectors.eigenvectors if isinstance(vectors, Eigenpairs) else vectors
    V = V.reshape(len(V), -1).to(deltas)
    U, s, _ = torch.linalg.svd(deltas.T, full_matrices=False)
    Q = U[:, s > 1e-10 * s.max()]
    return ((Q.T @ V).square().sum(0) / V.square().sum(0)).cpu()


def num_classes(problem: Problem) -> int | None:
    """C for softmax cross-entropy over C classes, None for any other loss; one batch forward."""
    if problem.loss_fn is None:
        return None
    try:
        loss = known_loss(problem, "num_classes")
    except ValueError:  # a loss that is piecewise linear in the outputs has no classes
        return None
    if not isinstance(loss, CrossEntropy):
        return None
    with problem.evaluation() as e:
        outputs, _ = e.outputs(e.batches.first)
    return int(outputs.shape[1])
