"""Quantities of the spectrum: one Lanczos run serves ends, pairs, density, counts and condition."""

from __future__ import annotations

import math

from hesscope import rounding
from hesscope.anatomy.classes import num_classes
from hesscope.estimators.conditioning import conditioning as condition_of
from hesscope.estimators.survey import survey as survey_of
from hesscope.examination.gradients import gradient
from hesscope.examination.look import Look
from hesscope.landscape.convexity import negative_curvature_probes
from hesscope.results.conditioning import Conditioning
from hesscope.results.convexity import ConvexityProbes
from hesscope.results.density import SpectralDensity
from hesscope.results.descent import Curvature
from hesscope.results.outliers import Outliers
from hesscope.results.sampling import SamplingError
from hesscope.results.spectrum import Eigenpairs
from hesscope.rmt.gaps import outliers as outliers_of
from hesscope.sampling.error import sampling_error as sampling_error_of


def survey(look: Look) -> tuple[SpectralDensity, Eigenpairs]:
    """The density and a few pairs of both ends, from one run."""
    q = look.question
    density, pairs = survey_of(
        look.H, q.spending.survey, q.effort.pairs, seed=q.seed, delta=q.delta
    )
    look.spend(density.num_matvecs + pairs.num_matvecs)
    return density, pairs


def density(look: Look) -> SpectralDensity:
    """How many eigenvalues lie where."""
    found: SpectralDensity = look.of(survey)[0]
    return found


def eigenpairs(look: Look) -> Eigenpairs:
    """The outermost eigenpairs, with fresh residuals."""
    found: Eigenpairs = look.of(survey)[1]
    return found


def conditioning(look: Look) -> Conditioning:
    """How unequal the curvatures are."""
    return condition_of(look.of(density))


def curvature(look: Look) -> Curvature:
    """The ends of the spectrum and what is certified beyond them."""
    density_, pairs = look.of(survey)
    values, errors = pairs.eigenvalues, pairs.residuals
    size = float(values.abs().max())
    return Curvature(
        lambda_max=float(values[0]),
        lambda_max_error=float(errors[0]),
        lambda_min=float(values[-1]),
        lambda_min_error=float(errors[-1]),
        lower=density_.lower,
        upper=density_.upper,
        noise=rounding.product_noise(look.H.dtype, size),
        delta=density_.delta,
    )


def outliers(look: Look) -> Outliers | None:
    """The count of outliers, where the run has resolved two positive eigenvalues at least."""
    found = look.of(density).outliers
    resolved = found[found > 0]
    return None if len(resolved) < 2 else outliers_of(resolved, num_classes(look.problem))


def gradient_in_top(look: Look) -> float:
    """The share of the squared gradient in the span of the eigenvectors at the top."""
    pairs, g = look.of(eigenpairs), look.of(gradient)
    top = pairs.eigenvectors[:, : (len(pairs) + 1) // 2]
    inside = float(look.H.inner(top, g[:, None]).square().sum())
    whole = look.dot(g, g)
    return inside / whole if whole > 0 else math.nan


def sampling_error(look: Look) -> SamplingError | None:
    """Data error bars of the first eigenvalues, where their pairs have converged."""
    some = _first(look.of(eigenpairs), look.question.effort.sampled)
    if not look.question.spending.sampling or not bool(some.converged.all()):
        return None
    error = sampling_error_of(look.problem, some, seed=look.question.seed)
    look.spend(error.num_matvecs, 1.0)
    return error


def convexity_probes(look: Look) -> ConvexityProbes | None:
    """The lowest curvature at other points, where products were set aside for it."""
    q = look.question
    if not q.spending.probes:
        return None
    probes = negative_curvature_probes(
        look.problem,
        num_points=q.effort.probes,
        max_matvecs=q.effort.probe_matvecs,
        seed=q.seed,
    )
    look.spend(probes.num_matvecs)
    return probes


def _first(pairs: Eigenpairs, k: int) -> Eigenpairs:
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
