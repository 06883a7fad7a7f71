"""hesscope looks at the Hessian of a neural network and says what it sees."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hesscope import ensemble as ensemble
    from hesscope import plots as plots
    from hesscope import rmt as rmt
    from hesscope.anatomy.classes import class_decomposition as class_decomposition
    from hesscope.anatomy.decompose import decompose as decompose
    from hesscope.anatomy.layer_map import layer_map as layer_map
    from hesscope.autodiff.products import CentralDifference as CentralDifference
    from hesscope.checks.check_problem import check_problem as check_problem
    from hesscope.curvature.fisher import EmpiricalFisher as EmpiricalFisher
    from hesscope.curvature.fisher import Fisher as Fisher
    from hesscope.curvature.fisher import GradientCovariance as GradientCovariance
    from hesscope.curvature.gauss_newton import GaussNewton as GaussNewton
    from hesscope.curvature.hessian import Hessian as Hessian
    from hesscope.curvature.preconditioned import PreconditionedHessian as PreconditionedHessian
    from hesscope.curvature.tangent_kernel import TangentKernel as TangentKernel
    from hesscope.curvature.tangent_kernel import gram_spectrum as gram_spectrum
    from hesscope.dense.spectrum import spectrum as spectrum
    from hesscope.estimators.conditioning import conditioning as conditioning
    from hesscope.estimators.density import spectral_density as spectral_density
    from hesscope.estimators.diagonal import diagonal as diagonal
    from hesscope.estimators.functions import effective_dimension as effective_dimension
    from hesscope.estimators.functions import logdet as logdet
    from hesscope.estimators.functions import trace_function as trace_function
    from hesscope.estimators.trace import frobenius_norm as frobenius_norm
    from hesscope.estimators.trace import trace as trace
    from hesscope.examination import Examination as Examination
    from hesscope.examination import Forecast as Forecast
    from hesscope.examination import diagnose as diagnose
    from hesscope.examination import plan as plan
    from hesscope.krylov.eigsh import eigsh as eigsh
    from hesscope.landscape.escape import escape as escape
    from hesscope.landscape.escape import kick as kick
    from hesscope.landscape.slices import interpolate as interpolate
    from hesscope.operator import Identity as Identity
    from hesscope.operator import SymmetricOperator as SymmetricOperator
    from hesscope.operator import as_operator as as_operator
    from hesscope.operator import check_operator as check_operator
    from hesscope.problem.problem import Problem as Problem
    from hesscope.results.check import Check as Check
    from hesscope.results.check import Finding as Finding
    from hesscope.results.conditioning import Conditioning as Conditioning
    from hesscope.results.density import SpectralDensity as SpectralDensity
    from hesscope.results.estimate import Estimate as Estimate
    from hesscope.results.estimate import Interval as Interval
    from hesscope.results.landscape import Escape as Escape
    from hesscope.results.landscape import LossLine as LossLine
    from hesscope.results.outliers import Outliers as Outliers
    from hesscope.results.record import load as load
    from hesscope.results.record import save as save
    from hesscope.results.sampling import SamplingError as SamplingError
    from hesscope.results.spectrum import Certificate as Certificate
    from hesscope.results.spectrum import Eigenpairs as Eigenpairs
    from hesscope.results.spectrum import Spectrum as Spectrum
    from hesscope.results.verdict import Verdict as Verdict
    from hesscope.rmt.gaps import outliers as outliers
    from hesscope.sampling.error import sampling_error as sampling_error
    from hesscope.system.progress import listening as listening

# Names are imported when they are first used, so `hesscope --help` does not wait for torch.
_HOMES = {
    "checks.check_problem": ("check_problem",),
    "anatomy.classes": ("class_decomposition",),
    "anatomy.decompose": ("decompose",),
    "curvature.fisher": ("EmpiricalFisher", "Fisher", "GradientCovariance"),
    "curvature.gauss_newton": ("GaussNewton",),
    "curvature.hessian": ("Hessian",),
    "anatomy.layer_map": ("layer_map",),
    "curvature.tangent_kernel": ("TangentKernel", "gram_spectrum"),
    "curvature.preconditioned": ("PreconditionedHessian",),
    "autodiff.products": ("CentralDifference",),
    "sampling.error": ("sampling_error",),
    "examination": ("Examination", "Forecast", "diagnose", "plan"),
    "landscape.escape": ("escape", "kick"),
    "landscape.slices": ("interpolate",),
    "estimators.conditioning": ("conditioning",),
    "dense.spectrum": ("spectrum",),
    "estimators.density": ("spectral_density",),
    "estimators.diagonal": ("diagonal",),
    "krylov.eigsh": ("eigsh",),
    "estimators.functions": ("effective_dimension", "logdet", "trace_function"),
    "estimators.trace": ("frobenius_norm", "trace"),
    "operator": ("Identity", "SymmetricOperator", "as_operator", "check_operator"),
    "problem.problem": ("Problem",),
    "system.progress": ("listening",),
    "results.check": ("Check", "Finding"),
    "results.conditioning": ("Conditioning",),
    "results.density": ("SpectralDensity",),
    "results.estimate": ("Estimate", "Interval"),
    "results.landscape": ("Escape", "LossLine"),
    "results.outliers": ("Outliers",),
    "results.record": ("load", "save"),
    "results.sampling": ("SamplingError",),
    "results.spectrum": ("Certificate", "Eigenpairs", "Spectrum"),
    "results.verdict": ("Verdict",),
    "rmt.gaps": ("outliers",),
}
_NAMESPACES = ("ensemble", "plots", "rmt")
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [*sorted(_MODULE_OF), *_NAMESPACES]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"hesscope.{name}")
    if name not in _MODULE_OF:
        msg = f"module 'hesscope' has no attribute {name!r}; dir(hesscope) lists all names."
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"hesscope.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
