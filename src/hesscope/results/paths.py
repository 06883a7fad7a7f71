"""A curve of low loss between two solutions, beside the straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hesscope.results import html
from hesscope.results.landscape import LossLine
from hesscope.results.result import Columns, Result


@dataclass(frozen=True)
class LossPath(Result):
    """The loss on the straight line between two points and on a curve trained to have a low one.

    `matched` is the straight line to the second network with its units permuted to match the first
    one's, and None where that was not asked for; the curve then ends there. A barrier of the curve
    is one that was found, an upper bound of the lowest that any path has; its absence is a proof.
    """

    line: LossLine
    matched: LossLine | None
    curve: LossLine  # `distance` is the length of the curve
    kind: str  # "bezier" or "chain"
    bends: Tensor  # (num_bends, n), the points that were trained
    end: Tensor  # (n,) where the curve ends: theta_b, or that with its units permuted
    permuted: tuple[str, ...]  # groups of units that were matched, with how many moved
    training: Tensor  # (num_steps,) float64, the loss of each training step, on its batch and t
    num_gradients: int  # of single batches, to train the curve
    facts: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> Columns:
        """A row for each point."""
        matched = {} if self.matched is None else {"matched line": self.matched.losses}
        return {
            "t": self.line.points,
            "line": self.line.losses,
            **matched,
            "curve": self.curve.losses,
        }

    def picture(self) -> str:
        """The loss along the curve."""
        return html.line(self.curve.points.tolist(), self.curve.losses.tolist(), ("t = 0", "t = 1"))

    def __str__(self) -> str:
        lines = [f"straight line: {_barrier(self.line)}, length {self.line.distance:.4g}"]
        if self.matched is not None:
            lines.append(
                f"after matching units: {_barrier(self.matched)}, "
                f"length {self.matched.distance:.4g}"
            )
            lines += [f"  {group}" for group in self.permuted]
        lines.append(
            f"{self.kind} with {len(self.bends)} trained points: {_barrier(self.curve)}, "
            f"length {self.curve.distance:.4g} ({self.num_gradients} gradients of batches)"
        )
        if self.curve.test_losses is not None:
            tested = (self.line.test_losses, self.curve.test_losses)
            highest = [float(x.max()) for x in tested if x is not None]
            lines.append(
                f"on test data: highest {highest[0]:.4g} straight, {highest[-1]:.4g} curved"
            )
        if self.curve.statistics != "none":
            lines.append(f"running statistics: {self.curve.statistics}")
        return "\n".join(lines)


def _barrier(line: LossLine) -> str:
    if math.isnan(line.barrier):
        return "barrier unknown"
    if line.barrier <= line.rounding:
        return f"no barrier (to within {line.rounding:.1e})"
    return f"barrier {line.barrier:.4g} at t = {line.barrier_at:.3g}"
