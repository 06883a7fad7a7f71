"""Linear systems (A + damping I) x = b with a residual that is known, and honest words for A."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hesscope.krylov.cycle import Cycle, Limits
from hesscope.krylov.eigsh import BASIS_SHARE
from hesscope.krylov.noise import noise_in_span, told
from hesscope.krylov.preconditioner import (
    InverseProduct,
    Preconditioned,
    PreconditionerLike,
    inverse_of,
)
from hesscope.operator import (
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    finite_product,
    norm,
    symmetric_operator,
)
from hesscope.results.solution import Solution
from hesscope.system.contexts import public
from hesscope.system.memory import available_bytes

Method = Literal["auto", "cg", "minres"]
USUAL = 500  # products for each right-hand side
SAFETY = 0.5  # of the residual aimed at: the norm of the recurrence is not the one that counts
PROGRESS = 0.5  # a cycle that leaves more of the residual is the last
STANDSTILL = 0.99  # the same of a cycle that ended because memory was full
IN_RANGE = 1e-3  # ‖A r‖/(‖A‖ ‖r‖) below: what is left of b lies outside of the range of A
NOISE_SEED = (
    0  # of signs that combine columns whose products are measured; no statement rests on it
)


@public
def solve(
    A: OperatorLike,
    b: Tensor,
    damping: float = 0.0,
    *,
    tol: float = 1e-5,
    method: Method = "auto",
    preconditioner: PreconditionerLike | None = None,
    lambda_min: float = -math.inf,
    x0: Tensor | None = None,
    max_matvecs: int | None = None,
    max_basis: int | None = None,
) -> Solution:
    """x with (A + damping I) x = b, its residual by a fresh product, and its error where known.

    One Lanczos run for each right-hand side, with full reorthogonalisation, so that none of the
    products repeats another; later right-hand sides start from what the spaces of the earlier ones
    know of them. Where A + damping I is certainly positive definite (a Gauss-Newton or Fisher
    matrix with damping, or a proven `lambda_min`), the energy is minimised, as conjugate gradients
    do (Hestenes and Stiefel 1952); else the residual, as MINRES does (Paige and Saunders 1975),
    which needs no definiteness. When the residual is small, or memory is full, it is computed
    afresh and is the right-hand side of a correction: errors of rounding do not add up.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        b: one right-hand side (n,) or several (n, k).
        damping: is added to the diagonal. Hessians of networks are singular or indefinite, and
            without damping a solution is ruled by eigenvalues that mean nothing.
        tol: ‖b - (A + damping I) x‖/‖b‖ that is asked for.
        method: "cg", "minres", or the one that fits.
        preconditioner: a `Diagonal`, as of `hs.diagonal(A)`; `Eigenpairs` of the largest
            eigenvalues; a positive tensor (n,), the diagonal of P; or anything that multiplies
            vectors by P⁻¹ (Kronecker factors of curvlinops).
        lambda_min: a proven lower bound on the eigenvalues of A: `eigsh(A, 1, "SA")
            .certificate.lower` or `conditioning(A).lambda_min.low`. Gives the error of x.
        x0: where to start, shaped as b.
        max_matvecs: products in all; by default 500 for each right-hand side.
        max_basis: vectors to keep before a correction; by default what 40 % of free memory holds.

    Returns:
        The solution. About √κ log(2/tol)/2 products for condition κ, one to check and one for each
        correction; fewer where eigenvalues are clustered. Interrupted, it warns and returns what
        was reached.

    Raises:
        ValueError: for arguments out of range, or a b that is not finite or of the wrong length.
        RuntimeError: if method="cg" meets a direction of negative curvature, or a product is not
            finite, or A is not symmetric.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([4.0, 1.0, 0.0]).double()))
    >>> s = hs.solve(A, torch.tensor([5.0, 2.0, 1.0]).double(), damping=1.0, lambda_min=0.0)
    >>> s.x.round(decimals=9), s.method, s.num_matvecs, bool(s.errors.max() < 1e-12)
    (tensor([1., 1., 1.], dtype=torch.float64), 'cg', 4, True)
    """
    A = symmetric_operator(A)
    B = _right_hand_sides(A, b, "b")
    X = torch.zeros_like(B) if x0 is None else _right_hand_sides(A, x0, "x0").clone()
    _check(B, X, damping, tol, method, lambda_min, max_basis)
    limit = USUAL * B.shape[1] if max_matvecs is None else max_matvecs
    if limit < 2 * B.shape[1]:
        msg = f"max_matvecs={limit}: each right-hand side needs two products at least."
        raise ValueError(msg)

    def answer(C: SymmetricOperator, unit: float) -> Solution:
        lowest = max(C.lower_bound, lambda_min / unit) + damping / unit
        chosen = method if method != "auto" else ("cg" if lowest > 0 else "minres")
        rows = max_basis or max(20, int(BASIS_SHARE * available_bytes(C.device) // _row(C)))
        inverse = None
        if preconditioner is not None:
            inverse = inverse_of(preconditioner, C, damping / unit)
        task = _Task(C, damping / unit, tol, chosen, inverse, rows, limit, lowest)
        return _solved(task, B / unit, X, unit)

    solution = at_order_one(A, answer)
    return replace(solution, x=solution.x[:, 0]) if b.ndim == 1 else solution


@dataclass(frozen=True)
class _Task:
    A: SymmetricOperator
    damping: float
    tol: float
    method: str
    inverse: InverseProduct | None  # of the preconditioner
    rows: int
    limit: int
    lowest: float  # no eigenvalue of A + damping I lies below

    def residual(self, state: _State, b: Tensor, x: Tensor) -> Tensor:
        """b - (A + damping I) x, by a fresh product."""
        image = finite_product(self.A, x)
        state.spent += 1
        length = norm(self.A, x)
        if length > 0:
            state.scale = max(state.scale, norm(self.A, image) / length)
        return b - image - self.damping * x


@dataclass
class _State:
    """What is known while right-hand sides are solved one after the other."""

    spent: int = 0
    scale: float = 0.0
    interrupted: bool = False
    cycles: list[Cycle] = field(default_factory=list)
    curvature: float = math.inf
    direction: Tensor | None = None
    notes: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Column:
    x: Tensor
    residual: float
    history: tuple[float, ...]


def _solved(task: _Task, B: Tensor, X: Tensor, unit: float) -> Solution:
    state, columns = _State(), []
    for i, (b, x) in enumerate(zip(B.unbind(1), X.unbind(1), strict=True)):
        share = (task.limit - state.spent) // (B.shape[1] - i)
        columns.append(_column(task, state, b, x, share))
    if state.interrupted:
        warnings.warn("interrupted: returning the solution reached so far", stacklevel=5)
    x = torch.stack([column.x for column in columns], 1)
    sizes = torch.tensor([norm(task.A, b) for b in B.unbind(1)], dtype=torch.float64)
    residuals = torch.tensor([column.residual for column in columns], dtype=torch.float64)
    return Solution(
        x=x,
        residuals=residuals * unit,
        sizes=sizes * unit,
        converged=residuals <= task.tol * sizes,
        quadratic=task.A.inner(B, x).diagonal().cpu() * unit,
        tol=task.tol,
        damping=task.damping * unit,
        method=task.method,
        num_matvecs=state.spent,
        lambda_min=task.lowest * unit,
        curvature=state.curvature * unit,
        direction=state.direction,
        history=tuple(column.history for column in columns),
        notes=tuple(state.notes),
    )


def _column(task: _Task, state: _State, b: Tensor, x: Tensor, share: int) -> _Column:
    """One right-hand side: cycles until the true residual is small or cannot become smaller."""
    size, until = norm(task.A, b), state.spent + share
    if size == 0.0:
        return _Column(torch.zeros_like(b), 0.0, ())
    goal, history = task.tol * size, list[float]()
    x, r = _first_guess(task, state, b, x)
    residual = norm(task.A, r)
    while until - state.spent >= 2 and not state.interrupted:
        noise = _rounding(task, state, x)
        aim = max(goal - noise, noise)  # below, nothing is gained
        if residual <= aim:
            break
        steps, before = min(task.rows, until - state.spent - 1), residual
        grown = _cycle(task, state, r, SAFETY * aim / residual, steps)
        history += [h * residual / size for h in grown.residuals]
        there = x + grown.step
        r_there = task.residual(state, b, there)
        if norm(task.A, r_there) < residual:
            x, r, residual = there, r_there, norm(task.A, r_there)
        if residual > (PROGRESS if len(grown.residuals) < steps else STANDSTILL) * before:
            break
    if residual + _rounding(task, state, x) > goal and until > state.spent + 1:
        _explain(task, state, r, residual, _rounding(task, state, x))
    return _Column(x, residual + _all_noise(task, state, x), tuple(history))


def _rounding(task: _Task, state: _State, x: Tensor) -> float:
    """What rounding leaves in a residual at x."""
    length = norm(task.A, x)
    return task.A.product_noise(state.scale + abs(task.damping)) * length


def _all_noise(task: _Task, state: _State, x: Tensor) -> float:
    """That, and what products have been measured to be off by, where digits cancel."""
    rounding_noise, length = _rounding(task, state, x), norm(task.A, x)
    if length == 0.0:
        return rounding_noise
    measured = noise_in_span(task.A, (x / length)[:, None], NOISE_SEED)
    state.notes.update(dict.fromkeys(told(task.A, measured, state.scale)))
    return rounding_noise + measured * length


def _explain(task: _Task, state: _State, r: Tensor, residual: float, noise: float) -> None:
    """A note on why the residual does not become smaller; a product at most."""
    if residual <= 10 * noise:
        text = "the residual is what rounding leaves; model.double() with float64 data gives more"
    elif _next_to_zero_along(task, state, r):
        text = (
            "what is left of b lies in directions along which A + damping I is next to zero: x is "
            "a least-squares solution; give damping"
        )
    else:
        text = "the residual stopped falling: the problem is too badly conditioned for its digits"
    state.notes[text] = None


def _next_to_zero_along(task: _Task, state: _State, r: Tensor) -> bool:
    image = norm(task.A, task.residual(state, torch.zeros_like(r), r))
    return image <= IN_RANGE * state.scale * norm(task.A, r)


def _first_guess(task: _Task, state: _State, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Where to start, and the residual there: what is given, or earlier spaces know."""
    r = task.residual(state, b, x) if bool(x.any()) else b
    for cycle in state.cycles:
        d = cycle.projected(task.damping, r)
        r_there = task.residual(state, r, d)
        if norm(task.A, r_there) < norm(task.A, r):
            x, r = x + d, r_there
    return x, r


@dataclass(frozen=True)
class _Grown:
    step: Tensor
    residuals: tuple[float, ...]  # relative to that at its start


def _cycle(task: _Task, state: _State, r: Tensor, target: float, steps: int) -> _Grown:
    """One Krylov space of the residual, and the step in it.

    Raises:
        RuntimeError: if it is to be CG, and A + damping I is not positive definite.
    """
    A, damping, inverse = task.A, task.damping, task.inverse
    if inverse is not None:
        A, damping = Preconditioned(A, damping, inverse), 0.0
    size = norm(A, r)
    cycle = Cycle(A, r, size)
    limits = Limits(target * size, steps, state.spent, task.limit)
    residuals = cycle.grow(damping, task.method, limits)
    state.spent += len(residuals)
    state.interrupted = state.interrupted or cycle.interrupted
    if not residuals:
        return _Grown(torch.zeros_like(r), ())
    step, v = cycle.solution(damping, task.method), cycle.lowest_vector()
    if inverse is None:
        state.scale = max(state.scale, cycle.run.scale)
        state.cycles.append(cycle)
    else:
        assert isinstance(A, Preconditioned)
        state.scale = max(state.scale, A.scale)
        step, v = inverse(step[:, None])[:, 0], inverse(v[:, None])[:, 0]
    value = cycle.lowest() + damping
    _note_curvature(task, state, v, value / norm(task.A, v) ** 2, cycle.run.noise)
    return _Grown(step, tuple(h / size for h in residuals))


def _note_curvature(task: _Task, state: _State, v: Tensor, value: float, noise: float) -> None:
    """Keeps the lowest vᵀ(A + damping I)v/vᵀv that was met.

    Raises:
        RuntimeError: if it is negative, and the method is CG.
    """
    if value >= state.curvature:
        return
    state.curvature = value
    if value >= -noise:
        return
    state.direction = v / norm(task.A, v)
    if task.method == "cg":
        known = "although lambda_min says that it is not" if task.lowest > 0 else "so CG fails"
        msg = (
            f"A + damping I has a direction of curvature {value:.3g}, {known}. Give a damping "
            f"above {task.damping - value:.3g}, or method='minres', which needs no definiteness."
        )
        raise RuntimeError(msg)


def _row(A: SymmetricOperator) -> int:
    return A.n * A.dtype.itemsize


def _right_hand_sides(A: SymmetricOperator, b: Tensor, name: str) -> Tensor:
    """b as (n, k), in the dtype and on the device of A.

    Raises:
        ValueError: if it is none, or not finite.
    """
    if not isinstance(b, Tensor) or b.ndim not in (1, 2) or b.shape[0] != A.n or b.numel() == 0:
        shape = tuple(b.shape) if isinstance(b, Tensor) else type(b).__name__
        msg = f"{name} is {shape}; give a tensor of shape ({A.n},) or ({A.n}, k)."
        raise ValueError(msg)
    if b.is_complex() or not bool(b.isfinite().all()):
        msg = f"{name} has entries that are complex, NaN or infinite; nothing solves that."
        raise ValueError(msg)
    return b.detach().to(A.device, A.dtype).reshape(A.n, -1)


def _check(
    B: Tensor,
    X: Tensor,
    damping: float,
    tol: float,
    method: str,
    lambda_min: float,
    max_basis: int | None,
) -> None:
    """Is this a system that can be solved?

    Raises:
        ValueError: if not.
    """
    if X.shape != B.shape:
        msg = f"x0 has shape {tuple(X.shape)}, b {tuple(B.shape)}; they have to be alike."
        raise ValueError(msg)
    if not math.isfinite(damping):
        msg = f"damping={damping} has to be a finite number, such as 1e-3."
        raise ValueError(msg)
    if not 0 < tol < 1:
        msg = f"tol={tol} must lie between 0 and 1, relative to ‖b‖; try 1e-5."
        raise ValueError(msg)
    if method not in ("auto", "cg", "minres"):
        msg = f"method={method!r}; choose one of 'auto', 'cg', 'minres'."
        raise ValueError(msg)
    if math.isnan(lambda_min) or lambda_min == math.inf:
        msg = f"lambda_min={lambda_min} is no lower bound on eigenvalues; leave it out."
        raise ValueError(msg)
    if max_basis is not None and max_basis < 2:
        msg = f"max_basis={max_basis} vectors are too few; give 2 or more, or leave it out."
        raise ValueError(msg)
