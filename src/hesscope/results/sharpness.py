"""How sharp a minimum is, by several measures, each with its unit and its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hesscope.results.estimate import plus_minus
from hesscope.results.result import Columns, Result

EQUAL = 0.1  # relative difference of two losses up to which sharpnesses are compared


@dataclass(frozen=True)
class SharpnessMeasure(Result):
    """One measure of sharpness.

    `kind` says what the number is: "bound" (a maximum that was climbed for: the truth is not below
    by more than rounding, but may be above), "estimate" (with a standard error), "exact" (to the
    error given), or "unknown" (value NaN, with the cause in `note`).
    """

    name: str
    value: float
    error: float
    kind: str
    unit: str
    invariant: str  # what may be done to the network without changing the number
    note: str = ""

    def __str__(self) -> str:
        shown = {"bound": "≥ ", "unknown": ""}.get(self.kind, "")
        number = f"{self.value:.4g}" if self.kind == "bound" else plus_minus(self.value, self.error)
        return f"{self.name:<22} {shown}{number}  [{self.unit}]"


@dataclass(frozen=True)
class Sharpness(Result):
    """Measures of sharpness at one point, and the loss at which they hold.

    Sharpness depends on the loss: cross-entropy flattens as it falls. Two networks are compared at
    equal training loss, or not at all: `compare` says which.
    """

    loss: float
    measures: tuple[SharpnessMeasure, ...]
    gradient_norm: float
    num_matvecs: int
    num_gradients: int  # over all data
    num_evaluations: int  # losses over all data
    facts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> SharpnessMeasure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        known = ", ".join(measure.name for measure in self.measures)
        msg = f"no measure {name!r}; there are {known}."
        raise KeyError(msg)

    def columns(self) -> Columns:
        """A row for each measure."""
        keys = ("name", "value", "error", "kind", "unit", "invariant", "note")
        return {key: [getattr(measure, key) for measure in self.measures] for key in keys}

    def compare(self, other: Sharpness, tolerance: float = EQUAL) -> SharpnessComparison:
        """This beside another one: ratios, and whether the losses allow them to be read.

        They do if they differ by at most `tolerance` of their mean.

        >>> one, two = (SharpnessMeasure("λmax", x, 0.1, "exact", "", "") for x in (1.0, 4.0))
        >>> flat, sharp = Sharpness(0.1, (one,), 0, 0, 0, 0), Sharpness(0.2, (two,), 0, 0, 0, 0)
        >>> print(flat.compare(sharp))
        not compared: the training losses are 0.1 and 0.2, which differ by 67%; ...
        """
        losses = (self.loss, other.loss)
        mean = (abs(self.loss) + abs(other.loss)) / 2
        apart = abs(self.loss - other.loss) / mean if mean > 0 else 0.0
        theirs = {measure.name: measure for measure in other.measures}
        both = [(m, theirs[m.name]) for m in self.measures if m.name in theirs]
        return SharpnessComparison(
            apart <= tolerance,
            losses,
            apart,
            tuple(mine.name for mine, _ in both),
            tuple(mine.value / his.value if his.value else math.nan for mine, his in both),
            tuple(_ratio_error(mine, his) for mine, his in both),
        )

    def __str__(self) -> str:
        cost = (
            f"{self.num_matvecs} matvecs, {self.num_gradients} gradients, "
            f"{self.num_evaluations} losses"
        )
        lines = [f"sharpness at loss {self.loss:.6g}, |g| = {self.gradient_norm:.3g} ({cost})"]
        for measure in self.measures:
            lines.append(f"  {measure}  unchanged by: {measure.invariant}")
            if measure.note:
                lines.append(f"    {measure.note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SharpnessComparison(Result):
    """Ratios of the sharpness of two networks, which mean something at equal training loss only."""

    equal_loss: bool
    losses: tuple[float, float]
    apart: float  # relative difference of the losses
    names: tuple[str, ...]
    ratios: tuple[float, ...]  # first over second; not to be read where the losses differ
    errors: tuple[float, ...]  # of the ratios; NaN where one is a bound

    def columns(self) -> Columns:
        """A row for each measure that both have; none at unequal losses."""
        if not self.equal_loss:
            return {}
        return {"measure": self.names, "ratio": self.ratios, "error": self.errors}

    def __str__(self) -> str:
        a, b = self.losses
        if not self.equal_loss:
            return (
                f"not compared: the training losses are {a:.4g} and {b:.4g}, which differ by "
                f"{self.apart:.0%}; sharpness falls with the loss alone. Train both to one loss."
            )
        lines = [f"at training losses {a:.4g} and {b:.4g}, first over second:"]
        for name, ratio, error in zip(self.names, self.ratios, self.errors, strict=True):
            of_bounds = "  (of two lower bounds)" if math.isnan(error) else ""
            lines.append(f"  {name:<22} {plus_minus(ratio, error)}{of_bounds}")
        return "\n".join(lines)


def _ratio_error(mine: SharpnessMeasure, other: SharpnessMeasure) -> float:
    """Of a quotient of independent numbers, to first order."""
    if "bound" in (mine.kind, other.kind) or not mine.value or not other.value:
        return math.nan
    relative = math.hypot(mine.error / mine.value, other.error / other.value)
    return abs(mine.value / other.value) * relative
