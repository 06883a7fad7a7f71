"""Away from a saddle: down along proven negative curvature, or by a random kick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from hesscope import probes, rounding
from hesscope.curvature.hessian import Hessian
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.height import height
from hesscope.problem.problem import Problem
from hesscope.results.landscape import Escape
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import progress
from hesscope.system.contexts import public

DOUBLINGS = 10  # of the first step while the loss still falls: it may be unbounded below


@public
def escape(
    problem: Problem,
    pairs: Eigenpairs | None = None,
    *,
    max_matvecs: int = 100,
    seed: int | None = None,
) -> Escape:
    """Moves theta along a direction v of proven negative curvature to where the loss is lower.

    v is the eigenvector of the smallest eigenvalue. Negative curvature counts as proven when v'Hv
    from a fresh product is below zero by more than rounding; else nothing is moved (`found` is
    False), and the certified lower bound of λmin says what may have been overlooked. The step is
    θ + t v with the sign of v that leads downhill (-g'v > 0); where g and v are orthogonal to
    rounding, both signs are tried and the lower loss wins (Goldfarb 1980; Nocedal and Wright 2006,
    section 3.4). The line search is `_descend`. Costs one gradient, at most `max_matvecs` products
    and usually 5 to 30 losses over all data, twice that for both signs.

    The model is left as it was. `problem.at(e.theta)` measures at the new parameters, and
    `problem.write(e.theta)` writes them into the model.

    Args:
        problem: at the parameters to get away from.
        pairs: eigenpairs of its Hessian at these parameters, to save their products; those with
            which="SA" or "BE" hold the smallest eigenvalue.
        max_matvecs: Hessian-vector products to spend at most; without gaps in the spectrum it takes
            more of them to prove less.
        seed: of the random start; a fresh one by default.

    Raises:
        ValueError: if max_matvecs is below 3, or the pairs are not of this Hessian.
        RuntimeError: if the loss or a product is not finite.

    >>> import torch, hesscope as hs
    >>> saddle = hs.Problem.from_function(
    ...     lambda t: t[0] ** 2 - t[1] ** 2 + t[1] ** 4 / 2, torch.zeros(2).double())
    >>> e = hs.escape(saddle)
    >>> e.found, round(e.curvature, 6), round(e.loss_after, 6)  # minima -1/2 at (0, ±1)
    (True, -2.0, -0.5)
    """
    if isinstance(max_matvecs, bool) or not isinstance(max_matvecs, int) or max_matvecs < 3:
        msg = f"max_matvecs={max_matvecs} is too little to find a direction; the usual is 100."
        raise ValueError(msg)
    H = Hessian(problem)
    spent = 0
    if pairs is None:
        pairs = eigsh(
            H, 1, which="SA", tol=1e-2, verify=False, max_matvecs=max_matvecs - 1, seed=seed
        )
        spent = pairs.num_matvecs
    way = _proof(H, pairs)
    theta, gradient = problem.theta, problem.gradient()
    slope = _dot(gradient, way.v)
    slopes = way.size * float(theta.norm()) + float(gradient.norm())
    floor = rounding.product_noise(problem.dtype, slopes)
    signs = (1.0, -1.0) if abs(slope) <= floor else (-math.copysign(1.0, slope),)
    line = _Line(problem, theta, way.v, problem.loss())
    if way.proven:
        _descend(line, way.curvature, signs)
    t, loss = line.best()
    sign = math.copysign(1.0, t) if t else signs[0]
    return Escape(
        found=way.proven,
        theta=line.point(t),
        direction=sign * way.v,
        curvature=way.curvature,
        residual=way.residual,
        rounding=way.rounding,
        slope=sign * slope,
        length=abs(t),
        predicted=-t * slope - t**2 / 2 * way.curvature if t else 0.0,
        loss_before=line.start,
        loss_after=loss,
        loss_rounding=line.rounding,
        certificate=pairs.certificate,
        num_matvecs=spent + 1,
        num_gradients=1,
        num_evaluations=1 + len(line.losses),
        facts=H.facts(),
    )


@public
def kick(problem: Problem, radius: float, *, seed: int = 0) -> Tensor:
    """theta moved by `radius` in a uniformly random direction, (n,): a point of the sphere around.

    This is the noise that lets gradient descent leave strict saddles (Ge, Huang, Jin and Yuan 2015,
    algorithm 1). Jin et al. 2017 draw from the ball instead, which differs little: in n dimensions
    the length of such a kick is within radius/n of the radius on average. The direction depends on
    the seed alone, not on dtype, device or the number of processes. The model is left as it was;
    `problem.write(hs.kick(problem, radius))` moves it. Costs nothing.

    Raises:
        ValueError: if the radius is not positive, or so small that rounding swallows the kick.

    >>> import torch, hesscope as hs
    >>> problem = hs.Problem.from_function(lambda t: t.prod(), torch.ones(3).double())
    >>> round(float((hs.kick(problem, 0.1) - problem.theta).norm()), 12)
    0.1
    """
    if not 0 < radius < math.inf:
        msg = f"radius={radius}; give a positive length, such as 0.01 * problem.theta.norm()."
        raise ValueError(msg)
    theta = problem.theta
    z = probes.gaussian(problem.n, probes.key(seed, "kick"))
    moved = theta.double() + radius * (z / z.norm()).to(theta.device)
    kicked = moved.to(theta.dtype)
    if not float((kicked.double() - theta.double()).norm()) >= radius / 2:
        msg = (
            f"radius={radius:g} is lost in the rounding of {problem.dtype} parameters of norm "
            f"{float(theta.norm()):g}; give a larger radius, or use model.double()."
        )
        raise ValueError(msg)
    return kicked


@dataclass(frozen=True)
class _Direction:
    """A unit vector and the curvature along it, from a product of its own."""

    v: Tensor
    curvature: float
    residual: float
    size: float  # of the operator: what rounding is measured by
    rounding: float

    @property
    def proven(self) -> bool:
        return self.curvature < -self.rounding


def _proof(H: Hessian, pairs: Eigenpairs) -> _Direction:
    """The curvature along the lowest eigenvector; one matvec.

    Raises:
        ValueError: if the pairs are not of H as it is now.
    """
    if pairs.eigenvectors.shape[0] != H.n or len(pairs) == 0:
        msg = (
            f"pairs hold vectors of shape {tuple(pairs.eigenvectors.shape)}, this Hessian has "
            f"n={H.n}; give hs.eigsh(hs.Hessian(problem), 1, which='SA')."
        )
        raise ValueError(msg)
    lowest = int(pairs.eigenvalues.argmin())
    v = pairs.eigenvectors[:, lowest].to(H.device, H.dtype)
    v = v / v.norm()
    Hv = H @ v
    curvature, expected = _dot(v, Hv), float(pairs.eigenvalues[lowest])
    bounds = [pairs.certificate.lower, pairs.certificate.upper, *pairs.eigenvalues.tolist()]
    size = max(abs(bound) for bound in bounds if math.isfinite(bound))
    noise = rounding.product_noise(H.dtype, size)
    allowed = max(float(pairs.residuals[lowest]), 1e-3 * size) + noise
    if not abs(curvature - expected) <= allowed:
        msg = (
            f"pairs say {expected:.6g} where v'Hv is {curvature:.6g}: they belong to another "
            "operator, or to other parameters. Leave `pairs` out, or compute them again."
        )
        raise ValueError(msg)
    return _Direction(v, curvature, float((Hv - curvature * v).norm()), size, noise)


@dataclass
class _Line:
    """The loss on θ + t v, remembered at every t that was asked for."""

    problem: Problem
    theta: Tensor
    v: Tensor
    start: float  # the loss at t = 0
    losses: dict[float, float] = field(default_factory=dict)

    def point(self, t: float) -> Tensor:
        return self.theta + t * self.v if t else self.theta

    def loss(self, t: float) -> float:
        """L(θ + t v), infinite where it is not finite."""
        if t not in self.losses:
            self.losses[t] = height(self.problem, self.point(t))
            progress.report("line search: losses", len(self.losses))
        return self.losses[t]

    @property
    def rounding(self) -> float:
        return rounding.loss_change_noise(self.problem.dtype, abs(self.start))

    def falls(self, t: float) -> bool:
        """Whether the loss at t is below the start by more than rounding."""
        return self.loss(t) < self.start - self.rounding

    def best(self) -> tuple[float, float]:
        """The t with the lowest loss and that loss; 0 and the start where nothing falls."""
        t = min(self.losses, key=self.losses.__getitem__, default=0.0)
        return (t, self.losses[t]) if t and self.falls(t) else (0.0, self.start)


def _descend(line: _Line, curvature: float, signs: tuple[float, ...]) -> None:
    """Halves or doubles t to the lowest loss on that grid, then refines once by a parabola.

    The first t is √(2|L|/|v'Hv|), at which -t²/2 |v'Hv| alone would have used up the whole loss:
    where losses are not negative the quadratic model must have failed by then, so this is the far
    end, in the right units whatever the scale of theta; 1 where the loss is 0. Halving stops when
    the decrease t²/2 |v'Hv| that the curvature promises is lost in the rounding of the loss.
    """
    longest = math.sqrt(2 * abs(line.start) / abs(curvature)) or 1.0
    for sign in signs:
        t = sign * longest
        for _ in range(math.ceil(-math.log2(rounding.eps(line.problem.dtype)) / 2)):
            if line.falls(t):
                break
            t /= 2
        for factor in (2.0, 0.5):
            for _ in range(DOUBLINGS):
                if not line.loss(factor * t) < line.loss(t):
                    break
                t *= factor
        if line.falls(t):
            _refine(line, t)


def _refine(line: _Line, t: float) -> None:
    """One more loss, at the lowest point of the parabola through t/2, t and 2t, if it has one."""
    a, b, c = line.loss(t / 2), line.loss(t), line.loss(2 * t)
    first, second = 2 * (b - a) / t, (c - b) / t  # mean slopes on the two cells
    bend = (second - first) / (0.75 * t)  # the cells' midpoints lie 3t/4 apart
    if 0 < bend * t * t < math.inf:
        lowest = 0.75 * t - first / bend
        if t / 2 < lowest < 2 * t or 2 * t < lowest < t / 2:
            line.loss(lowest)


def _dot(v: Tensor, w: Tensor) -> float:
    return float(v.double() @ w.double())
