"""Where am I? Descending, at the noise level, or at a critical point; and of which kind."""

from __future__ import annotations

from hesscope.results.descent import Curvature, Descent
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "Nocedal and Wright 2006, theorems 2.2 to 2.4; lower bound of λmin: van Dorsselaer, "
    "Hochstenbach and van der Vorst 2000"
)


VISIBLE = 2.0  # standard errors from which a gradient is more than luck, whatever its direction
_DOWNHILL = "; not a minimum: some directions still go downhill (this much is proven)"
PLATEAU = 1e-6  # of the loss per step: below, a million steps would not halve it


def critical_point(descent: Descent, curvature: Curvature) -> Verdict:
    """The verdict "minimum?" from the gradient and the ends of the spectrum.

    The gradient is critical below the rounding floor or the user's tolerance, at the noise level
    below its standard error over the data, undecided up to twice that (noise along one direction
    alone can be so long), descending above; a plateau where one step would
    lower the loss by less than a millionth of it.

    >>> bowl = Curvature(2.0, 0.0, 1.0, 0.0, lower=1.0, upper=2.0, noise=1e-12, delta=0.001)
    >>> critical_point(Descent(0.0, float("nan"), 1e-12), bowl).claim
    'a strict local minimum: the loss rises in every direction'
    """
    if descent.gradient_norm <= max(descent.rounding, descent.tolerance):
        claim, confidence, advice, finding = _at_a_critical_point(descent, curvature)
    elif descent.gradient_norm <= descent.gradient_noise:
        claim, confidence, advice, finding = _at_noise_level(descent, curvature)
    elif descent.gradient_norm <= VISIBLE * descent.gradient_noise:
        claim, confidence, advice, finding = _near_noise_level(descent, curvature)
    elif descent.progress < PLATEAU:
        claim, confidence, advice, finding = _on_a_plateau(descent, curvature)
    else:
        claim, confidence, advice, finding = _descending(curvature)
    assumptions = ["second-order: the loss is smooth near these parameters"]
    if confidence == "certified":
        assumptions.append(f"the certificate fails with probability {curvature.delta:g}")
    return Verdict(
        key="critical_point",
        name="minimum?",
        claim=claim,
        **known(
            ("gradient_norm", "gradient norm", descent.gradient_norm),
            ("gradient_noise", "its noise over the data", descent.gradient_noise),
            ("lambda_min", "λmin", curvature.lambda_min),
            ("lambda_min_bound", "λmin at least", curvature.lower),
            ("lambda_max", "λmax", curvature.lambda_max),
            ("progress", "a step lowers the loss by its", descent.progress),
            ("escape_predicted", "predicted decrease along λmin", descent.predicted),
            ("escape_measured", "measured decrease along λmin", descent.escaped),
            ("flat_fall", "measured decrease along a flat direction", descent.fell),
        ),
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
        finding=finding,
    )


def _at_a_critical_point(d: Descent, c: Curvature) -> tuple[str, Confidence, str, bool]:
    if c.negative and c.upper < 0:
        return (
            "a local maximum: the loss falls in every direction",
            "certified",
            "any step leads down; look whether the loss has the wrong sign",
            True,
        )
    if c.negative:
        return (
            "a strict saddle: there is no slope, but the loss falls along at least one direction",
            "proven",
            "hs.escape(problem) moves down along it; a random kick (hs.kick) does so more slowly",
            True,
        )
    if c.definite:
        return (
            "a strict local minimum: the loss rises in every direction",
            "certified",
            "no action needed, if the loss is as low as it should be",
            False,
        )
    if d.fell > 0:
        return (
            "a degenerate saddle: there is no slope and no curvature that leads down, but the loss "
            "falls along a flat direction",
            "measured",
            "a random kick (hs.kick) and a few steps of descent leave it; if all weights are "
            "zero, draw them at random",
            True,
        )
    if c.none:
        return (
            "undecided: slope and curvature are zero in every direction, so minimum, saddle and "
            "plateau look alike",
            "undecided",
            "move by a random kick (hs.kick): the loss after it decides; look for dead units and "
            "zero weights, too",
            False,
        )
    if c.never_negative:
        return (
            f"a minimum to second order: nothing curves downhill by more than {c.epsilon:.1e}, and "
            "flat directions are left",
            "certified",
            "no action needed, if the loss is as low as it should be: flat directions are usual, "
            "and curvature cannot tell whether they lead down further on",
            False,
        )
    return _undecided(c, "a critical point")


def _at_noise_level(d: Descent, c: Curvature) -> tuple[str, Confidence, str, bool]:
    where = (
        f"at the noise level: the gradient is smaller than its sampling noise "
        f"({d.gradient_norm / d.gradient_noise:.2g} times), so another sample could point elsewhere"
    )
    advice = "give the problem more examples to decide whether descent goes on"
    if c.negative:
        return f"{where}{_DOWNHILL}", "measured", advice, False
    if c.never_negative:
        return (
            f"{where}; nothing curves downhill by more than {c.epsilon:.1e}",
            "certified",
            "no action needed, if the loss is as low as it should be",
            False,
        )
    return _undecided(c, where)


def _near_noise_level(d: Descent, c: Curvature) -> tuple[str, Confidence, str, bool]:
    ratio = d.gradient_norm / d.gradient_noise
    return (
        f"undecided: the gradient is {ratio:.1f} times its sampling noise, too little to tell a "
        f"slope from the luck of the examples{_DOWNHILL if c.negative else ''}",
        "undecided",
        "give the problem more examples to decide; until then go on training",
        False,
    )


def _on_a_plateau(d: Descent, c: Curvature) -> tuple[str, Confidence, str, bool]:
    claim = (
        f"a plateau: there is a slope, but a step lowers the loss by only {d.progress:.0e} of it"
    )
    if c.negative:
        return (
            f"{claim}; a direction that curves downhill leads off it",
            "proven",
            "hs.escape(problem) follows that direction",
            True,
        )
    advice = (
        "if the loss is as low as it should be, stop; otherwise raise the learning rate, look for "
        "dead or saturated units, or start from other weights"
    )
    return claim, "measured", advice, True


def _descending(c: Curvature) -> tuple[str, Confidence, str, bool]:
    tail = "; some directions curve downhill" if c.negative else ""
    return (
        f"no: still descending{tail}",
        "measured",
        "go on training: a loss that is high here is not a local minimum, for there is a slope, "
        "larger than its noise",
        False,
    )


def _undecided(c: Curvature, where: str) -> tuple[str, Confidence, str, bool]:
    return (
        f"{where}; whether a minimum or a saddle is undecided: the lowest curvature lies between "
        f"{c.lower:.2e} and {c.lambda_min:.2e}",
        "undecided",
        "effort='deep', or a larger max_matvecs, narrows this interval",
        False,
    )
