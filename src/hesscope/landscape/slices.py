"""The loss on a line or a plane through θ, and what of the curvature lies in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesscope.curvature.hessian import Hessian
from hesscope.estimators.functions import FEWEST, trace_function
from hesscope.estimators.trace import trace
from hesscope.landscape.directions import as_directions
from hesscope.landscape.kept import Kept
from hesscope.landscape.many import losses_on
from hesscope.landscape.statistics import FIXED, NONE, RECOMPUTED, normalisations
from hesscope.landscape.ways import Plane, with_own_statistics
from hesscope.problem.problem import Problem
from hesscope.results.estimate import Estimate
from hesscope.results.slices import Directions, Slice
from hesscope.system.contexts import public

Span = float | tuple[float, float] | Sequence[tuple[float, float]] | None
AROUND = 0.2  # of a trajectory's extent, shown beyond its ends


@public
def loss_slice(
    problem: Problem,
    directions: Any = "filter",
    span: Span = None,
    num_points: int = 41,
    *,
    test: Any = None,
    statistics: str = FIXED,
    max_matvecs: int = 100,
    seed: int = 0,
    scratch: str | Path | None = None,
    workers: int | None = None,
) -> Slice:
    """The mean loss at θ + Σ c_i d_i for c on a grid in one or two directions.

    The losses are those of the problem at every point, to rounding. The points are evaluated
    together where that is faster and gives the same: the fastest way is found on a few of them.
    Slope and curvature along the directions come from derivatives, so that the picture can be held
    against its parabola. And it says what it hides: the share of the trace of H, and of Σ|λ|, that
    lies in the plane, with a standard error. Two directions of n hold 2/n of what random ones see.

    Running statistics of BatchNorm stay those of θ by default: the Hessian is that of this
    function, and eigenvectors show their λ. "recomputed" gives each point its own, which is what
    training would see far away; the points then go one by one.

    Args:
        problem: its model stands at the middle of the picture.
        directions: a kind of `hs.directions` (two directions of it), one or two kinds or vectors in
            a list, `Directions`, eigenpairs, or a tensor (n,) or (n, 2).
        span: the coordinates shown: s for -s to s (default 1), (low, high), or one such pair for
            each direction; by default a trajectory is shown whole.
        num_points: along each direction; an odd number has θ on the grid.
        test: other data, as for `Problem`, on which the loss is measured too.
        statistics: "fixed" or "recomputed".
        max_matvecs: for the shares of trace and Σ|λ|, half each; below 60 they are left out, and
            at 0 slope and curvature, too.
        seed: of random directions and vectors.
        scratch: a folder in which finished points are kept, so that a killed call goes on.
        workers: processes among which the points are split, each with one thread: for models too
            small for threads to help. Every number of them, 1 included, gives the same bits; None
            is this process with all its threads, and the fastest way. `facts["evaluated"]` says
            where processes were of no use: on a GPU, where nothing can be forked, beside other
            threads, or where data is read again and again.

    Returns:
        A `Slice`. Costs num_points losses, or their square, one gradient, a product for each
        direction, and `max_matvecs`.

    Raises:
        ValueError: if directions, span, num_points or workers do not fit.
        RuntimeError: if a worker ends early.

    >>> import torch, hesscope as hs
    >>> bowl = hs.Problem.from_function(lambda t: 3 * t[0] ** 2 + t[1] ** 2, torch.ones(2).double())
    >>> plane = hs.loss_slice(bowl, hs.directions(bowl, "eigen", 1), num_points=5)
    >>> round(float(plane.second_differences), 9)
    6.0
    """
    _check(num_points, statistics, workers)
    chosen = as_directions(problem, directions, seed)
    axes = _axes(span, chosen, num_points)
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    if problem.training or not normalisations(problem.model):
        statistics = NONE
    losses, cost, way = _losses(
        problem, chosen, grid, statistics, scratch, "loss of a slice", workers
    )
    shape = tuple(len(axis) for axis in axes)
    tested = None
    if test is not None:
        other = problem.on(problem.with_batches(test))
        tested, more, _ = _losses(
            other, chosen, grid, statistics, scratch, "test loss of a slice", workers, problem
        )
        cost, tested = cost + more, tested.view(shape)
    derived = _derived(problem, chosen, max_matvecs, seed)
    return Slice(
        axes=axes,
        losses=losses.view(shape),
        loss=problem.loss(),
        directions=chosen,
        statistics=statistics,
        test_losses=tested,
        num_evaluations=cost + 1,
        facts={**problem.facts(), "evaluated": way},
        **derived,
    )


def _check(num_points: int, statistics: str, workers: int | None) -> None:
    if workers is not None and (
        isinstance(workers, bool) or workers != int(workers) or workers < 1
    ):
        msg = f"workers={workers}; give a number of processes, 1 or more, or None."
        raise ValueError(msg)
    if isinstance(num_points, bool) or not isinstance(num_points, int) or num_points < 3:
        msg = f"num_points={num_points}; give 3 or more along each direction."
        raise ValueError(msg)
    if statistics not in (FIXED, RECOMPUTED):
        msg = f"statistics={statistics!r} is neither 'fixed' nor 'recomputed'."
        raise ValueError(msg)


def _axes(span: Span, chosen: Directions, num_points: int) -> tuple[Tensor, ...]:
    """The coordinates along each direction.

    Raises:
        ValueError: if the span is no interval for each.
    """
    k = len(chosen)
    if span is None:
        spans = [_extent(chosen, i) for i in range(k)]
    elif isinstance(span, (int, float)):
        spans = [(-float(span), float(span))] * k
    elif len(span) == 2 and all(isinstance(s, (int, float)) for s in span):
        spans = [(float(span[0]), float(span[1]))] * k  # type: ignore[arg-type]
    else:
        spans = [(float(low), float(high)) for low, high in span]  # type: ignore[misc]
    fit = len(spans) == k and all(low < high for low, high in spans)
    if not fit or not all(map(math.isfinite, sum(spans, ()))):
        msg = (
            f"span={span!r}; give s > 0 for -s to s, (low, high), or one pair for each of the "
            f"{k} directions."
        )
        raise ValueError(msg)
    axes = [torch.linspace(low, high, num_points, dtype=torch.float64) for low, high in spans]
    for axis, (low, high) in zip(axes, spans, strict=True):
        if low == -high and num_points % 2:
            axis[num_points // 2] = 0.0  # θ itself, not near it
    return tuple(axes)


def _extent(chosen: Directions, i: int) -> tuple[float, float]:
    if chosen.trajectory is None:
        return -1.0, 1.0
    seen = chosen.trajectory[:, i]
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
    around = AROUND * (high - low)
    return low - around, high + around


def _losses(
    problem: Problem,
    chosen: Directions,
    grid: Tensor,
    statistics: str,
    scratch: str | Path | None,
    label: str,
    workers: int | None,
    gather: Problem | None = None,
) -> tuple[Tensor, int, str]:
    """The loss at each point of the grid, the cost in losses over all data, and how it was got."""
    plane = Plane(problem, problem.theta, chosen.vectors.to(problem.device, problem.dtype))
    kept = Kept(scratch, plane, grid, f"{label} {statistics}")
    missing, own = kept.missing(), statistics == RECOMPUTED
    name = "all points were kept from an earlier call"
    if len(missing):
        way = partial(with_own_statistics, gather or problem) if own else None
        name = losses_on(plane, grid, missing, label, kept.add, way, workers)
    kept.finish()
    return kept.losses, len(missing) * (2 if own else 1), name


def _derived(problem: Problem, chosen: Directions, max_matvecs: int, seed: int) -> dict[str, Any]:
    """Slopes and curvatures along the directions, and what of H they hide."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("slopes", "curvatures", "trace_share", "magnitude_share")
    )
    if max_matvecs <= 0:
        return {**nothing, "num_matvecs": chosen.num_matvecs}
    H, D = Hessian(problem), chosen.vectors.to(problem.device, problem.dtype)
    HD = H @ D
    curvatures = (D.T.double() @ HD.double()).cpu()
    nothing["curvatures"] = (curvatures + curvatures.T) / 2
    nothing["slopes"] = (D.T.double() @ problem.gradient().double()).cpu()
    spent = chosen.num_matvecs + D.shape[1]
    if max_matvecs // 2 > FEWEST + 5 and problem.n > max_matvecs // 2:
        inside = _compression(D, HD)
        traced = trace(H, rtol=None, max_matvecs=max_matvecs // 2, seed=seed)
        sizes = trace_function(H, torch.abs, max_matvecs=max_matvecs // 2, seed=seed)
        nothing["trace_share"] = _share(float(inside.sum()), traced)
        nothing["magnitude_share"] = _share(float(inside.abs().sum()), sizes)
        spent += traced.num_matvecs + sizes.num_matvecs
    return {**nothing, "num_matvecs": spent}


def _compression(D: Tensor, HD: Tensor) -> Tensor:
    """The eigenvalues of Q'HQ for an orthonormal basis Q of the span of D, from HD."""
    Q, R = torch.linalg.qr(D.double())
    HQ = torch.linalg.solve_triangular(R, HD.double(), upper=True, left=False)
    return torch.linalg.eigvalsh((Q.T @ HQ + HQ.T @ Q) / 2).cpu()


def _share(part: float, whole: Estimate) -> Estimate:
    """part/whole, with the error of the whole carried over to first order."""
    if whole.value == 0:
        return Estimate(math.nan, math.inf, whole.num_matvecs)
    factor = abs(part) / whole.value**2
    return Estimate(
        part / whole.value,
        factor * whole.stderr,
        whole.num_matvecs,
        factor * whole.above,
        factor * whole.below,
        whole.degrees,
    )
