"""Where am I? Descending, at the noise level, or at a critical point; and of which kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hesscope.results.verdict import Confidence, Verdict

SOURCE = (
    "Nocedal and Wright 2006, theorems 2.2 to 2.4; lower bound of λmin: van Dorsselaer, "
    "Hochstenbach and van der Vorst 2000"
)


@dataclass(frozen=True)
class Curvature:
    """The ends of the spectrum, as far as they are known."""

    lambda_max: float
    lambda_max_error: float
    lambda_min: float  # of a unit vector, so the true λmin is not above it
    lambda_min_error: float
    lower: float  # no eigenvalue lies below, with probability 1 - delta
    upper: float  # no eigenvalue lies above, with probability 1 - delta
    noise: float  # rounding noise of the products
    delta: float

    @property
    def epsilon(self) -> float:
        """What counts as zero curvature: 1e-4 of λmax, at least the noise."""
        return max(1e-4 * abs(self.lambda_max), self.noise)

    @property
    def negative(self) -> bool:
        """Whether negative curvature is proven: v'Hv < 0 by more than rounding."""
        return self.lambda_min < -self.noise

    @property
    def never_negative(self) -> bool:
        """Whether λmin >= -epsilon is certified."""
        return self.lower >= -self.epsilon


def critical_point(
    gradient_norm: float,
    gradient_noise: float,
    rounding: float,
    tolerance: float,
    curvature: Curvature,
) -> Verdict:
    """The verdict "minimum?" from the gradient and the ends of the spectrum.

    The gradient is critical below the rounding floor or the user's tolerance, at the noise level
    below twice its standard error over the data (NaN when that is not known), descending above.

    >>> bowl = Curvature(2.0, 0.0, 1.0, 0.0, lower=1.0, upper=2.0, noise=1e-12, delta=0.001)
    >>> critical_point(0.0, math.nan, 1e-12, 0.0, bowl).claim
    'a strict local minimum: all curvature is positive'
    """
    evidence = {
        "gradient norm": gradient_norm,
        "its noise over the data": gradient_noise,
        "λmin": curvature.lambda_min,
        "λmin at least": curvature.lower,
        "λmax": curvature.lambda_max,
    }
    evidence = {name: value for name, value in evidence.items() if not math.isnan(value)}
    if gradient_norm <= max(rounding, tolerance):
        claim, confidence, advice, finding = _at_a_critical_point(curvature)
    elif gradient_norm <= 2 * gradient_noise:
        claim, confidence, advice, finding = _at_noise_level(curvature)
    else:
        claim, confidence, advice, finding = _descending(curvature)
    assumptions = ["second-order: the loss is smooth near these parameters"]
    if confidence == "certified":
        assumptions.append(f"the certificate fails with probability {curvature.delta:g}")
    return Verdict(
        name="minimum?",
        claim=claim,
        evidence=evidence,
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=finding,
    )


def definiteness(curvature: Curvature) -> Verdict:
    """The verdict "curvature": indefinite, positive up to epsilon, negative, or undecided."""
    c = curvature
    evidence = {
        "λmax": c.lambda_max,
        "λmax error": c.lambda_max_error,
        "λmin": c.lambda_min,
        "λmin error": c.lambda_min_error,
        "λmin at least": c.lower,
        "zero within": c.epsilon,
    }
    claim, confidence = _shape(c)
    return Verdict(
        name="curvature",
        claim=claim,
        evidence=evidence,
        assumptions=("the Hessian of the mean loss on the given data",),
        confidence=confidence,
        advice="",
        source=SOURCE,
    )


def _shape(c: Curvature) -> tuple[str, Confidence]:
    if c.negative and c.lambda_max > c.noise:
        share = abs(c.lambda_min) / c.lambda_max
        return f"indefinite: |λmin| is {share:.2g} of λmax", "proven"
    if c.negative and c.upper < 0:
        return "negative definite", "certified"
    if c.negative:
        return "no positive curvature was found", "measured"
    if c.never_negative:
        return f"no negative curvature beyond {c.epsilon:.1e}", "certified"
    return f"undecided: λmin lies in [{c.lower:.2e}, {c.lambda_min:.2e}]", "undecided"


def _at_a_critical_point(c: Curvature) -> tuple[str, Confidence, str, bool]:
    if c.negative and c.upper < 0:
        return "a local maximum", "certified", "move in any direction", True
    if c.negative:
        return (
            "a strict saddle: a direction of negative curvature leads down",
            "proven",
            "step along the eigenvector of λmin, to either side: "
            "hs.eigsh(H, k=1, which='SA').eigenvectors",
            True,
        )
    if c.lower > c.noise:
        return "a strict local minimum: all curvature is positive", "certified", "", False
    if c.never_negative:
        return (
            f"a minimum to second order, up to {c.epsilon:.1e}: flat directions are left",
            "certified",
            "higher derivatives decide along the flat directions",
            False,
        )
    return _undecided(c, "a critical point")


def _at_noise_level(c: Curvature) -> tuple[str, Confidence, str, bool]:
    where = "at the noise level: the choice of examples explains the gradient"
    if c.negative:
        return (
            f"{where}; no minimum, for negative curvature remains",
            "proven",
            "more data tells whether descent goes on; the eigenvector of λmin still leads down",
            False,
        )
    if c.never_negative:
        return f"{where}; no curvature below -{c.epsilon:.1e}", "certified", "", False
    return _undecided(c, where)


def _descending(c: Curvature) -> tuple[str, Confidence, str, bool]:
    tail = "; some directions curve downwards" if c.negative else ""
    return (
        f"no: still descending{tail}",
        "measured",
        "go on training: the gradient is larger than its noise",
        False,
    )


def _undecided(c: Curvature, where: str) -> tuple[str, Confidence, str, bool]:
    return (
        f"{where}, minimum or saddle undecided: λmin lies in [{c.lower:.2e}, {c.lambda_min:.2e}]",
        "undecided",
        "a larger budget of matvecs narrows this interval",
        False,
    )
