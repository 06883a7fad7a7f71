"""Ledgers: eigenvalues split into the parts that they come from, each column adding up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Decomposition(Result):
    """v'Hv = v'Gv + v'Rv for k unit vectors, and the same per layer if asked.

    Layer l's part of v'Mv is v_l'(Mv)_l, so that the parts of all layers add up to the whole.
    """

    curvature: Tensor  # (k,) v'Hv, float64
    gauss_newton: Tensor  # (k,) v'Gv
    residual: Tensor  # (k,) v'Rv with R = H - G
    num_matvecs: int  # of the Hessian and of Gauss-Newton together
    layers: tuple[str, ...] = ()
    gauss_newton_by_layer: Tensor | None = None  # (layers, k)
    residual_by_layer: Tensor | None = None  # (layers, k)

    def columns(self) -> Columns:
        """A row for each direction."""
        return {
            "curvature": self.curvature,
            "Gauss-Newton": self.gauss_newton,
            "residual": self.residual,
        }

    def __str__(self) -> str:
        lines = [
            f"{'':>3}  {'v·Hv':>12}  {'v·Gv':>12}  {'v·Rv':>12}   ({self.num_matvecs} matvecs)"
        ]
        for i, values in enumerate(
            zip(self.curvature, self.gauss_newton, self.residual, strict=True)
        ):
            lines.append(f"{i + 1:>3}  " + "  ".join(f"{float(value):>12.6g}" for value in values))
        return "\n".join(lines)


@dataclass(frozen=True)
class ClassDecomposition(Result):
    """G = G_class + G_cross + G_within for a softmax classifier, and what each explains.

    With weights p_c and vectors g_{n,c} = Jᵀ(e_c - p) of example n, whose weighted outer products
    add up to G: the means over examples of one label y with c = y ("class"), with c ≠ y ("cross"),
    and what is left around those means ("within"). Traces add up to tr G exactly.
    """

    trace: float
    trace_class: float
    trace_cross: float
    trace_within: float
    class_eigenvalues: Tensor  # (C,) descending, of G_class
    cross_eigenvalues: Tensor  # (C (C - 1),) descending, of G_cross
    class_means: Tensor  # (n, C) mean gradients by class
    overlap: Tensor | None  # (k,) of each given vector with the span of class means, in [0, 1]
    num_gradients: float  # cost, in gradients of the mean loss

    def __str__(self) -> str:
        shares = (
            ("class", self.trace_class),
            ("cross-class", self.trace_cross),
            ("within", self.trace_within),
        )
        parts = ", ".join(f"{name} {value / self.trace:.1%}" for name, value in shares)
        lines = [f"tr G = {self.trace:.6g}: {parts}"]
        if self.overlap is not None:
            values = " ".join(f"{float(value):.2f}" for value in self.overlap)
            lines.append(f"overlap of eigenvectors with class-mean gradients: {values}")
        return "\n".join(lines)
