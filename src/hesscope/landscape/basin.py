"""How far flat is flat: the loss at growing distance from θ."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hesscope import probes, rounding
from hesscope.curvature.hessian import Hessian
from hesscope.estimators.density import spectral_density
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.climb import Cost
from hesscope.landscape.height import height
from hesscope.landscape.symmetries import Symmetry, symmetries
from hesscope.operator import SymmetricOperator
from hesscope.problem.problem import Problem
from hesscope.results.basin import Basin, Walk
from hesscope.results.estimate import Interval
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import progress
from hesscope.system.contexts import public

NUM = 13  # distances, in equal ratios
NEAREST = 1e-3  # of the radius, the first of them
BISECTIONS = 4  # of the interval in which a width lies
Way = Callable[[float], Tensor]  # signed distance -> theta


@public
def basin(
    problem: Problem,
    pairs: Eigenpairs | None = None,
    radius: float = 10.0,
    *,
    rise: float = 0.1,
    tau: float | None = None,
    num_directions: int = 3,
    max_matvecs: int = 100,
    seed: int = 0,
) -> Basin:
    """The loss at distances up to a radius along flat directions, symmetry orbits and random ones.

    Flat directions are random vectors from which the range of H is taken out (v = z - x with
    H x = H z to `max_matvecs` products, by the minimal residual method of Paige and Saunders 1975);
    ‖Hv‖ from a fresh product says how flat each is. Of `pairs` given, those within tau come first.
    Symmetries are guessed from the modules and kept where they leave the loss to rounding:
    rescaling of units through ReLU or nothing, the scale before a normalisation, softmax shift,
    attention. Along their orbits, which are curved, the loss is the same at any distance, and at a
    critical point each of their dimensions is an eigenvalue zero that no data explains.

    Args:
        problem: at a minimum, or near one.
        pairs: eigenpairs, the flat ones of which are walked along.
        radius: how far, in ‖θ' - θ‖.
        rise: of the loss, at which a width is read.
        tau: |λ| up to which a direction is called flat; by default 1e-3 of λmax.
        num_directions: of each kind.
        max_matvecs: for each flat direction, and for counting the flat eigenvalues.
        seed: of random vectors.

    Raises:
        ValueError: if radius, rise or a number is not positive.

    >>> import torch, hesscope as hs
    >>> valley = hs.Problem.from_function(lambda t: t[0] ** 2, torch.zeros(2).double())
    >>> found = hs.basin(valley, rise=0.04, num_directions=1)
    >>> found.of_kind("flat")[0].width, round(found.of_kind("random")[0].curvature, 1) > 0
    (inf, True)
    """
    for name, value in (("radius", radius), ("rise", rise), ("num_directions", num_directions)):
        if not (math.isfinite(value) and value > 0):
            msg = f"{name}={value}; give a positive number."
            raise ValueError(msg)
    H, loss, cost = Hessian(problem), problem.loss(), Cost(0, 1)
    top = eigsh(H, k=1, which="LM", seed=seed)
    size = abs(float(top.eigenvalues[0]))
    tau = 1e-3 * size if tau is None else tau
    flat, spent = _flat(H, pairs, tau, num_directions, max_matvecs, seed)
    known = symmetries(problem)
    cost.losses += 3 * len(known)
    walker = _Walker(problem, H, loss, rise, radius, cost)
    walks = [walker.straight(f"flat {i + 1}", "flat", v) for i, v in enumerate(flat)]
    for i in range(num_directions):
        if known:
            walks.append(walker.orbit(known[i % len(known)], probes.key(seed, "symmetry orbit", i)))
    for i in range(num_directions):
        z = probes.gaussian(
            problem.n,
            probes.key(seed, "random walk", i),
            dtype=problem.dtype,
            device=problem.device,
        )
        walks.append(walker.straight(f"random {i + 1}", "random", z / z.norm()))
    counted, more = _count(H, tau, max_matvecs, seed)
    noise = rounding.loss_change_noise(problem.dtype, abs(loss))
    return Basin(
        loss, rise, radius, noise, tuple(walks), tau, counted,
        tuple(f"{s.name}, {s.dimensions} dimensions" for s in known),
        sum(s.dimensions for s in known), problem.n,
        top.num_matvecs + spent + walker.num_matvecs + more, int(cost.losses), problem.facts(),
    )  # fmt: skip


def _flat(
    H: SymmetricOperator,
    pairs: Eigenpairs | None,
    tau: float,
    num: int,
    max_matvecs: int,
    seed: int,
) -> tuple[list[Tensor], int]:
    """Unit vectors with little of the range of H, and the products that they cost."""
    found: list[Tensor] = []
    if pairs is not None:
        within = (pairs.eigenvalues.abs() + pairs.residuals <= tau).nonzero().flatten().tolist()
        found = [pairs.eigenvectors[:, i].to(H.device, H.dtype) for i in within[:num]]
    spent = 0
    for i in range(len(found), num):
        v, products = _null_vector(H, probes.key(seed, "flat direction", i), min(max_matvecs, H.n))
        spent += products
        found.append(v)
        progress.report("flat directions", i + 1, num)
    return found, spent


def _null_vector(H: SymmetricOperator, seed: int, max_matvecs: int) -> tuple[Tensor, int]:
    """z less what H makes of a Krylov space, of length 1: the part of a random z outside its range.

    Lanczos on b = H z with its whole basis kept gives x that minimises ‖H x - b‖ there; what is
    left, z - x, is in the null space as far as H was seen.
    """
    z = probes.gaussian(H.n, seed, dtype=torch.float64, device=H.device)
    b = (H @ z.to(H.dtype)).double()
    basis: list[Tensor] = []
    images: list[Tensor] = []
    w = b
    for _ in range(max_matvecs - 1):
        for _ in range(2):
            for q in basis:
                w = w - q * (q @ w)
        norm = float(w.norm())
        if norm <= rounding.breakdown(H.dtype, float(b.norm())):
            break
        basis.append(w / norm)
        w = (H @ basis[-1].to(H.dtype)).double()
        images.append(w)
    if not basis:
        return (z / z.norm()).to(H.dtype), 1
    Q, HQ = torch.stack(basis, dim=1), torch.stack(images, dim=1)
    rank = rounding.rank_threshold(H.dtype, HQ.shape[1], 1.0)
    x = (
        Q
        @ torch.linalg.lstsq(HQ.cpu(), b.cpu()[:, None], rcond=rank, driver="gelsd")[0].to(Q)[:, 0]
    )
    v = z - x
    return (v / v.norm()).to(H.dtype), 1 + len(basis)


def _count(
    H: SymmetricOperator, tau: float, max_matvecs: int, seed: int
) -> tuple[Interval | None, int]:
    """How many eigenvalues lie within ± tau; None where the Hessian is zero altogether."""
    if tau <= 0:
        return None, 0
    density = spectral_density(H, max_matvecs=max(max_matvecs, 20), seed=seed)
    return density.count(-tau, tau), density.num_matvecs


class _Walker:
    """Walks away from θ and reads the width of the basin."""

    def __init__(
        self,
        problem: Problem,
        H: SymmetricOperator,
        loss: float,
        rise: float,
        radius: float,
        cost: Cost,
    ) -> None:
        self.problem, self.H, self.theta = problem, H, problem.theta
        self.loss, self.rise, self.cost, self.num_matvecs = loss, rise, cost, 0
        ratio = torch.linspace(math.log(NEAREST), 0, NUM, dtype=torch.float64)
        self.distances = radius * ratio.exp()

    def straight(self, name: str, kind: str, v: Tensor) -> Walk:
        """Along a unit vector."""
        Hv = self.H @ v
        self.num_matvecs += 1
        curvature, residual = float(v.double() @ Hv.double()), float(Hv.double().norm())
        return self._walk(name, kind, lambda d: self.theta + d * v, curvature, residual)

    def orbit(self, symmetry: Symmetry, seed: int) -> Walk:
        """Along a symmetry, all its units by random amounts."""
        u = probes.gaussian(symmetry.dimensions, seed, dtype=torch.float64, device=self.H.device)
        u = u / u.norm()

        def moved(t: float) -> Tensor:
            return symmetry.moved(self.problem, self.theta, u, t)

        def at(d: float) -> Tensor:
            return moved(math.copysign(self._time(moved, d), d))

        return self._walk(symmetry.name, "symmetry", at, math.nan, math.nan)

    def _time(self, moved: Way, d: float) -> float:
        """The |t| at which an orbit is as far from θ as d, by bisection."""
        low, high = 0.0, 1e-6
        while float((moved(math.copysign(high, d)) - self.theta).norm()) < abs(d) and high < 40:
            low, high = high, 2 * high
        for _ in range(30):
            middle = (low + high) / 2
            near = float((moved(math.copysign(middle, d)) - self.theta).norm()) < abs(d)
            low, high = (middle, high) if near else (low, middle)
        return high

    def _walk(self, name: str, kind: str, at: Way, curvature: float, residual: float) -> Walk:
        rises = torch.tensor(
            [[self._rise(at, sign * d) for sign in (1, -1)] for d in self.distances.tolist()],
            dtype=torch.float64,
        )
        width, error = min(
            (self._width(at, sign, rises[:, i]) for i, sign in enumerate((1.0, -1.0))),
            key=lambda pair: pair[0],
        )
        return Walk(name, kind, self.distances, rises, width, error, curvature, residual)

    def _width(self, at: Way, sign: float, rises: Tensor) -> tuple[float, float]:
        """(distance, half width) at which the loss first has risen, between the distances seen."""
        over = (rises > self.rise).nonzero().flatten()
        if not len(over):
            return math.inf, 0.0
        first = int(over[0])
        high = float(self.distances[first])
        low = float(self.distances[first - 1]) if first else 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self._rise(at, sign * middle) > self.rise:
                high = middle
            else:
                low = middle
        return (low + high) / 2, (high - low) / 2

    def _rise(self, at: Way, d: float) -> float:
        self.cost.losses += 1
        return height(self.problem, at(d)) - self.loss
