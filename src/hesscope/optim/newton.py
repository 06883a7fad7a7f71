"""Steps by a quadratic model of the loss in a subspace: what both Newton methods have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope import rounding
from hesscope.curvature.shared import SharedOperator
from hesscope.krylov.subspace import Subspace
from hesscope.operator import SymmetricOperator, at_order_one
from hesscope.optim.arguments import check, check_count
from hesscope.optim.closures import evaluated
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.system import interrupts
from hesscope.system.contexts import public

POOR, GOOD = 0.25, 0.75  # reduction ratios below and above which the damping is raised, lowered
RAISE = 1.5  # and 1/RAISE (Martens 2010, section 4.1)
DECREASE = 1e-2  # of g·d, that a step has to bring at least (Martens 2010, section 4.6)
SOLVED_AGAIN = 5  # times with more damping, in the same subspace, before d itself is shortened
HALVINGS = 20
DOUBLINGS = 20


@dataclass(frozen=True)
class Model:
    """-b·d + d·A d/2 for d = Q y, with b = -g; any damping is served by the same products."""

    T: np.ndarray  # QᵀAQ
    b: np.ndarray  # Qᵀb
    vector: Callable[[np.ndarray], Tensor]  # y -> Q y
    least: float  # damping: less is less than what rounding leaves in T
    most: float  # with more, d is less than what rounding leaves in g/‖T‖
    num_matvecs: int

    @classmethod
    def within(cls, space: Subspace, b: np.ndarray, num_matvecs: int) -> Model:
        """The model in the first len(b) directions of a subspace."""

        def vector(y: np.ndarray) -> Tensor:
            return space.Q.combine(torch.from_numpy(y[:, None]))[:, 0]

        m, size = len(b), space.scale
        most = size / rounding.eps(space.A.precision) if size > 0 else math.inf
        return cls(space.T[:m, :m], b, vector, space.noise, most, num_matvecs)

    def change(self, y: np.ndarray) -> float:
        """What the loss is predicted to change by."""
        return float(-self.b @ y + y @ self.T @ y / 2)

    def times(self, unit: float) -> Model:
        """The model of an operator and a gradient that are so many times as large."""
        least, most = self.least * unit, self.most * unit
        return replace(self, T=self.T * unit, b=self.b * unit, least=least, most=most)


@dataclass
class _Losses:
    """The loss of the curvature data at θ + t d, counted."""

    problem: Problem
    theta: Tensor
    num: int = 0

    def at(self, d: Tensor | None = None, t: float = 1.0) -> float:
        self.num += 1
        return self.problem.loss_at(self.theta if d is None else self.theta + t * d)


@dataclass(frozen=True)
class _Trial:
    """A step d that was tried."""

    y: np.ndarray
    d: Tensor
    slope: float  # g·d
    change: float  # of the loss, predicted
    loss: float
    length: float = 1.0  # t


class Newton(Optimizer):
    """θ ← θ + lr t d, with d the step of a damped quadratic model of a problem's loss."""

    def __init__(self, problem: Problem, lr: float, damping: float, max_matvecs: int) -> None:
        _refuse(problem)
        defaults = {"lr": check("lr", lr), "damping": check("damping", damping)}
        counts = dict.fromkeys(("num_steps", "num_matvecs", "num_losses", "num_rejected"), 0)
        self.max_matvecs = check_count("max_matvecs", max_matvecs)
        self.problem = problem
        self._kept: SharedOperator | None = self._operator(problem)
        super().__init__(problem.point.leaves(), {**defaults, **counts})

    @abstractmethod
    def _operator(self, problem: Problem) -> SharedOperator:
        """The curvature A."""

    @abstractmethod
    def _model(self, A: SymmetricOperator, b: Tensor, damping: float) -> Model:
        """The quadratic model in a subspace that is worth its products."""

    @abstractmethod
    def _curvatures(self, theta: np.ndarray, damping: float) -> np.ndarray:
        """What stands in for the eigenvalues of T; above -damping."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, batch: Any = None) -> Any:
        """One step from the gradients in `.grad`; where there are none, nothing is done.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the
                loss; called once, at θ. Without, the gradients have been taken before.
            batch: of the problem's data, for curvature, reduction ratio and line search; by default
                they are those of all its data.

        Returns:
            The loss of the closure, if there is one.

        Raises:
            RuntimeError: if the gradient, the loss of the curvature data or a product is not
                finite. Then θ stays.
        """
        loss = evaluated(closure)
        g = self._gradient()
        if g is not None:
            self._move(g, batch)
        return loss

    def _gradient(self) -> Tensor | None:
        """All of `.grad` as one vector, or None where there is none or it is zero.

        Raises:
            RuntimeError: if it is not finite.
        """
        parameters = self.param_groups[0]["params"]
        if all(p.grad is None for p in parameters):
            return None
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        g = flatten(pieces)
        if not bool(g.isfinite().all()):
            msg = (
                "the gradient is not finite, and no step can be made of it. With float16 autocast "
                "let torch.amp.GradScaler leave such steps out; otherwise the loss has diverged."
            )
            raise RuntimeError(msg)
        return g if bool(g.any()) else None

    @public
    def _move(self, g: Tensor, batch: Any) -> None:
        group = self.param_groups[0]
        if self._kept is None:
            self._kept = self._operator(self.problem)
        A = self._kept
        if batch is not None:
            A = self._operator(self.problem.with_batches([batch]))

        def work(C: SymmetricOperator, unit: float) -> Model:
            return self._model(C, -g / unit, group["damping"] / unit).times(unit)

        model = at_order_one(A, work)
        losses = _Losses(A.problem, self.problem.theta)
        trial = self._tried(model, losses)
        group["num_steps"] += 1
        group["num_matvecs"] += model.num_matvecs
        group["num_losses"] += losses.num
        if trial is None:
            group["num_rejected"] += 1
        else:
            self._write(group["lr"] * trial.length, trial.d)

    def _tried(self, model: Model, losses: _Losses) -> _Trial | None:
        """The step that lowers the loss: damped more and more, then shortened, or lengthened.

        Raises:
            RuntimeError: if the loss at θ is not finite.
        """
        group, before = self.param_groups[0], losses.at()
        if not math.isfinite(before):
            msg = f"the loss of the curvature data is {before} at θ; hs.check_problem names why."
            raise RuntimeError(msg)
        unseen = rounding.loss_change_noise(losses.problem.weakest, abs(before))
        for _ in range(SOLVED_AGAIN + 1):
            trial = self._solved(model, losses)
            if -trial.change <= unseen:  # no ratio of such changes means anything
                return trial if trial.loss <= before + unseen else None
            self._adapt(group, (trial.loss - before) / trial.change, model)
            if _lowers(trial, before):
                break
        for _ in range(HALVINGS):
            if _lowers(trial, before):
                return _lengthened(trial, model, losses, unseen)
            shorter = trial.length / 2
            trial = replace(trial, length=shorter, loss=losses.at(trial.d, shorter))
        return None

    def _solved(self, model: Model, losses: _Losses) -> _Trial:
        """d = Q (|T| + damping)⁻¹ Qᵀb, |T| being what the method makes of T, and the loss there."""
        damping = self.param_groups[0]["damping"]
        theta, S = np.linalg.eigh(model.T)
        y = S @ ((S.T @ model.b) / (self._curvatures(theta, damping) + damping))
        d = model.vector(y)
        return _Trial(y, d, -float(model.b @ y), model.change(y), losses.at(d))

    @staticmethod
    def _adapt(group: dict[str, Any], ratio: float, model: Model) -> None:
        """Levenberg-Marquardt: more damping where the model does not hold, less where it does."""
        now = group["damping"]
        if not ratio >= POOR:  # NaN, too
            group["damping"] = min(now * RAISE, max(model.most, now))
        elif ratio > GOOD:
            group["damping"] = max(now / RAISE, min(model.least, now))

    def _write(self, length: float, d: Tensor) -> None:
        parameters = self.param_groups[0]["params"]
        pieces = self.problem.layout.split(d)
        with interrupts.deferred(), torch.no_grad():
            torch._foreach_add_(parameters, pieces, alpha=length)
            self._remember(parameters, pieces)

    def _remember(self, parameters: list[Tensor], pieces: Any) -> None:
        """Notes the direction d of a step, for methods that make use of it."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuses a second group.

        Raises:
            ValueError: once the optimizer is made: θ is that of its problem.
        """
        if self.param_groups:
            msg = (
                f"{type(self).__name__} steps in the θ of its problem, one group; make another "
                "one with hs.Problem(model, loss_fn, data, params=...)."
            )
            raise ValueError(msg)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what torch keeps, the problem, and no graphs."""
        own = {"problem": self.problem, "max_matvecs": self.max_matvecs, "_kept": None}
        return {**super().__getstate__(), **own}


def _lowers(trial: _Trial, before: float) -> bool:
    return trial.loss <= before + DECREASE * trial.length * min(trial.slope, 0.0)


def _lengthened(trial: _Trial, model: Model, losses: _Losses, unseen: float) -> _Trial:
    """Where the loss curves downwards along d no model says how far: doubled while it falls."""
    if trial.length < 1 or not float(trial.y @ model.T @ trial.y) < 0:
        return trial
    for _ in range(DOUBLINGS):
        longer = replace(trial, length=2 * trial.length, loss=losses.at(trial.d, 2 * trial.length))
        if not longer.loss < trial.loss - unseen:
            break
        trial = longer
    return trial


def _refuse(problem: Any) -> None:
    """Is this a problem whose parameters can be moved?

    Raises:
        ValueError: if not.
    """
    if not isinstance(problem, Problem):
        msg = (
            f"problem is a {type(problem).__name__}; give hs.Problem(model, loss_fn, data), whose "
            "curvature the steps are made of."
        )
        raise ValueError(msg)
    if problem.point.substitutes:
        msg = (
            "this problem stays at parameters or buffers of its own (`at`, `with_buffers`, "
            "`in_double`) and never moves those of its model; give the one that it was made from."
        )
        raise ValueError(msg)
    if problem.point.half is not None:
        msg = (
            f"the model is in {problem.point.half}, which has no digits for curvature and small "
            "steps; keep it in float32 and take its gradients under torch.autocast."
        )
        raise ValueError(msg)
