"""What an examination measures, each quantity once, and how later ones use the earlier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hesscope.anatomy.classes import num_classes
from hesscope.anatomy.feature_scales import feature_ratio
from hesscope.anatomy.layer_statistics import layer_statistics
from hesscope.curvature.hessian import Hessian
from hesscope.curvature.preconditioned import StepHessian
from hesscope.estimators.conditioning import conditioning
from hesscope.estimators.survey import survey
from hesscope.examination.levels import GRADIENTS_PER_MATVEC, Level, Spending
from hesscope.krylov.eigsh import eigsh
from hesscope.krylov.search import NOISE
from hesscope.landscape.convexity import negative_curvature_probes
from hesscope.landscape.escape import escape
from hesscope.landscape.flat import COST as FLAT_COST
from hesscope.landscape.flat import fall_along
from hesscope.landscape.smoothness import smoothness
from hesscope.problem.problem import Problem
from hesscope.results.density import SpectralDensity
from hesscope.results.descent import Curvature, Descent
from hesscope.results.landscape import Escape
from hesscope.results.spectrum import Eigenpairs
from hesscope.results.step import Step
from hesscope.rmt.gaps import outliers
from hesscope.sampling.error import sampling_error
from hesscope.sampling.gradient import gradient_with_noise
from hesscope.steps.stability import threshold
from hesscope.steps.update import update
from hesscope.system import progress

ROUNDING = 10  # times eps: of a gradient relative to λmax‖θ‖, and of a loss relative to itself


@dataclass(frozen=True)
class Question:
    """What is asked of a problem."""

    level: Level
    spending: Spending
    optimizer: Optimizer | None
    lr: float | None
    tolerance: float
    seed: int
    delta: float


@dataclass
class Measurements:
    """The numbers of one examination."""

    loss: float
    gradient: Tensor
    noise: float
    density: SpectralDensity
    pairs: Eigenpairs
    curvature: Curvature
    descent: Descent
    step: Step
    gradient_in_top: float
    feature_ratio: float
    results: dict[str, Any]
    num_matvecs: int
    gradients: float


def measure(problem: Problem, question: Question) -> Measurements:
    """Loss, gradient, spectrum, step, and what the level asks for beyond them."""
    return _Measuring(problem, question).all()


class _Measuring:
    """One examination under way: the operator with its kept graphs, and the cost so far."""

    def __init__(self, problem: Problem, question: Question) -> None:
        self.problem, self.question = problem, question
        self.H = Hessian(problem)
        self.eps = float(torch.finfo(problem.dtype).eps)
        self.num_matvecs, self.gradients = 0, 0.0
        self.escape: Escape | None = None

    def all(self) -> Measurements:
        progress.report("loss and gradient", 0)
        self.loss = self.problem.loss()
        self.gradient, self.noise = gradient_with_noise(self.problem)
        self.gradients += 1.5
        density, pairs = self._survey()
        curvature = _curvature(self.H, density, pairs)
        step = self._step(pairs)
        descent = self._descent(step, curvature, pairs)
        condition = conditioning(density)
        results: dict[str, Any] = {
            "loss": self.loss,
            "eigenpairs": pairs,
            "density": density,
            "condition": condition,
            **self._outliers(density),
            "layers": layer_statistics(self.problem, self.gradient, pairs.eigenvectors[:, 0]),
            **self._beyond(pairs),
        }
        self.gradients += 1.0  # two forward passes, for the layers and for the features
        return Measurements(
            loss=self.loss,
            gradient=self.gradient,
            noise=self.noise,
            density=density,
            pairs=pairs,
            curvature=curvature,
            descent=descent,
            step=step,
            gradient_in_top=self._share_in_top(pairs),
            feature_ratio=feature_ratio(self.problem),
            results=results,
            num_matvecs=self.num_matvecs,
            gradients=self.gradients + GRADIENTS_PER_MATVEC * self.num_matvecs,
        )

    def _survey(self) -> tuple[SpectralDensity, Eigenpairs]:
        q = self.question
        density, pairs = survey(
            self.H, q.spending.survey, q.level.pairs, seed=q.seed, delta=q.delta
        )
        self.num_matvecs += density.num_matvecs + pairs.num_matvecs
        return density, pairs

    def _along(self, v: Tensor) -> tuple[float, Tensor]:
        """v·Hv and Hv."""
        self.num_matvecs += 1
        product = self.H.matmat(v[:, None])
        return float(self.H.inner(v[:, None], product)), product[:, 0]

    def _step(self, pairs: Eigenpairs) -> Step:
        """The optimiser's real update beside the curvature, or that of plain gradient descent."""
        g, q = self.gradient, self.question
        g_dot_g = float(self.H.inner(g[:, None], g[:, None]))
        g_dot_Hg, self.along_gradient = self._along(g)
        common: dict[str, Any] = {
            "g_dot_g": g_dot_g,
            "g_dot_Hg": g_dot_Hg,
            "lambda_max": float(pairs.eigenvalues[0]),
            "lambda_max_error": float(pairs.residuals[0]),
        }
        best = g_dot_g / g_dot_Hg if g_dot_Hg > 0 else math.nan
        self.direction, self.direction_name = (-best * g, "the best step along the gradient")
        self.product = -best * self.along_gradient
        if q.optimizer is None and q.lr is None:
            return Step(**common)
        if q.optimizer is None:
            assert q.lr is not None
            d, lr = -q.lr * g, q.lr
            slope, curvature = -lr * g_dot_g, lr**2 * g_dot_Hg
            self.product, bears = -lr * self.along_gradient, dict[str, Any]()
        else:
            d = update(self.problem, q.optimizer, g).step
            slope = float(self.H.inner(g[:, None], d[:, None]))
            curvature, self.product = self._along(d)
            lr, bears = self._bears(q.optimizer, common["lambda_max"])
        self.direction, self.direction_name = d, "the step"
        self.gradients += 0.5
        return Step(
            **common,
            lr=lr,
            slope=slope,
            curvature=curvature,
            change=self._change(d),
            rounding=ROUNDING * self.eps * abs(self.loss),
            loss=self.loss,
            running_statistics=_running_statistics(self.problem),
            **bears,
        )

    def _bears(self, optimizer: Optimizer, lambda_max: float) -> tuple[float, dict[str, Any]]:
        """The learning rate, what the optimiser can bear, and λmax of P⁻¹(H + weight decay).

        Without preconditioner and with one learning rate that λmax is known; otherwise it takes a
        run of its own, and is given relative to the largest learning rate. Before the first step
        of an adaptive optimiser there is no P, and nothing is known.
        """
        limit = threshold(optimizer)
        lr = max(limit.lr)
        known: dict[str, Any] = {
            "factor": limit.factor,
            "formula": f"({limit.formula})/λmax",
            "optimizer": type(optimizer).__name__,
            "adaptive": type(optimizer).__name__ != "SGD",
            "source": limit.source,
        }
        alike = len(set(limit.lr)) == 1 and len(set(limit.weight_decay)) == 1
        if type(optimizer).__name__ == "SGD" and alike:
            return lr, {**known, "sharpness": lambda_max + limit.weight_decay[0]}
        if not _started(optimizer):
            return lr, {**known, "factor": math.nan}
        top = eigsh(
            StepHessian(self.problem, optimizer),
            1,
            verify=False,
            tol=1e-2,
            max_matvecs=max(self.question.spending.preconditioned, 4),
            seed=self.question.seed,
        )
        self.num_matvecs += top.num_matvecs
        known["formula"] = f"({limit.formula})/λmax of P⁻¹H"
        return lr, {**known, "sharpness": float(top.eigenvalues[0]) / lr}

    def _change(self, d: Tensor) -> float:
        """L(θ + d) - L(θ), infinite where the step leaves the finite losses."""
        try:
            return self.problem.at(self.problem.theta + d).loss() - self.loss
        except RuntimeError:
            return math.inf

    def _descent(self, step: Step, curvature: Curvature, pairs: Eigenpairs) -> Descent:
        size = max(abs(curvature.lambda_max), abs(curvature.lambda_min))
        rounding = ROUNDING * self.eps * size * float(self.problem.theta.norm())
        norm = math.sqrt(step.g_dot_g)
        known: dict[str, float] = {}
        critical = norm <= max(rounding, self.question.tolerance) or norm <= self.noise
        if curvature.negative and (critical or _progress(step, self.loss) < 1e-6):
            found = escape(self.problem, pairs, seed=self.question.seed)
            self.num_matvecs += found.num_matvecs
            self.gradients += found.num_gradients + found.num_evaluations / 3
            self.escape = found
            known = {"escaped": found.measured, "predicted": found.predicted}
        elif norm <= max(rounding, self.question.tolerance) and not curvature.definite:
            v = pairs.eigenvectors[:, -1]
            known = {"fell": fall_along(self.problem, v / v.norm(), self.loss, norm)}
            self.gradients += FLAT_COST / 3
        return Descent(
            gradient_norm=norm,
            gradient_noise=self.noise,
            rounding=rounding,
            tolerance=self.question.tolerance,
            progress=_progress(step, self.loss),
            **known,
        )

    def _outliers(self, density: SpectralDensity) -> dict[str, Any]:
        """The count of outliers, where the run has resolved two positive eigenvalues at least."""
        resolved = density.outliers[density.outliers > 0]
        if len(resolved) < 2:
            return {}
        return {"outliers": outliers(resolved, num_classes(self.problem))}

    def _share_in_top(self, pairs: Eigenpairs) -> float:
        """The share of the squared gradient in the span of the eigenvectors at the top."""
        top = pairs.eigenvectors[:, : (len(pairs) + 1) // 2]
        g = self.gradient[:, None]
        inside = float(self.H.inner(top, g).square().sum())
        whole = float(self.H.inner(g, g))
        return inside / whole if whole > 0 else math.nan

    def _beyond(self, pairs: Eigenpairs) -> dict[str, Any]:
        """Smoothness, data error bars, other points: as the level asks."""
        q = self.question
        found: dict[str, Any] = {} if self.escape is None else {"escape": self.escape}
        length = float(self.direction.norm())
        if q.level.radii and math.isfinite(length) and length > 0:
            found["smoothness"] = smoothness(
                self.problem,
                self.direction,
                self.product,
                name=self.direction_name,
                seed=q.seed,
            )
            self.gradients += found["smoothness"].num_gradients
        if q.spending.sampling and math.isfinite(self.noise):
            found |= self._sampling(pairs)
        if q.spending.probes:
            probes = negative_curvature_probes(
                self.problem,
                num_points=q.level.probes,
                max_matvecs=q.level.probe_matvecs,
                seed=q.seed,
            )
            self.num_matvecs += probes.num_matvecs
            found["other points"] = probes
        return found

    def _sampling(self, pairs: Eigenpairs) -> dict[str, Any]:
        some = first(pairs, self.question.level.sampled)
        if not bool(some.converged.all()):
            return {}
        error = sampling_error(self.problem, some, seed=self.question.seed)
        self.num_matvecs += error.num_matvecs
        self.gradients += 1
        return {"data error bars": error}


def _running_statistics(problem: Problem) -> bool:
    """Whether batch normalisation uses its running statistics here, unlike in training."""
    return not problem.training and any(
        isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
        for m in problem.model.modules()
    )


def _started(optimizer: Optimizer) -> bool:
    """Whether the optimiser has made a step; plain SGD has no state to tell, and needs none."""
    return type(optimizer).__name__ == "SGD" or any(optimizer.state.values())


def first(pairs: Eigenpairs, k: int) -> Eigenpairs:
    """The first k pairs of a list."""
    return Eigenpairs(
        eigenvalues=pairs.eigenvalues[:k],
        eigenvectors=pairs.eigenvectors[:, :k],
        residuals=pairs.residuals[:k],
        converged=pairs.converged[:k],
        num_matvecs=0,
        certificate=pairs.certificate,
        which="LA",
        seed=pairs.seed,
        facts=pairs.facts,
    )


def _curvature(H: Hessian, density: SpectralDensity, pairs: Eigenpairs) -> Curvature:
    values, errors = pairs.eigenvalues, pairs.residuals
    size = float(values.abs().max())
    return Curvature(
        lambda_max=float(values[0]),
        lambda_max_error=float(errors[0]),
        lambda_min=float(values[-1]),
        lambda_min_error=float(errors[-1]),
        lower=density.lower,
        upper=density.upper,
        noise=NOISE * float(torch.finfo(H.dtype).eps) * size,
        delta=density.delta,
    )


def _progress(step: Step, loss: float) -> float:
    """The decrease that one step promises, relative to the loss; NaN where that has no meaning.

    The step is the one that is made, or, without a learning rate, the best one along the gradient.
    """
    if not loss > 0:
        return math.nan
    if step.lr is not None and step.slope < 0:
        return -step.slope / loss
    if step.lr is None and step.g_dot_Hg > 0:
        return step.g_dot_g**2 / (2 * step.g_dot_Hg) / loss
    return math.nan
