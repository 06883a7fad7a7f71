"""A plane or a line through θ, the loss on it, and how much of the curvature it does not show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hesscope.results import html
from hesscope.results.estimate import Estimate, Interval, plus_minus
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class Directions(Result):
    """One or two directions in parameter space, and what they mean.

    A step of 1 along a direction is a step of its length; `unit` says what that is. Eigenvectors
    come with their eigenvalues and a trajectory with the share of its variance along each.
    """

    vectors: Tensor  # (n, k), in the dtype of theta
    names: tuple[str, ...]
    unit: str  # of a coordinate
    eigenvalues: Tensor | None = None  # (k,) float64, NaN for what is no eigenvector
    variance: Tensor | None = None  # (k,) shares of the trajectory's variance
    trajectory: Tensor | None = None  # (T, k) coordinates of its points, seen from theta
    num_matvecs: int = 0

    def __len__(self) -> int:
        return self.vectors.shape[1]

    @property
    def lengths(self) -> Tensor:
        """(k,) of the directions."""
        return torch.linalg.vector_norm(self.vectors.double(), dim=0)

    @property
    def cosine(self) -> float:
        """Of the angle between two directions; 0 for one."""
        if len(self) < 2:
            return 0.0
        a, b = self.vectors.double().T
        return float(a @ b / (a.norm() * b.norm()))

    def columns(self) -> Columns:
        """A row for each direction."""
        return {"direction": self.names, "length": self.lengths}

    def __str__(self) -> str:
        lines = [f"{len(self)} directions; a coordinate of 1 is {self.unit}"]
        for i, name in enumerate(self.names):
            extra = ""
            if self.eigenvalues is not None and not self.eigenvalues[i].isnan():
                extra += f", eigenvalue {float(self.eigenvalues[i]):.6g}"
            if self.variance is not None:
                extra += f", {float(self.variance[i]):.1%} of the variance of the trajectory"
            lines.append(f"  {name}: length {float(self.lengths[i]):.4g}{extra}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Slice(Result):
    """The mean loss at θ + Σ c_i d_i on a grid of coordinates c, in one or two directions.

    `slopes` and `curvatures` are g·d_i and d_i'H d_j at θ, so that the picture can be compared with
    the parabola that derivatives promise. The shares say how little of the Hessian lies in it.
    """

    axes: tuple[Tensor, ...]  # of one or two directions, each (num_points,) float64
    losses: Tensor  # (num_points,) or (num_a, num_b) float64, inf and NaN as they came
    loss: float  # at theta
    directions: Directions
    slopes: Tensor | None  # (k,) float64, per coordinate; None where no derivative was taken
    curvatures: Tensor | None  # (k, k) float64, per coordinate squared
    trace_share: Estimate | None  # tr(Q'HQ) / tr H, with Q an orthonormal basis of the plane
    magnitude_share: Estimate | None  # Σ|λ(Q'HQ)| / Σ|λ(H)|
    statistics: str  # running ones away from theta: fixed, recomputed, or none
    test_losses: Tensor | None  # as losses, on other data
    num_evaluations: int  # losses over all data
    num_matvecs: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def second_differences(self) -> Tensor:
        """(k,) [L(h) - 2 L(0) + L(-h)]/h² along each axis at θ, from the grid; NaN without 0 on it.

        >>> t = torch.linspace(-1, 1, 5).double()
        >>> d = Directions(torch.ones(1, 1), ("x",), "1")
        >>> s = Slice((t,), 3 * t**2, 0.0, d, None, None, None, None, "none", None, 5, 0)
        >>> s.second_differences
        tensor([6.], dtype=torch.float64)
        """
        found = []
        for i, axis in enumerate(self.axes):
            at = [int(a.abs().argmin()) for a in self.axes]
            middle = at[i]
            if any(float(a[j]) != 0 for a, j in zip(self.axes, at, strict=True)):
                found.append(float("nan"))
                continue
            along = self.losses if len(self.axes) == 1 else self.losses.select(1 - i, at[1 - i])
            if not 0 < middle < len(axis) - 1:
                found.append(float("nan"))
                continue
            h = float(axis[middle + 1] - axis[middle])
            found.append(float(along[middle + 1] - 2 * along[middle] + along[middle - 1]) / h**2)
        return torch.tensor(found, dtype=torch.float64)

    def predicted(self, i: int = 0) -> Tensor:
        """The parabola L + g·d_i t + d_i'H d_i t²/2 on axis i.

        Raises:
            RuntimeError: if no derivative was taken.
        """
        if self.slopes is None or self.curvatures is None:
            msg = "no derivative was taken; make the slice with num_matvecs above 0."
            raise RuntimeError(msg)
        t = self.axes[i]
        return self.loss + t * self.slopes[i] + t.square() / 2 * self.curvatures[i, i]

    def columns(self) -> Columns:
        """A row for each point."""
        grid = torch.cartesian_prod(*self.axes).reshape(-1, len(self.axes))
        named = {name: grid[:, i] for i, name in enumerate(self.directions.names)}
        tested = {} if self.test_losses is None else {"test loss": self.test_losses.flatten()}
        return {**named, "loss": self.losses.flatten(), **tested}

    def quantities(self) -> dict[str, Any]:
        """What the picture shows of the loss, and how much of the curvature it hides."""
        finite = self.losses[self.losses.isfinite()]
        found: dict[str, Any] = {
            "points": " x ".join(str(len(axis)) for axis in self.axes),
            "1 on an axis": self.directions.unit,
            "loss at θ": self.loss,
        }
        if len(finite):
            found["finite losses"] = Interval(float(finite.min()), float(finite.max()))
        found["losses that are not finite"] = self.losses.numel() - len(finite)
        for i, name in enumerate(self.directions.names if self.curvatures is not None else ()):
            found[f"curvature along {name}, by products"] = float(self.curvatures[i, i])  # type: ignore[index]
            seen = float(self.second_differences[i])
            found[f"curvature along {name}, by differences of the losses"] = seen
        for share, what in ((self.trace_share, "the trace"), (self.magnitude_share, "Σ|λ|")):
            if share is not None:
                found[f"share of {what} in the picture"] = share
        if len(self.axes) == 2:
            found["cosine between the directions"] = self.directions.cosine
        cost = {
            "running statistics": self.statistics,
            "cost in losses": self.num_evaluations,
            "cost in products (matvecs)": self.num_matvecs,
        }
        return found | cost

    def picture(self) -> str:
        """The loss along the first direction."""
        along = self.losses
        if len(self.axes) == 2:
            along = self.losses[:, int(self.axes[1].abs().argmin())]
        ends = (f"{float(self.axes[0][0]):.3g}", f"{float(self.axes[0][-1]):.3g}")
        return html.line(self.axes[0].tolist(), along.tolist(), ends)

    def __str__(self) -> str:
        shape = " x ".join(str(len(axis)) for axis in self.axes)
        finite = self.losses[self.losses.isfinite()]
        span = f"{float(finite.min()):.6g} to {float(finite.max()):.6g}" if len(finite) else "none"
        lines = [
            f"loss on {shape} points along {', '.join(self.directions.names)}, "
            f"{self.num_evaluations} evaluations, {self.num_matvecs} matvecs",
            f"  at theta {self.loss:.6g}, finite losses {span}; "
            f"a coordinate of 1 is {self.directions.unit}",
        ]
        if len(finite) < self.losses.numel():
            lines.append(f"  {self.losses.numel() - len(finite)} losses are infinite or NaN")
        return "\n".join([*lines, *self._curvature_lines(), *self._other_lines()])

    def _curvature_lines(self) -> list[str]:
        if self.curvatures is None:
            return []
        lines = []
        for i, (name, seen) in enumerate(
            zip(self.directions.names, self.second_differences.tolist(), strict=True)
        ):
            line = f"  {name}: curvature {float(self.curvatures[i, i]):.6g} by products"
            if math.isfinite(seen):  # else theta lies between the points of the grid
                line += f", {seen:.6g} by second differences of the grid"
            lines.append(line)
        return lines

    def _other_lines(self) -> list[str]:
        lines = []
        for share, what in ((self.trace_share, "the trace"), (self.magnitude_share, "Σ|λ|")):
            if share is not None:
                lines.append(f"  of {what} inside: {plus_minus(share.value, share.stderr)}")
        if len(self.axes) == 2:
            lines.append(f"  cosine between the directions {self.directions.cosine:.2g}")
        if self.test_losses is not None:
            low = float(self.test_losses[self.test_losses.isfinite()].min())
            lines.append(f"  on test data: lowest {low:.6g}")
        if self.statistics != "none":
            lines.append(f"  running statistics: {self.statistics}")
        return lines
