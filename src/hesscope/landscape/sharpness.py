"""Sharpness of a minimum by the measures of the field, each with unit, invariance and error."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from hesscope import probes
from hesscope.curvature.hessian import Hessian
from hesscope.estimators.trace import trace
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.climb import Cost, Summit, climb
from hesscope.landscape.nearby import average_rise, critical_step, step_rise
from hesscope.problem.problem import Problem
from hesscope.results.sharpness import Sharpness, SharpnessMeasure
from hesscope.results.spectrum import Eigenpairs
from hesscope.steps.update import update
from hesscope.system.contexts import public

NOTHING = "nothing but what leaves θ as it is"
UNITS = "permuted units, signs of units"  # orthogonal maps of θ that the network undoes
SCALE = "rescaled weights that the network undoes (ReLU), permuted units"
RISE, CURVATURE = "loss", "loss per squared parameter"


@public
def sharpness(
    problem: Problem,
    *,
    radius: float = 0.05,
    adaptive_radius: float = 0.5,
    epsilon: float = 1e-3,
    m: int = 32,
    num_parts: int = 16,
    num_pairs: int = 16,
    subspace: int = 100,
    steps: int = 10,
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> Sharpness:
    """How sharp the loss is at θ, by nine measures; compare two networks at equal loss only.

    - "Keskar box", "Keskar subspace": 100 (max L - L)/(1 + L) over |δ_i| ≤ ε (|θ_i| + 1), of all
      parameters or of `subspace` random orthonormal directions (Keskar et al. 2017, metric 2.1).
    - "worst in ball": max L - L over ‖δ‖ ≤ radius; about radius² λmax/2 at a minimum.
    - "average in ball": E L - L, δ uniform there; about radius² tr H/(2 (n + 2)).
    - "SAM", "ASAM": the rise by one ascent step on m examples, mean over parts of the data (Foret
      et al. 2021; Kwon et al. 2021 with steps relative to |θ|, `adaptive_radius`).
    - "λmax", "trace": of the Hessian. A negative trace is that of a point that is no minimum.
    - "critical": 2/t for the shortest step t down the gradient, or t times the optimiser's update,
      that raises the loss; for a quadratic g'Hg/g'g.

    Maxima are climbed for and are lower bounds; away from a minimum they hold the slope, too, and
    their note says how much. None of the measures but ASAM survives a rescaling
    of weights that leaves the network what it is (Dinh et al. 2017), and none is generalisation.

    Args:
        problem: at the point in question.
        radius: of balls and SAM steps, in the units of the parameters.
        adaptive_radius: of ASAM steps, relative to the weights.
        epsilon: of Keskar's boxes.
        m: examples in a part of the data.
        num_parts: for SAM and ASAM, at most.
        num_pairs: of random points for the average.
        subspace: dimensions of Keskar's subspace.
        steps: of each climb, at most.
        optimizer: whose next step is made longer for "critical"; by default gradient descent.
        seed: of random starts and directions.

    Raises:
        ValueError: if a radius or a number is not positive.

    >>> import torch, hesscope as hs
    >>> bowl = lambda t: (torch.tensor([4.0, 2.0]) * t**2).sum() / 2
    >>> found = hs.sharpness(hs.Problem.from_function(bowl, torch.zeros(2)), radius=0.5)
    >>> round(found["worst in ball"].value, 5), round(found["λmax"].value, 5)  # 0.5² 4/2, 4
    (0.5, 4.0)
    """
    _check(radius=radius, adaptive_radius=adaptive_radius, epsilon=epsilon, m=m)
    _check(num_parts=num_parts, num_pairs=num_pairs, subspace=subspace, steps=steps)
    loss, g, cost = problem.loss(), problem.gradient(), Cost(1, 1)
    H = Hessian(problem)
    pairs = eigsh(H, k=1, seed=seed)
    traced = trace(H, rtol=0.02, pairs=pairs, seed=seed)
    measures = [
        *_keskar(problem, g, epsilon, subspace, steps, seed, loss, cost),
        _worst(problem, g, radius, steps, pairs, loss, cost),
        _average(problem, radius, num_pairs, seed, loss, cost),
        *_ascents(problem, radius, adaptive_radius, m, num_parts, cost),
        SharpnessMeasure(
            "λmax",
            float(pairs.eigenvalues[0]),
            float(pairs.residuals[0]),
            "exact",
            CURVATURE,
            UNITS,
        ),
        SharpnessMeasure("trace", traced.value, traced.stderr, "estimate", CURVATURE, UNITS),
        _critical(problem, g, optimizer, loss, cost),
    ]
    return Sharpness(
        loss,
        tuple(measures),
        float(g.norm()),
        pairs.num_matvecs + traced.num_matvecs,
        math.ceil(cost.gradients),
        math.ceil(cost.losses),
        problem.facts(),
    )


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
            msg = f"{name}={value}; give a positive number."
            raise ValueError(msg)


def _keskar(
    problem: Problem,
    g: Tensor,
    epsilon: float,
    subspace: int,
    steps: int,
    seed: int,
    loss: float,
    cost: Cost,
) -> list[SharpnessMeasure]:
    """ε-sharpness in the box of all parameters, and in that of random directions."""
    box = epsilon * (problem.theta.abs() + 1)
    drawn = [
        _drawn(problem, probes.key(seed, "subspace", i)) for i in range(min(subspace, problem.n))
    ]
    Q = torch.linalg.qr(torch.stack(drawn, dim=1))[0]
    small = epsilon * ((Q.T @ problem.theta).abs() + 1)

    def in_all(g: Tensor) -> Tensor:
        return box * g.sign()

    def in_some(g: Tensor) -> Tensor:
        return Q @ (small * (Q.T @ g).sign())

    unit = f"% of 1 + loss, box of {epsilon:g} (|θ| + 1)"
    found = []
    for name, farthest in (("Keskar box", in_all), ("Keskar subspace", in_some)):
        starts = [farthest(g), farthest(_drawn(problem, probes.key(seed, "start of an ascent")))]
        top = climb(problem, farthest, starts, steps, cost)
        slope = float(g @ farthest(g))
        found.append(_bound(name, top, loss, slope, 100 / (1 + loss), unit, NOTHING))
    return found


def _worst(
    problem: Problem,
    g: Tensor,
    radius: float,
    steps: int,
    pairs: Eigenpairs,
    loss: float,
    cost: Cost,
) -> SharpnessMeasure:
    """Of the ball: climbed for from both ends of the sharpest direction and down the gradient."""
    v = pairs.eigenvectors[:, 0].to(problem.device, problem.dtype)

    def farthest(g: Tensor) -> Tensor:
        norm = float(g.norm())
        return g * (radius / norm) if norm > 0 else radius * v

    starts = [radius * v, -radius * v, farthest(g)]
    top = climb(problem, farthest, starts, steps, cost)
    unit = f"{RISE}, ball of {radius:g}"
    return _bound("worst in ball", top, loss, radius * float(g.norm()), 1.0, unit, UNITS)


def _bound(
    name: str, top: Summit, loss: float, slope: float, scale: float, unit: str, invariant: str
) -> SharpnessMeasure:
    """A maximum that was climbed for, with what the slope alone would make of it."""
    value, spread = scale * (top.loss - loss), scale * top.spread
    note = (
        f"a lower bound: the best of {len(top.heights)} climbs, {spread:.2g} above the next; "
        f"the slope at θ alone makes {scale * slope:.2g}"
    )
    return SharpnessMeasure(name, value, spread, "bound", unit, invariant, note)


def _average(
    problem: Problem, radius: float, num_pairs: int, seed: int, loss: float, cost: Cost
) -> SharpnessMeasure:
    value, error = average_rise(problem, radius, num_pairs, seed, loss, cost)
    unit = f"{RISE}, ball of {radius:g}"
    return SharpnessMeasure("average in ball", value, error, "estimate", unit, UNITS)


def _ascents(
    problem: Problem, radius: float, relative: float, m: int, num_parts: int, cost: Cost
) -> list[SharpnessMeasure]:
    """SAM and ASAM, over parts of m examples."""
    found = []
    for name, size, adaptive in (("SAM", radius, False), ("ASAM", relative, True)):
        value, error, parts = step_rise(problem, size, m, num_parts, adaptive, cost)
        unit = f"{RISE}, {m} examples, step {size:g}{' of |θ|' if adaptive else ''}"
        kind = "estimate" if parts else "unknown"
        note = f"over {parts} parts of the data" if parts else f"no batch holds {m} examples"
        invariant = SCALE if adaptive else UNITS
        found.append(SharpnessMeasure(name, value, error, kind, unit, invariant, note))
    return found


def _critical(
    problem: Problem, g: Tensor, optimizer: Optimizer | None, loss: float, cost: Cost
) -> SharpnessMeasure:
    """2/t, t the shortest step that raises the loss."""
    step = -g if optimizer is None else update(problem, optimizer, g).step
    of = "learning rate" if optimizer is None else f"steps of {type(optimizer).__name__}"
    unit, name = f"2 / {of}", "critical"
    if float(step.norm()) == 0 or float(step @ g) >= 0:
        note = "the step does not point down, so no length of it is critical"
        return SharpnessMeasure(name, math.nan, math.nan, "unknown", unit, UNITS, note)
    t, half = critical_step(problem, step, loss, cost)
    if not math.isfinite(t):
        note = "no step between 1e-12 and 1e12 of it separates fall from rise"
        return SharpnessMeasure(name, math.nan, math.nan, "unknown", unit, UNITS, note)
    return SharpnessMeasure(name, 2 / t, 2 * half / t**2, "exact", unit, UNITS)


def _drawn(problem: Problem, seed: int) -> Tensor:
    return probes.gaussian(problem.n, seed, dtype=problem.dtype, device=problem.device)
