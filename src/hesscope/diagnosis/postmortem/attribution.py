"""What has carried lr·sharpness over its limit: the lr, the curvature or the preconditioner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from hesscope.diagnosis.postmortem.evidence import Evidence
from hesscope.results.history import Series

RISING = 3  # different values, each higher than the last, that make a warm-up


@dataclass(frozen=True)
class Crossing:
    """How lr·sharpness over its limit grew from its least value to its greatest before the onset.

    The growths are logarithms: that of the lr, of λmax of the Hessian, and the rest, which is what
    the preconditioner has shrunk. They add up to `total`.
    """

    step: int  # at which it went over its limit for good
    first: float  # the ratio at its least before
    last: float  # and at its greatest
    of_lr: float
    of_curvature: float
    of_preconditioner: float
    is_warm_up: bool  # the lr rises step by step up to the crossing
    from_the_start: bool  # it was over its limit at the first check

    @property
    def total(self) -> float:
        """The whole growth."""
        return math.log(self.last / self.first)


def crossing(evidence: Evidence) -> Crossing | None:
    """The crossing of the limit before the onset; None if there is none or no limit is known."""
    signal = evidence.over("sharpness_over_limit", 1.0, "")
    series = evidence.before("sharpness_over_limit")
    if signal is None:
        return None
    steps, values = series.steps.tolist(), series.values.tolist()
    at = steps.index(signal.step)
    # A warm-up from zero has a ratio of zero, whose logarithm says nothing.
    low = min((i for i in range(at + 1) if values[i] > 0), key=lambda i: values[i])
    high = max(range(at, len(values)), key=lambda i: values[i])
    grown = math.log(values[high] / values[low])
    of_lr = _growth(evidence.before("lr"), steps[low], steps[high])
    curvature = _growth(evidence.before("lambda_max"), steps[low], steps[high])
    return Crossing(
        signal.step,
        values[low],
        values[high],
        of_lr,
        curvature,
        grown - of_lr - curvature,
        _rises(evidence.before("lr"), signal.step),
        at == 0,
    )


def _growth(series: Series, first: int, last: int) -> float:
    before, after = series.at(first), series.at(last)
    return math.log(after / before) if before > 0 and after > 0 else 0.0


def _rises(lr: Series, step: int) -> bool:
    """Whether the last values of the lr up to a step rise, each above the one before."""
    values = lr.between(-math.inf, step).values.tolist()[-RISING:]
    values = values if len(values) == RISING else lr.values.tolist()[:RISING]
    return len(values) == RISING and all(a < b for a, b in pairwise(values))
