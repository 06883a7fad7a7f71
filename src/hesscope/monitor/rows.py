"""The table of what a monitor measures: each row a number, or several, of one check.

A row of `hs.diagnose` is a row here as well, by its key, and so is a function of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hesscope.curvature.hessian import Hessian
from hesscope.curvature.preconditioned import StepHessian
from hesscope.estimators.density import spectral_density
from hesscope.estimators.trace import trace as trace_of
from hesscope.examination import gradients
from hesscope.examination.look import Look
from hesscope.examination.quantities import QUANTITIES
from hesscope.krylov.eigsh import eigsh
from hesscope.landscape.height import height
from hesscope.monitor.check import Check, NotFiniteError
from hesscope.monitor.limits import batch_sharpness, critical_sharpness, has_ball, on_a_ball
from hesscope.monitor.sharpness import Products, Top
from hesscope.monitor.signs import lag, layer_norms, next_step, underflow
from hesscope.problem.problem import Problem
from hesscope.results.density import SpectralDensity
from hesscope.rmt.gaps import outliers as outliers_of
from hesscope.steps.kinds import has_diagonal, has_started, is_adaptive
from hesscope.steps.stability import threshold, why_unknown

DENSITY_PRODUCTS, TRACE_PRODUCTS, PAIRS = 60, 20, 10
NEGATIVE = 1e-3  # of λmax: eigenvalues below minus this are counted as negative curvature


@dataclass(frozen=True)
class Row:
    """What is measured under which key; `usual` rows are measured unless others are asked for.

    `measure` gives a number, a `Result` that is kept beside the numbers, a dict of several numbers
    that belong together, whose keys then stand for themselves, or None where there is nothing.
    """

    key: str
    measure: Callable[[Any], Any]
    usual: bool = True
    of_step: bool = False  # it needs to know the optimiser


def chosen(
    quantities: Iterable[str | Callable[[Problem], Any]] | None, *, stepping: bool
) -> tuple[Row, ...]:
    """The rows of these keys and functions; for None the usual ones that can be measured.

    Raises:
        ValueError: if a key is not known.
    """
    if quantities is None:
        return tuple(row for row in ROWS if row.usual and (stepping or not row.of_step))
    return tuple(_row(asked) for asked in quantities)


def _row(asked: str | Callable[[Problem], Any]) -> Row:
    if callable(asked):
        return Row(getattr(asked, "__name__", "quantity"), lambda look: asked(look.problem))
    known = {row.key: row for row in ROWS}
    of_a_look = {row.key: Row(row.key, row.measure) for row in QUANTITIES}
    if asked not in known and asked not in of_a_look:
        names = ", ".join({**known, **of_a_look})
        msg = f"quantities: {asked!r} is not known. Choose from {names}, or give a function."
        raise ValueError(msg)
    return known.get(asked) or of_a_look[asked]


def loss(look: Look) -> float:
    """The mean loss over the probe data.

    Raises:
        NotFiniteError: if it is not finite.
    """
    value = look.problem.loss_at(look.problem.theta)
    look.spend(gradients=0.5)
    if not math.isfinite(value):
        msg = f"the loss of the probe data is {value}; nothing else was measured"
        raise NotFiniteError(msg)
    return value


def gradient_norm(look: Look) -> float:
    """The norm of the mean gradient over the probe data."""
    g = look.of(gradients.gradient)
    return math.sqrt(look.dot(g, g))


def held_out_loss(look: Check) -> float | None:
    """The mean loss over the data that is not trained on."""
    return None if look.held_out is None else look.held_out.loss()


def learning_rate(look: Check) -> float:
    """The largest of the parameter groups."""
    return max(float(group["lr"]) for group in look.optimizer.param_groups)


def training_gradient_norm(look: Check) -> float:
    """The norm of the gradient that the step is made with, after clipping."""
    return float(look.training_gradient.norm())


def update_norm(look: Check) -> float:
    """Its norm."""
    return float(look.of(next_step).norm())


def along_step(look: Check) -> tuple[float, Tensor]:
    """d·Hd and Hd of the step d."""
    return look.along(look.of(next_step))


def update_curvature(look: Check) -> float:
    """d·Hd/d·d, the curvature along the step."""
    d = look.of(next_step)
    return look.of(along_step)[0] / look.dot(d, d) if d.any() else math.nan


def predicted_change(look: Check) -> float:
    """g·d + d·Hd/2, by how much the loss of the probe data should change with the step."""
    slope = look.dot(look.of(gradients.gradient), look.of(next_step))
    return float(slope + look.of(along_step)[0] / 2)


def measured_change(look: Check) -> float:
    """By how much it does change."""
    look.spend(gradients=0.5)
    after = height(look.problem, look.problem.theta + look.of(next_step))
    return after - float(look.of(loss))


def top(look: Check) -> Top:
    """λmax of the Hessian, followed from check to check."""
    found = look.memory.tracker("hessian").look(look.H, look.products)
    look.spend(found.num_matvecs)
    return found


def sharpness(look: Check) -> dict[str, float]:
    """λmax, a lower bound to rounding; its upper bound and how old that is in checks."""
    return _told("lambda_max", look.of(top))


def gradient_in_top(look: Check) -> float:
    """The share of the squared gradient along the top eigenvector."""
    return _share(look, look.of(gradients.gradient))


def update_in_top(look: Check) -> float:
    """The share of the squared step along the top eigenvector."""
    return _share(look, look.of(next_step))


def stability(look: Check) -> dict[str, float] | None:
    """λmax(lr P⁻¹(H + weight decay)) over what the optimiser bears: above 1, steps grow."""
    if has_ball(look):
        return on_a_ball(look)
    if why_unknown(look.optimizer) or not has_started(look.optimizer):
        return None
    limit = threshold(look.optimizer)
    alike = len(set(limit.lr)) == 1 and len(set(limit.weight_decay)) == 1
    if not is_adaptive(look.optimizer) and alike:
        found = limit.lr[0] * (look.of(top).value + limit.weight_decay[0])
        return {"step_sharpness": found, "sharpness_over_limit": found / limit.factor}
    A = StepHessian(look.problem, look.optimizer)
    followed = look.memory.tracker("step").look(A, _of_step(A, look.products))
    look.spend(followed.num_matvecs)
    return {
        **_told("step_sharpness", followed),
        "sharpness_over_limit": followed.value / limit.factor,
    }


def _of_step(A: StepHessian, products: Products) -> Products:
    """Products Hv as those of D H D + E with v/D."""
    if not has_diagonal(A.optimizer) and is_adaptive(A.optimizer):
        return ()
    scale, shift = A.scale_and_shift()
    if not bool((scale > 0).all()):
        return ()
    return [(v / scale, scale * Hv + shift * (v / scale)) for v, Hv in products]


def lowest(look: Check) -> dict[str, float]:
    """λmin, an upper bound of it to rounding, and the condition numbers that it gives.

    `condition` is λmax/λmin as the textbook has it, negative at a saddle and beyond all bounds
    where λmin is zero to rounding; then nothing but its lower bound `condition_at_least` can be
    said honestly: λmax over the larger of |λmin| and the noise of the products.
    """
    found = look.memory.tracker("negative hessian").look(-look.H)
    look.spend(found.num_matvecs)
    above, noise = look.of(top).value, found.noise
    lambda_min = -found.value
    return {
        "lambda_min": lambda_min,
        "condition": above / lambda_min if abs(lambda_min) > noise else math.inf,
        "condition_at_least": above / max(abs(lambda_min), noise) if noise else math.inf,
    }


def trace(look: Check) -> dict[str, float]:
    """The trace of the Hessian with its standard error."""
    found = trace_of(look.H, max_matvecs=TRACE_PRODUCTS, seed=look.question.seed)
    look.spend(found.num_matvecs)
    return {"trace": found.value, "trace_stderr": found.stderr}


def density(look: Check) -> SpectralDensity:
    """The spectral density, kept whole."""
    found = spectral_density(look.H, max_matvecs=DENSITY_PRODUCTS, seed=look.question.seed)
    look.spend(found.num_matvecs)
    return found


def shape(look: Check) -> dict[str, float]:
    """How many outliers there are, and the share of eigenvalues that are negative, from below."""
    found = look.of(density)
    negative = found.count(-math.inf, -NEGATIVE * abs(found.upper))
    above = found.outliers[found.outliers > 0]
    counted = {"num_outliers": float(outliers_of(above).count)} if len(above) > 1 else {}
    return {**counted, "negative_share": negative.low / look.H.n}


def layers(look: Check) -> dict[str, float]:
    """λmax of the Hessian's block of each module, by its name."""
    found = {}
    for name, block in look.problem.blocks().items():
        tracked = look.memory.tracker(f"layer {name}").look(Hessian(block))
        look.spend(tracked.num_matvecs)
        found[f"layer/{name}/lambda_max"] = tracked.value
    return found


def layer_traces(look: Check) -> dict[str, float]:
    """The trace of the Hessian's block of each module, by its name."""
    found = {}
    for name, block in look.problem.blocks().items():
        one = trace_of(Hessian(block), max_matvecs=TRACE_PRODUCTS, seed=look.question.seed)
        look.spend(one.num_matvecs)
        found[f"layer/{name}/trace"] = one.value
    return found


def outermost(look: Check) -> Tensor:
    """(n, k) the first eigenvectors."""
    pairs = eigsh(look.H, k=min(PAIRS, look.H.n), tol=1e-2, verify=False, seed=look.question.seed)
    look.spend(pairs.num_matvecs)
    return pairs.eigenvectors


def gradient_in_outliers(look: Check) -> float:
    """The share of the squared gradient in the span of the first eigenvectors."""
    return _share_in(look, look.of(gradients.gradient))


def update_in_outliers(look: Check) -> float:
    """The share of the squared step in the span of the first eigenvectors."""
    return _share_in(look, look.of(next_step))


def _share_in(look: Check, v: Tensor) -> float:
    inside = float(look.H.inner(look.of(outermost), v[:, None]).square().sum())
    return inside / look.dot(v, v) if v.any() else math.nan


def _told(name: str, found: Top) -> dict[str, float]:
    proven = {f"{name}_upper": found.upper} if math.isfinite(found.upper) else {}
    told = {f"{name}_age": float(found.age), f"{name}_matvecs": float(found.num_matvecs)}
    return {name: found.value, **proven, **told}


def _share(look: Check, v: Tensor) -> float:
    squared = look.dot(v, v)
    return look.dot(look.of(top).vector, v) ** 2 / squared if squared > 0 else math.nan


ROWS: tuple[Row, ...] = (
    Row("loss", loss),
    Row("held_out_loss", held_out_loss),
    Row("gradient_norm", gradient_norm),
    Row("gradient_noise", gradients.gradient_noise),
    Row("training_gradient_norm", training_gradient_norm, of_step=True),
    Row("lr", learning_rate, of_step=True),
    Row("update_norm", update_norm, of_step=True),
    # The products with the gradient and the step serve λmax, too.
    Row("gradient_curvature", gradients.gradient_curvature),
    Row("update_curvature", update_curvature, of_step=True),
    Row("lambda_max", sharpness),
    Row("stability", stability, of_step=True),
    Row("batch_sharpness", batch_sharpness),
    Row("gradient_in_top", gradient_in_top),
    Row("update_in_top", update_in_top, of_step=True),
    Row("predicted_change", predicted_change, of_step=True),
    Row("measured_change", measured_change, of_step=True),
    Row("underflow", underflow, of_step=True),
    Row("preconditioner_lag", lag, of_step=True),
    Row("layer_norms", layer_norms, usual=False),
    Row("lambda_min", lowest, usual=False),
    Row("trace", trace, usual=False),
    Row("density", density, usual=False),
    Row("shape", shape, usual=False),
    Row("layers", layers, usual=False),
    Row("layer_traces", layer_traces, usual=False),
    Row("gradient_in_outliers", gradient_in_outliers, usual=False),
    Row("update_in_outliers", update_in_outliers, usual=False, of_step=True),
    Row("critical_sharpness", critical_sharpness, usual=False, of_step=True),
)
