"""Traces of functions of an operator: tr f(A), log-determinant, effective dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hesscope import probes, rounding
from hesscope.krylov import certificate
from hesscope.krylov.basis import Basis
from hesscope.krylov.given import checked
from hesscope.krylov.lanczos import Lanczos, independent_seed, random_start
from hesscope.krylov.noise import noise_in_span, noise_of_run, told
from hesscope.operator import (
    OperatorLike,
    SymmetricOperator,
    at_order_one,
    symmetric_operator,
)
from hesscope.quadrature import Floats, gauss, radau
from hesscope.results.estimate import Estimate, student_quantile
from hesscope.results.spectrum import Eigenpairs
from hesscope.system import progress
from hesscope.system.contexts import public

LEVEL = 0.95  # of the interval whose half-width rtol speaks of
PILOT = 3  # probes from which the number of probes is planned
DEFLATING = 4  # one of so many products at most goes to a run that only finds outliers
STEPS = 12  # that a probe is expected to take, when the run for outliers is planned
LOCKED = 1e-4  # residual relative to |θ| at which an outlier is taken out
SHARE = 0.2  # of the sampling error that the quadrature may leave open
SETTLE = 4  # steps between two looks at a run
DELTA = 1e-3  # probability that a certified lower end is wrong
RESOLVED = 1e-2  # residual relative to |λ| up to which given pairs are of use
FEWEST = 24  # products: outliers, a lower end, and a pilot of two steps each

Function = Callable[[Floats], Floats]
Rules = Callable[[Lanczos, Function], tuple[float, float]]


@public
def trace_function(
    A: OperatorLike,
    f: Callable[[Tensor], Tensor],
    *,
    rtol: float = 0.05,
    max_matvecs: int = 500,
    pairs: Eigenpairs | None = None,
    seed: int | None = None,
) -> Estimate:
    """tr f(A) = Σ f(λ_i) for a smooth function f, with sampling error and quadrature error.

    Outliers are taken out and contribute f(λ) exactly; in their complement zᵀf(A)z is integrated
    by Gauss quadrature for random z (stochastic Lanczos quadrature: Ubaru, Chen and Saad 2017).
    The quadrature error is estimated by the distance from the anti-Gauss rule (Laurie 1996), whose
    error has the opposite sign for smooth f: an estimate, not a bound. For counts, which are not
    smooth, use `spectral_density`; for log and λ/(λ + d), `logdet` and `effective_dimension`.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        f: a function of a float64 tensor of eigenvalues, element by element.
        rtol: half-width of the 95 % interval, relative to the value.
        pairs: eigenpairs that are already known, checked by one product and taken out.
        max_matvecs: where to stop when rtol is out of reach; the interval is then wider.
        seed: of the random vectors; a fresh one by default, which the result keeps.

    Raises:
        ValueError: if rtol or max_matvecs cannot be met by anything, or the pairs are not those
            of A.
        RuntimeError: if f or a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([2.0, 1.0, 0.0]).double()))
    >>> round(hs.trace_function(A, torch.exp).value, 6)
    11.107338
    """
    function = _finite(f)

    def rules(run: Lanczos, f: Function) -> tuple[float, float]:
        if run.exhausted or run.num_steps == 1:
            value = _integrate(f, gauss(run.alpha, run.beta))
            return value, value
        shorter = _integrate(f, gauss(run.alpha[:-1], run.beta))
        beta = np.array(run.beta)
        beta[-2] *= math.sqrt(2.0)
        opposite = _integrate(f, gauss(run.alpha, beta))
        return min(shorter, opposite), max(shorter, opposite)

    asked = _asked(A, pairs, seed, max_matvecs, rtol)
    return at_order_one(
        asked.A, lambda B, unit: _Sampling(B, function, asked, unit).estimate(rules)
    )


@public
def logdet(
    A: OperatorLike,
    damping: float,
    *,
    rtol: float = 0.01,
    max_matvecs: int = 500,
    pairs: Eigenpairs | None = None,
    seed: int | None = None,
) -> Estimate:
    """log det(A + damping I) = Σ log(λ_i + damping), with an interval that covers.

    As `trace_function`, but the quadrature error is bounded: the derivatives of the logarithm
    alternate in sign, so a Gauss rule lies above and a Gauss-Radau rule with its node at the lower
    end of the spectrum below (Golub and Meurant 2010, theorem 6.4). That end is `A.lower_bound`
    where one is known (G + d I: d, for G positive semidefinite) and otherwise certified, with
    probability 0.999.

    Args:
        A: the operator or matrix, A + damping I positive definite.
        damping: what is added to every eigenvalue.
        rtol: half-width of the 95 % interval, relative to the value.
        pairs: eigenpairs that are already known, checked by one product and taken out.
        max_matvecs: where to stop when rtol is out of reach; the interval is then wider.
        seed: of the random vectors; a fresh one by default, which the result keeps.

    Raises:
        ValueError: if A + damping I has, or cannot be proven not to have, an eigenvalue <= 0.
        RuntimeError: if a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([2.0, 1.0, 0.0]).double()))
    >>> round(hs.logdet(A, damping=1.0).value, 6)  # log 6
    1.791759
    """

    def function(x: Floats) -> Floats:
        return np.log(np.maximum(x + damping, _least(damping)))

    return _above(_asked(A, pairs, seed, max_matvecs, rtol), function, damping, "logdet")


@public
def effective_dimension(
    A: OperatorLike,
    damping: float,
    *,
    rtol: float = 0.05,
    max_matvecs: int = 500,
    pairs: Eigenpairs | None = None,
    seed: int | None = None,
) -> Estimate:
    """tr A (A + damping I)⁻¹ = Σ λ_i/(λ_i + damping): how many directions the data determine.

    Bounded and sampled as `logdet` (MacKay 1992 for its meaning); A + damping I must be positive
    definite. Negative eigenvalues count negatively.

    Args:
        A: the operator, or a matrix as for `as_operator`.
        damping: eigenvalues well above count as one, well below as zero.
        rtol: half-width of the 95 % interval, relative to the value.
        pairs: eigenpairs that are already known, checked by one product and taken out.
        max_matvecs: where to stop when rtol is out of reach; the interval is then wider.
        seed: of the random vectors; a fresh one by default, which the result keeps.

    Raises:
        ValueError: if A + damping I has, or cannot be proven not to have, an eigenvalue <= 0.
        RuntimeError: if a product is not finite.

    >>> import torch, hesscope as hs
    >>> A = hs.as_operator(torch.diag(torch.tensor([3.0, 1.0, 0.0]).double()))
    >>> round(hs.effective_dimension(A, damping=1.0).value, 6)
    1.25
    """
    if not damping > 0:
        msg = f"damping={damping} must be positive, in the units of the eigenvalues."
        raise ValueError(msg)

    def function(x: Floats) -> Floats:
        return x / np.maximum(x + damping, _least(damping))

    asked = _asked(A, pairs, seed, max_matvecs, rtol)
    return _above(asked, function, damping, "effective_dimension")


def _least(damping: float) -> float:
    """Stands for λ + damping where it is not positive: the question is refused afterwards."""
    return max(abs(damping) / rounding.LARGEST, rounding.tiny() * rounding.eps())


@dataclass(frozen=True)
class _Asked:
    """Of which operator, with which pairs taken out, and by which means."""

    A: SymmetricOperator
    pairs: Eigenpairs | None
    seed: int
    budget: int
    rtol: float


def _asked(
    A: OperatorLike, pairs: Eigenpairs | None, seed: int | None, budget: int, rtol: float
) -> _Asked:
    """The arguments as a question.

    Raises:
        ValueError: if they are none.
    """
    A = symmetric_operator(A)
    if not rtol > 0 or budget < FEWEST:
        msg = f"rtol={rtol} must be positive and max_matvecs={budget} at least {FEWEST}."
        raise ValueError(msg)
    return _Asked(A, pairs, A.drawn_seed(seed), budget, rtol)


def _above(asked: _Asked, f: Function, damping: float, name: str) -> Estimate:
    """tr f(A) for a function of which quadrature gives bounds above -damping.

    Raises:
        ValueError: if an eigenvalue is not certain to lie above.
    """

    def answer(B: SymmetricOperator, unit: float) -> Estimate:
        sampling = _Sampling(B, f, asked, unit)
        sampling.need_above(-damping / unit, name)
        return sampling.estimate(sampling.gauss_above_radau_below)

    return at_order_one(asked.A, answer)


@dataclass(frozen=True)
class _Form:
    """m zᵀf(B)z/zᵀz between two bounds, and its variance over z from the same rule."""

    low: float
    high: float
    variance: float


class _Sampling:
    """Outliers taken out, and quadrature along random starts in their complement."""

    def __init__(self, A: SymmetricOperator, f: Function, asked: _Asked, unit: float) -> None:
        self.A, self.budget, self.rtol = A, asked.budget, asked.rtol
        self.f = f if unit == 1.0 else lambda x: f(x * unit)
        self.unit, self.given_seed, self.seed = unit, asked.seed, asked.seed
        self.taken = Basis(A)
        self.values, self.errors = np.zeros(0), np.zeros(0)
        self.exact = self.coupling = self.scale = self.measured = 0.0
        self.num_matvecs = self.num_runs = self.spent_on_forms = 0
        self.lower = A.lower_bound
        self.smallest = math.inf  # of the Ritz values in the complement
        if asked.pairs is None:
            self._find_outliers(min(self.budget // DEFLATING, A.n))
        else:
            self._take_given(asked.pairs)

    def _take_given(self, pairs: Eigenpairs) -> None:
        """Takes out pairs that are A's; they know the start they are from: another one from here.

        Raises:
            ValueError: if they are those of another operator.
        """
        given = checked(self.A, pairs, self.seed, self.unit)
        self.num_matvecs += given.num_matvecs
        self._hear(noise_in_span(self.A, given.vectors, self.seed), given.values)
        self.seed = independent_seed(self.seed, pairs.eigenvectors)
        good = given.residuals <= RESOLVED * np.abs(given.values)
        X, errors = given.vectors[:, torch.from_numpy(good)], given.residuals[good]
        self._take(X, given.values[good], errors, given.misfit)

    def _hear(self, measured: float, values: Floats) -> None:
        """What a measured error E of products does: tr f'(A) E, |tr E| <= √k ‖E‖_F."""
        size = float(np.abs(values).max(initial=0.0))
        if measured > self.A.product_noise(size):
            self.measured = measured
            slope = float(np.abs(self._slopes(values)).max())
            self.coupling += 2 * math.sqrt(len(values)) * measured * slope

    def _slopes(self, values: Floats) -> Floats:
        """f' at these values, from a difference outwards."""
        h = 1e-6 * float(np.abs(values).max(initial=0.0)) or 1.0
        outward = np.where(values >= 0, h, -h)
        return np.asarray((self.f(values + outward) - self.f(values)) / outward, float)

    def need_above(self, bound: float, name: str) -> None:
        """No eigenvalue may lie at or below the bound: none taken out, and none in the complement.

        By Haynsworth's formula those taken out lower the complement by Σ r²/(λ - bound) at most.

        Raises:
            ValueError: if one does, or it cannot be excluded.
        """
        seen = float(self.values.min(initial=math.inf))  # a Ritz value: λmin is no larger
        if min(seen, self.A.lower_bound) > bound:
            return
        certain = float((self.values - self.errors).min(initial=math.inf))
        if certain > bound and len(self.taken) < self.A.n:
            lowered = float((self.errors**2 / (self.values - bound)).sum())
            certain = min(certain, self._lower_end(bound + lowered) - lowered)
            seen = min(seen, self.smallest)
        if certain <= bound:
            known = (
                f"{seen * self.unit:.3g} is an upper bound of the smallest"
                if seen <= bound
                else f"only {certain * self.unit:.3g} is certain as a lower end"
            )
            msg = (
                f"{name} needs all eigenvalues above -damping = {0.0 + bound * self.unit:g}, "
                f"but {known}; raise the damping, or look at hs.eigsh(A, 1, which='SA')."
            )
            raise ValueError(msg)

    def _lower_end(self, bound: float) -> float:
        """A certified lower end of the complement, pursued until it is above the bound."""
        if self.lower > bound:
            return self.lower
        run = self._run()
        room = (self.budget - self.num_matvecs) // 2
        while run.num_steps < room and not run.exhausted and self.lower <= bound < self.smallest:
            self._step(run)
            self.smallest = min(self.smallest, float(run.ritz()[0][0]))
            if run.num_steps >= SETTLE or run.exhausted:
                self.lower = max(self.lower, certificate.lower_bound(run, DELTA))
        return self.lower

    def estimate(self, rules: Rules) -> Estimate:
        """A pilot of probes, then as many as it asks for, then the mean between its bounds."""
        if len(self.taken) == self.A.n:
            return self._estimate(self.exact, 0.0, self.coupling)
        forms = [self._form(rules) for _ in range(PILOT)]
        variance = float(np.mean([form.variance for form in forms]))
        value = self.exact + float(np.mean([(form.low + form.high) / 2 for form in forms]))
        need = min(self._needed_probes(variance, abs(value)), 1e6)
        room = int((self.budget - self.num_matvecs) * PILOT / max(self.spent_on_forms, 1))
        for _ in range(min(math.ceil(need) - PILOT, room)):
            if self.budget - self.num_matvecs < 2:
                break
            forms.append(self._form(rules))
        low = self.exact + float(np.mean([form.low for form in forms]))
        high = self.exact + float(np.mean([form.high for form in forms]))
        value = (low + high) / 2
        open_end = (high - low) / 2 + self.coupling
        stderr = math.sqrt(max(form.variance for form in forms[:PILOT]) / len(forms))
        return self._estimate(value, stderr, open_end, 4.0 * len(forms))

    def _estimate(
        self, value: float, stderr: float, error: float, degrees: float = math.inf
    ) -> Estimate:
        notes = told(self.A, self.measured, self.scale)
        spent = self.num_matvecs
        return Estimate(value, stderr, spent, error, error, degrees, self.given_seed, notes)

    def gauss_above_radau_below(self, run: Lanczos, f: Function) -> tuple[float, float]:
        """Bounds on ∫ f dμ for f with derivatives of alternating sign, f' > 0."""
        above = _integrate(f, gauss(run.alpha, run.beta))
        if run.exhausted:
            return above, above
        below = _integrate(f, radau(run.alpha, run.beta, self.lower))
        return min(below, above), above

    def _form(self, rules: Rules) -> _Form:
        """Steps from one start until the quadrature error is small beside the sampling error."""
        run, left = self._run(), self.A.n - len(self.taken)
        before = self.num_matvecs
        most = max(2, (self.budget - self.num_matvecs) // 2)
        while not run.exhausted and run.num_steps < most:
            self._step(run)
            if run.num_steps % SETTLE and not run.exhausted and run.num_steps < most:
                continue
            low, high = rules(run, self.f)
            nodes, weights = gauss(run.alpha, run.beta)
            values = self.f(nodes)
            spread = float(weights @ values**2) - float(weights @ values) ** 2
            variance = 2 * left * max(spread, 0.0) * left / (left + 2)
            total = abs(self.exact + left * (low + high) / 2)
            aim = SHARE * max(math.sqrt(variance / PILOT), self.rtol * total)
            if left * (high - low) <= aim:
                break
        self.spent_on_forms += self.num_matvecs - before
        return _Form(left * low, left * high, variance)

    def _run(self) -> Lanczos:
        start = random_start(
            self.A, self.taken, probes.key(self.seed, "start of a trace of f", self.num_runs)
        )
        self.num_runs += 1
        return Lanczos(self.A, start, self.taken, known_scale=self.scale)

    def _step(self, run: Lanczos) -> None:
        run.step()
        self.num_matvecs += 1
        self.scale = max(self.scale, run.scale)
        progress.report("trace of a function: matvecs", self.num_matvecs, self.budget)

    def _find_outliers(self, most: int) -> None:
        """A run of its own: what it finds does not depend on the starts of the later ones.

        It goes on as long as finding more outliers could still save products in all.
        """
        run, least = self._run(), math.inf
        while not run.exhausted and run.num_steps < most:
            self._step(run)
            if run.num_steps % SETTLE:
                continue
            least = min(least, run.num_steps + STEPS * max(self._promised(run), PILOT))
            if run.num_steps + STEPS * PILOT >= min(least, self.A.n):
                if self.A.n <= min(most, run.num_steps + STEPS * PILOT):
                    continue  # the whole space costs no more than a pilot
                break
        theta, S, found, residuals = self._resolved(run)
        self._hear(noise_of_run(run, S, self.seed), theta)
        if found.any():
            self._take(run.vectors(S[:, found]), theta[found], residuals[found])

    def _resolved(self, run: Lanczos) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
        """Ritz values and vectors, which of them are eigenpairs, and their residuals."""
        theta, S, residuals = run.ritz()
        residuals = residuals + run.noise
        size = run.scale if run.exhausted else np.abs(theta)  # then zeros have been found, too
        return theta, S, residuals <= LOCKED * size, residuals

    def _promised(self, run: Lanczos) -> float:
        """How many probes would do if what the run has resolved were taken out."""
        theta, S, found, _ = self._resolved(run)
        mass, values = S[0, ~found] ** 2, self.f(theta[~found])
        if mass.sum() <= 0:
            return 0.0
        left = self.A.n - int(found.sum())
        mass = mass / mass.sum()
        spread = left * float(mass @ values**2 - (mass @ values) ** 2)
        total = abs(float(self.f(theta[found]).sum()) + left * float(mass @ values))
        return self._needed_probes(2 * max(spread, 0.0), total)

    def _needed_probes(self, variance: float, total: float) -> float:
        quantile = student_quantile(0.5 + LEVEL / 2, math.inf)
        return variance / max(((1 - SHARE) * self.rtol * total / quantile) ** 2, rounding.POSITIVE)

    def _take(self, X: Tensor, values: Floats, errors: Floats, misfit: float = 0.0) -> None:
        """Takes eigenpairs out; what their errors do to tr f is of second order.

        A pair with residual r couples λ to the complement by r at most, which changes the trace by
        r² |f'(μ) - f'(λ)|/|λ - μ|, μ an eigenvalue there: near zero, where outliers are far out.
        Given values that are themselves off by a misfit change it by the slope of f there.
        """
        self.taken.extend(X)
        self.values = np.concatenate([self.values, values])
        self.errors = np.concatenate([self.errors, errors])
        self.exact += float(self.f(values).sum())
        size = np.maximum(np.abs(values), rounding.POSITIVE)
        h = 1e-6 * float(size.max(initial=0.0)) or 1.0
        slope = float((self.f(np.array([h])) - self.f(np.array([0.0])))[0]) / h
        slopes = self._slopes(values)
        self.coupling += float((np.abs(slopes - slope) * errors**2 / size).sum())
        self.coupling += 2 * misfit * float(np.linalg.norm(slopes))


def _integrate(f: Function, rule: tuple[Floats, Floats]) -> float:
    nodes, weights = rule
    return float(weights @ f(nodes))


def _finite(f: Callable[[Tensor], Tensor]) -> Function:
    """f on arrays, refusing values that are not finite."""

    def function(x: Floats) -> Floats:
        values = f(torch.from_numpy(x)).double().numpy()
        if values.shape != x.shape or not np.isfinite(values).all():
            msg = "f must return one finite number per eigenvalue, also for those near zero."
            raise RuntimeError(msg)
        return np.asarray(values, float)

    return function
