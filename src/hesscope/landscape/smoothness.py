"""Curvature by automatic differentiation against differences of gradients at several lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.autodiff.graph import KINKS, node_names
from hesscope.curvature.hessian import Hessian
from hesscope.problem.calls import NonFiniteLossError
from hesscope.problem.data import Batch
from hesscope.problem.parameters import flatten
from hesscope.problem.problem import Problem
from hesscope.results.smoothness import Smoothness
from hesscope.system import progress

# Of the step: far below it, where a smooth loss is quadratic to all digits and a kinked one is not,
# up to beyond it. Kinks of small ReLU networks first showed at 1e-3 to 0.3 of a step at lr 0.1.
STEPS = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)
JITTERS = 2  # gradients at parameters moved by one rounding: their differences are its noise
SAFETY = 4  # times the larger of two samples of the noise


def smoothness(
    problem: Problem,
    direction: Tensor,
    ad_product: Tensor | None = None,
    radii: Sequence[float] | None = None,
    *,
    name: str = "the step",
    seed: int = 0,
) -> Smoothness:
    """The quadratic model along a direction against the loss and its gradient at lengths h.

    With the unit vector v along `direction`: v'Hv, (g(θ+hv) - g(θ-hv))·v/2h and the remainder
    L(θ+hv) - L - h g·v - h²/2 v'Hv, each with what rounding can do to it. That is measured, too:
    loss and gradient at parameters moved at random by one unit in the last place.

    Automatic differentiation sees none of the curvature that sits in kinks. For a ReLU network the
    difference quotient at step length, not v'Hv, is what a step meets.

    Args:
        problem: whose loss is looked at, at its current parameters; the model comes back as it was.
        direction: (n,), for example -lr·g: its length is the length of the step of interest.
        ad_product: H @ direction, if it is known.
        radii: lengths h; by default 1e-3, 1e-2, 0.1, 0.3, 1 and 3 times that of `direction`.
        name: of the direction, for the reader of the result.
        seed: of the rounding probe.

    Costs 2 gradients per radius, 3 more, a forward pass of one batch, and 1 matvec without
    `ad_product`.

    Raises:
        ValueError: if direction or ad_product is no finite vector (n,), if direction is zero, or a
            radius is not positive.
        RuntimeError: if the loss at the current parameters is not finite.

    >>> import torch, hesscope as hs
    >>> start = torch.tensor([1.0, 2.0]).double()
    >>> hinge = hs.Problem.from_function(lambda t: t[0] ** 2 + (t[1] - 2.5).relu(), start)
    >>> s = smoothness(hinge, torch.tensor([0.0, 1.0]).double(), radii=[0.1, 1.0])
    >>> s.curvature, s.differences  # the slope goes from 0 to 1 at distance 0.5
    (0.0, tensor([0.0000, 0.5000], dtype=torch.float64))
    """
    d = _vector(problem, direction, "direction")
    length = float(d.norm())
    lengths = _lengths(radii, length)
    v = d / length
    if ad_product is None:
        product, num_matvecs = Hessian(problem) @ v.to(problem.dtype), 1
    else:
        product, num_matvecs = _vector(problem, ad_product, "ad_product") / length, 0
    here = _look(problem, problem.theta, v)
    measured = [_along(problem, here, v, h) for h in _reported(lengths)]
    noise = _noise(problem, here, v, seed)
    h, curvature = torch.tensor(lengths, dtype=torch.float64), float(v @ product.double())
    losses, slopes = torch.tensor(measured, dtype=torch.float64).unbind(1)
    return Smoothness(
        direction=name,
        step_length=length,
        slope=here.slope,
        curvature=curvature,
        radii=h,
        differences=slopes / (2 * h),
        difference_rounding=SAFETY * noise.slope / h,
        remainders=losses - h * here.slope - h.square() / 2 * curvature,
        remainder_rounding=SAFETY * (noise.loss + h * noise.slope),
        kinks=_kinks(problem),
        num_gradients=2 * len(h) + 1 + JITTERS,
        num_matvecs=num_matvecs,
        facts=problem.facts(),
    )


@dataclass(frozen=True)
class _Sight:
    """The loss, its slope along v and its gradient (n,) at a point."""

    loss: float
    slope: float
    gradient: Tensor


def _look(problem: Problem, theta: Tensor, v: Tensor) -> _Sight:
    """Loss, slope along v and gradient at theta; one gradient.

    Raises:
        NonFiniteLossError: if the loss is not finite there.
    """

    def both(batch: Batch) -> Tensor:
        loss = e.finite_loss(batch)
        return torch.cat([loss.detach().reshape(1), flatten(e.derivatives(loss))])

    with problem.at(theta).evaluation() as e:
        found = e.mean(both).double()
    return _Sight(float(found[0]), float(found[1:] @ v), found[1:])


def _kinks(problem: Problem) -> tuple[str, ...]:
    """The operations with kinks behind the loss of the first batch; one forward pass."""
    with problem.evaluation() as e:
        names = node_names([e.finite_loss(e.batches.first)])
    found = {name.partition("Backward")[0] for name in names if any(k in name for k in KINKS)}
    return tuple(sorted(found))


def _along(problem: Problem, here: _Sight, v: Tensor, h: float) -> tuple[float, float]:
    """L(θ+hv) - L(θ) and (g(θ+hv) - g(θ-hv))·v; NaN where the loss is not finite."""
    theta = problem.theta.double()
    try:
        ahead, behind = (_look(problem, theta + sign * h * v, v) for sign in (1, -1))
    except NonFiniteLossError:
        return math.nan, math.nan
    return ahead.loss - here.loss, ahead.slope - behind.slope


def _noise(problem: Problem, here: _Sight, v: Tensor, seed: int) -> _Sight:
    """What rounding does to the loss and to a slope, from parameters moved by one rounding.

    A slope is at least as noisy as the mean entry of the gradient, so that one lucky direction
    does not pass for exactness.
    """
    theta, eps = problem.theta, rounding.eps(problem.dtype)
    loss, slope = eps * abs(here.loss), eps * abs(here.slope)
    for jitter in range(JITTERS):
        signs = probes.rademacher(
            problem.n,
            probes.key(seed, "rounding of parameters", jitter),
            dtype=problem.dtype,
            device=problem.device,
        )
        there = _look(problem, theta * (1 + eps * signs), v)
        change = there.gradient - here.gradient
        loss = max(loss, abs(there.loss - here.loss))
        slope = max(slope, abs(float(change @ v)), float(change.norm()) / math.sqrt(problem.n))
    return _Sight(loss, slope, here.gradient)


def _vector(problem: Problem, given: Tensor, name: str) -> Tensor:
    """The vector in float64 on the device of the problem.

    Raises:
        ValueError: if it is no finite vector of length n, or a direction of length zero.
    """
    vector = torch.as_tensor(given, dtype=torch.float64, device=problem.device).detach()
    usable = vector.shape == (problem.n,) and bool(vector.isfinite().all())
    if not usable or (name == "direction" and float(vector.norm()) == 0):
        msg = (
            f"{name} has shape {tuple(vector.shape)} and norm {float(vector.norm()):g}; give a "
            f"finite vector of shape ({problem.n},), such as -lr * problem.gradient() for a step."
        )
        raise ValueError(msg)
    return vector


def _lengths(radii: Sequence[float] | None, step: float) -> list[float]:
    """The radii in ascending order.

    Raises:
        ValueError: if there is none, or one is not positive and finite.
    """
    lengths = sorted(float(h) for h in radii) if radii is not None else [f * step for f in STEPS]
    if not lengths or not all(0 < h < math.inf for h in lengths):
        msg = f"radii={list(radii or [])} must be positive lengths, such as [1e-3, 1e-2, 0.1]."
        raise ValueError(msg)
    return lengths


def _reported(lengths: list[float]) -> list[float]:
    progress.report("smoothness: radii", 0, len(lengths))
    return lengths
