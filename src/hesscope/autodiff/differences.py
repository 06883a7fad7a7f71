"""Hessian-vector products from differences of gradients, central or one-sided, with their errors.

Approximate, and possible wherever there is a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.autodiff.kernels import fast_second_derivatives
from hesscope.autodiff.padding import padding_held
from hesscope.autodiff.reverse import Engine
from hesscope.problem.data import Batch
from hesscope.problem.problem import Problem


@dataclass(frozen=True)
class CentralDifference:
    """Asks `Hessian` for finite differences, (g(θ + h v) - g(θ - h v)) / 2h for unit v.

    With one_sided=True (g(θ + h v) - g(θ)) / h, whose g(θ) is computed once for all products: one
    gradient a product and not two, at a larger error. For third derivatives T of the loss, fourth
    ones Q and gradients with an error of size ε the errors are about

        h²/6 ‖Q[v, v, v]‖ + ε/h        central: least ε^(2/3), at h of ε^(1/3)
        h/2 ‖T[v, v]‖ + 2 ε/h          one-sided: least ε^(1/2), at h of ε^(1/2)

    (Nocedal and Wright 2006, section 8.1). With step None, h is chosen once, at the first product,
    along the gradient and a random direction, and kept, so that all products belong to one
    operator. `facts()` of the operator states the step and the relative error.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: (t**3).sum(), torch.ones(1).double())
    >>> H = hs.Hessian(problem, product=hs.CentralDifference(step=1e-3))
    >>> (H @ torch.ones(1)).round(decimals=6)  # 6 t, exact for a cubic
    tensor([6.], dtype=torch.float64)
    >>> H = hs.Hessian(problem, product=hs.CentralDifference(step=1e-3, one_sided=True))
    >>> (H @ torch.ones(1)).round(decimals=6)  # off by 3 h
    tensor([6.0030], dtype=torch.float64)
    """

    step: float | None = None
    one_sided: bool = False

    def __post_init__(self) -> None:
        """Refuses a step of no length.

        Raises:
            ValueError: if the step is not positive.
        """
        if self.step is not None and not self.step > 0:
            msg = f"step={self.step} of a difference must be positive; None chooses it."
            raise ValueError(msg)


KRYLOV = 3  # vectors of a Krylov space in which finite differences estimate their error
MARGIN = 2.0  # for the directions that are not tried: 1 % of products exceed it on small networks


class FiniteDifference(Engine):
    """H v from two gradients at theta ± h v/‖v‖, or at theta and theta + h v/‖v‖; approximate.

    Central, D(h) has a truncation error T h² and a rounding error of size ρ/h, another one at each
    step, so ‖D(h) - D(2h)‖² = 9 T²h⁴ + 5/4 ρ²/h² on average, and 4/5 of it bounds the squared error
    T²h⁴ + ρ²/h². At the step that makes it smallest the bound is 1.2 times the error itself.
    One-sided, the errors are T h and ρ/h, half of the latter's square from g(theta), which D(2h)
    shares: ‖D(h) - D(2h)‖² = T²h² + 3/4 ρ²/h², and 4/3 of it bounds the squared error.

    The stated error is twice the worst of five directions, relative to ‖Hv‖; where v is flatter
    than a random direction, relative to what ‖Hv‖ is in that one.

    Across the kinks of ReLU or max-pooling it measures the curvature smoothed over the radius h,
    which is not the Hessian that automatic differentiation computes.
    """

    def __init__(self, problem: Problem, asked: CentralDifference) -> None:
        super().__init__(problem)
        self.step, self.one_sided = asked.step, asked.one_sided
        self.name = "one-sided-difference" if asked.one_sided else "finite-difference"
        self.relative_error: float | None = None
        self._point: Tensor | None = None  # theta, and there:
        self._base = torch.zeros(0)  # the gradient, for one-sided differences
        self._padding: dict[int, list[Tensor]] = {}  # what lookups of padding find, by batch
        self._differentiated = False  # whether the loss takes derivatives itself

    def products(self, V: Tensor) -> Tensor:
        """H V from two gradients per column, or one."""
        theta = self.problem.theta
        if self._point is None or not torch.equal(self._point, theta):
            self._look_at(theta)
        if self.relative_error is None:
            self._choose_step()
        assert self.step is not None
        return torch.stack([self._product(theta, v, self.step) for v in V.unbind(1)], 1)

    def facts(self) -> dict[str, Any]:
        """The engine, its step and its estimated relative error."""
        return {"product": self.name, "step": self.step, "relative_error": self.relative_error}

    def _look_at(self, theta: Tensor) -> None:
        """Notes what the loss does at theta, in one forward pass."""
        self._point = theta
        with self.problem.evaluation() as e:
            for batch in e.batches:
                with padding_held() as padding, fast_second_derivatives() as mode:
                    e.finite_loss(batch)
                self._padding[batch.index] = padding.rows
                self._differentiated = self._differentiated or mode.differentiated
        if self.one_sided:
            self._base = self._gradient(theta)

    def _gradient(self, theta: Tensor) -> Tensor:
        """The gradient at theta, its derivatives of normalisations right and its padding held."""
        moved = self.problem.at(theta)

        def of_batch(batch: Batch) -> Tensor:
            held = padding_held(self._padding[batch.index])
            with fast_second_derivatives(normalisations=self._differentiated), held:
                return e.gradient(batch)

        with moved.evaluation() as e:
            return e.mean(of_batch)

    def _product(self, theta: Tensor, v: Tensor, step: float) -> Tensor:
        norm = float(v.norm())
        if norm == 0:
            return torch.zeros_like(v)
        h = step / norm
        if self.one_sided:
            return (self._gradient(theta + h * v) - self._base) / h
        return (self._gradient(theta + h * v) - self._gradient(theta - h * v)) / (2 * h)

    def _choose_step(self) -> None:
        """The step with the smallest error, worst of two directions; and the error there, anew.

        A sharp direction (the gradient) and a typical one (a random probe) bracket what Lanczos
        will ask. The smallest of many estimates is too small, so in the end another probe and its
        first Krylov vectors, which are sharper still, take part.
        """
        assert self._point is not None
        theta = self._point
        gradient = self._base if self.one_sided else self._gradient(theta)
        probe, fresh = (
            probes.gaussian(len(theta), own, dtype=theta.dtype, device=theta.device)
            for own in (probes.key(0, "step of a difference", i) for i in range(2))
        )
        start = self.step or self._usual_step(theta.dtype)
        ladder = [start] if self.step else [start * 4.0**j for j in range(-3, 4)]
        errors = [max(self._estimate(theta, v, h)[0] for v in (gradient, probe)) for h in ladder]
        best = min(range(len(ladder)), key=errors.__getitem__)
        self.step, worst, v = ladder[best], errors[best], fresh
        for _ in range(KRYLOV):
            error, v = self._estimate(theta, v, self.step)
            worst = max(worst, error)
        self.relative_error = MARGIN * worst

    def _usual_step(self, dtype: torch.dtype) -> float:
        """The middle of the steps that are tried."""
        double = dtype == torch.float64
        if self.one_sided:
            return 1e-7 if double else 2e-3
        return 1e-4 if double else 3e-3

    def _estimate(self, theta: Tensor, v: Tensor, h: float) -> tuple[float, Tensor]:
        """The bound from ‖D(h) - D(2h)‖ over the least that ‖Hv‖ can be, and D(h), for unit v."""
        v = v / v.norm().clamp_min(rounding.tiny(v.dtype))
        fine, coarse = self._product(theta, v, h), self._product(theta, v, 2 * h)
        error = (4 / 3 if self.one_sided else 4 / 5) ** 0.5 * float((fine - coarse).norm())
        if error == 0:
            return 0.0, fine
        size = min(float(fine.norm()), float(coarse.norm())) - error
        return (error / size if size > 0 else math.inf), fine
