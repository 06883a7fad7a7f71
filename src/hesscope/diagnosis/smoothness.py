"""Is the loss smooth at the scale of a step, so that derivatives tell what a step will meet?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from hesscope.results.smoothness import TOLERATED, Smoothness
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "Taylor's theorem, Nocedal and Wright 2006, theorem 2.1; differences of gradients: section 8.1"
)
NEAR = 2.0  # a radius within this factor of the step speaks for it
CLOSER = 3.0  # radii at least this much shorter than the step tell kinks from smooth change


def smoothness(s: Smoothness, step_length: float | None = None) -> Verdict:
    """The verdict "smoothness" from derivatives against differences along one direction.

    At the radius nearest to the step (by default the one that `s` was measured for): does the
    curvature over the step differ from v'Hv by more than 10 %, and is the loss off by more than
    10 % of the predicted change? The difference is put down to kinks where the loss has any, unless
    it falls as h² towards radii three and more times shorter, as on a smooth loss.

    Never a finding: ordinary ReLU networks train well with 61 to 97 % of the curvature along the
    gradient hidden (measured after 300 steps, 3 seeds); it says which numbers to trust for a step.

    >>> import torch
    >>> one, zero = torch.ones(1).double(), torch.zeros(1).double()
    >>> s = Smoothness("g", 1.0, -1.0, 1.0, one, one, zero, zero, zero, (), 5, 1)
    >>> smoothness(s).claim
    'smooth: over a step of length 1 the loss is quadratic to within 10 %'
    """
    step = s.step_length if step_length is None else step_length
    i = _nearest(s, step)
    if i is None:
        claim, confidence, advice = _not_measured(step)
    else:
        claim, confidence, advice = _judge(s, i, step)
    return Verdict(
        key="smoothness",
        name="smoothness",
        claim=claim,
        **_evidence(s, i, step),
        assumptions=(f"along {s.direction} only; other directions may differ",),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
    )


def _nearest(s: Smoothness, step: float) -> int | None:
    """The radius that speaks for the step, if there is one."""
    if not 0 < step < math.inf:
        return None
    distances = [abs(math.log(h / step)) for h in s.radii.tolist()]
    i = min(range(len(distances)), key=distances.__getitem__)
    return i if distances[i] <= math.log(NEAR) else None


def _evidence(s: Smoothness, i: int | None, step: float) -> dict[str, Any]:
    def there(values: Tensor) -> float:
        return math.nan if i is None else float(values[i])

    return known(
        ("step_length", "step length", step),
        ("curvature", "curvature by derivatives", s.curvature),
        ("quadratic_radius", "quadratic within 10 % up to", s.quadratic_radius),
        ("step_curvature", "curvature over the step", there(s.differences)),
        ("step_curvature_rounding", "its rounding", there(s.difference_rounding)),
        ("hidden_share", "derivatives are off by", there(s.hidden_share)),
        ("remainder", "remainder of the loss", there(s.remainders)),
        ("relative_remainder", "remainder / prediction", there(s.relative_remainder)),
    )


def _judge(s: Smoothness, i: int, step: float) -> tuple[str, Confidence, str]:
    share, remainder = float(s.hidden_share[i]), float(s.relative_remainder[i])
    if math.isnan(float(s.remainders[i])):
        return (
            f"the loss is not finite at a step of length {step:.3g}",
            "measured",
            "take shorter steps, or clip the gradient",
        )
    if math.isnan(share) and math.isnan(remainder):
        return (
            f"undecided: rounding hides what happens over a step of length {step:.3g}",
            "undecided",
            "measure in float64, or at a longer step",
        )
    if share > TOLERATED and _kinks(s, i):
        return _kinked(s, i, share)
    if share > TOLERATED or remainder > TOLERATED:
        return _curved(s, step, share, remainder)
    known = "" if share <= TOLERATED else "; rounding hides its curvature"
    return (
        f"smooth: over a step of length {step:.3g} the loss is quadratic to within 10 %{known}",
        "measured",
        "",
    )


def _kinks(s: Smoothness, i: int) -> bool:
    """Whether kinks explain the difference: there are some, and it does not fall as h²."""
    known = [
        1 / CLOSER <= abs(difference - s.curvature) / expected <= CLOSER
        for difference, rounding, expected in _shorter(s, i)
        if abs(difference - s.curvature) > rounding
    ]
    return bool(s.kinks) and not (known and all(known))


def _shorter(s: Smoothness, i: int) -> Iterator[tuple[float, float, float]]:
    """Differences at shorter radii, their rounding, and what a smooth loss would leave of the gap.

    By Taylor's theorem the difference of a smooth loss is about h²/6 times the fourth derivative.
    """
    step, gap = float(s.radii[i]), abs(float(s.differences[i]) - s.curvature)
    for j, h in enumerate(s.radii.tolist()):
        if h <= step / CLOSER * (1 + 1e-9):
            yield (
                float(s.differences[j]),
                float(s.difference_rounding[j]),
                gap * (h / step) ** 2,
            )


def _kinked(s: Smoothness, i: int, share: float) -> tuple[str, Confidence, str]:
    over = float(s.differences[i])
    size = f"off by {share:.0%}" if over * s.curvature >= 0 else "wrong in sign"
    claim = (
        f"kinks ({', '.join(s.kinks)}) hide curvature along {s.direction}: derivatives say "
        f"{s.curvature:.3g}, over a step it is {over:.3g}, so they are {size}"
    )
    advice = "no action needed: usual for ReLU; take step limits from curvature as rough here"
    if over > 0 and s.slope != 0:
        advice += (
            f"; with kinks the loss falls over a length of about {2 * abs(s.slope) / over:.3g}"
        )
    return claim, "measured", advice


def _curved(
    s: Smoothness, step: float, share: float, remainder: float
) -> tuple[str, Confidence, str]:
    by = " and ".join(
        text
        for value, text in (
            (share, f"its curvature differs by {share:.0%}"),
            (remainder, f"the loss is off by {remainder:.0%} of the predicted change"),
        )
        if value > TOLERATED
    )
    radius = s.quadratic_radius
    trusted = f"up to a length of {radius:.3g}" if radius > 0 else "only at shorter lengths"
    return (
        f"not quadratic over a step of length {step:.3g}: {by}",
        "measured",
        f"trust what gradient and curvature predict {trusted}; beyond, trust the measured loss",
    )


def _not_measured(step: float) -> tuple[str, Confidence, str]:
    return (
        f"undecided: nothing was measured near a step of length {step:.3g}",
        "undecided",
        f"measure with radii=[{step / 10:.3g}, {step:.3g}]",
    )
