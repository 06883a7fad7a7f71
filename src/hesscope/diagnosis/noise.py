"""How much of the gradient, and of λmax, is the luck of the examples that were drawn?"""

from __future__ import annotations

import math

from hesscope.results.sampling import SamplingError
from hesscope.results.verdict import Confidence, Verdict, known

SOURCE = (
    "simple noise scale: McCandlish, Kaplan, Amodei and the OpenAI Dota team 2018, equation 2.9"
)
# Standard errors above which a gradient is told from noise, even if all noise is along one
# direction and known to 25 % (32 parts); noise over many directions has a length of 1.
VISIBLE = 2.0
DROWNED = 1 / 25  # b / B: the noise of a batch is five times its signal or more


def noise(
    gradient_norm: float,
    gradient_noise: float,
    num_examples: float,
    batch_size: int | None = None,
    sampling: SamplingError | None = None,
    unit: str = "examples",
) -> Verdict:
    """The verdict "noise" from the gradient of N examples and its standard error over draws.

    gradient_noise² = tr Σ / N, with Σ the covariance of the examples' gradients. The gradient of
    the population has |G|² ≈ gradient_norm² - gradient_noise², since noise only adds, and
    B = tr Σ/|G|² is the simple noise scale, or critical batch size: in a batch of B examples noise
    and signal are alike, in one of b the signal is √(b/B) of the noise. Far below B, b steps of one
    example are as good as one step of b; far above, a larger batch hardly helps. All of these count
    examples as batches are drawn, sequences for a language model, whatever the loss averages over.
    Where batches cannot be cut into examples, `unit` says what N counts instead, and `batch_size`,
    in examples, says nothing about it.

    NaN as `gradient_noise` says that it is not known. `sampling` adds the error of λmax that the
    finite data leaves and what λmax would read on a batch of the user's size (its first
    eigenvalue must be λmax).

    Never a finding: batches far below B are how networks are trained, B grows without bound as
    training succeeds, and networks that fit their data end below their noise. The claim is for the
    reader of a loss that has stopped falling.

    >>> noise(1.0, 0.1, 1000, batch_size=1).evidence["critical_batch_size"]  # 1000 · 0.01 / 0.99
    10.1010...
    """
    batch_size = batch_size if unit == "examples" else None
    claim, confidence, advice = _judge(
        gradient_norm, gradient_noise, num_examples, batch_size, unit
    )
    batch = critical_batch_size(gradient_norm, gradient_noise, num_examples)
    evidence = [
        ("gradient_norm", "gradient norm", gradient_norm),
        ("gradient_noise", "its noise over the data", gradient_noise),
        ("critical_batch_size", f"critical batch size in {unit}", batch),
    ]
    assumptions = [f"{unit} are independent draws", "the whole of θ, in plain Euclidean length"]
    if sampling is not None and len(sampling):
        evidence += _errors_of_sharpness(sampling, batch_size)
        claim += _sharpness(sampling, batch_size)
        assumptions.append("first-order perturbation theory for λmax")
    return Verdict(
        key="noise",
        name="noise",
        claim=claim,
        **known(*evidence),
        assumptions=tuple(assumptions),
        confidence=confidence,
        advice=advice,
        source=SOURCE,
    )


def critical_batch_size(gradient_norm: float, gradient_noise: float, num_examples: float) -> float:
    """B = N s²/(|g|² - s²) for the noise s; infinite where the noise is all there is.

    >>> critical_batch_size(2.0, 1.0, 300), critical_batch_size(1.0, 2.0, 300)
    (100.0, inf)
    """
    signal = gradient_norm**2 - gradient_noise**2
    if math.isnan(signal) or gradient_noise == 0:
        return gradient_noise
    return num_examples * gradient_noise**2 / signal if signal > 0 else math.inf


def _judge(
    norm: float, error: float, num: float, batch_size: int | None, unit: str
) -> tuple[str, Confidence, str]:
    if math.isnan(error):
        return (
            "undecided: the gradient's noise over the data is not known",
            "undecided",
            "give data whose examples can be told apart: tensors, a DataLoader, or a list of "
            "several batches",
        )
    if error == 0:
        return f"none: all {unit} have the same gradient", "measured", ""
    if norm <= error:
        return (
            f"the gradient is smaller than its sampling noise ({norm / error:.2g} times, on all "
            f"{num:g} {unit}): another sample could point elsewhere",
            "measured",
            f"going on fits the luck of these {unit}: give more data, or stop here; if the loss is "
            "still high, look at the other verdicts",
        )
    if norm <= VISIBLE * error:
        return (
            f"undecided: on all {num:g} {unit} the gradient is {norm / error:.2g} times its "
            "sampling noise, too near to tell a slope from luck",
            "undecided",
            f"give the problem more {unit} to decide",
        )
    B = critical_batch_size(norm, error, num)
    claim = f"the gradient is {norm / error:.2g} times its sampling noise on all {num:g} {unit}"
    if batch_size is None:
        return f"{claim}; {_seen_from(B, unit)}", "measured", ""
    return _batch(claim, batch_size, B)


def _seen_from(B: float, unit: str) -> str:
    if B <= 1:
        return "any batch size sees it" if unit == "examples" else f"any number of {unit} sees it"
    of = "batches of about" if unit != "batches" else "about"
    return f"{of} {B:.2g} {unit} and more see it, smaller ones see more noise than signal"


def _batch(claim: str, batch_size: int, B: float) -> tuple[str, Confidence, str]:
    signal = math.sqrt(batch_size / B)
    if batch_size / B < DROWNED:
        return (
            f"your batch of {batch_size} examples is too small to see this gradient: its noise is "
            f"{1 / signal:.2g} times the signal; {claim}",
            "measured",
            "normal early in training at small learning rates; if the loss has stopped falling, "
            f"lower the learning rate or use batches of up to {B:.2g} examples",
        )
    if batch_size > B / DROWNED:
        return (
            f"{claim}; your batch of {batch_size} examples is far larger than it takes to see it "
            f"(about {max(B, 1):.2g} {'examples' if B > 1 else 'example'})",
            "measured",
            "smaller batches would give nearly as much progress a step, at less cost",
        )
    seen = f"the signal is {signal:.2g} times the noise"
    return f"{claim}; in your batch of {batch_size} examples {seen}", "measured", ""


def _errors_of_sharpness(
    sampling: SamplingError, batch_size: int | None
) -> list[tuple[str, str, float]]:
    evidence = [
        ("lambda_max", "λmax", float(sampling.eigenvalues[0])),
        ("lambda_max_data_error", "λmax data error", float(sampling.standard_errors[0])),
        ("lambda_max_data_bias", "λmax data bias", float(sampling.biases[0])),
    ]
    if batch_size is not None and _theory_holds(sampling, batch_size):
        read = sampling.on_batches(batch_size)
        evidence += [
            ("batch_lambda_max", "λmax on a batch", read.value),
            ("batch_spread", "its spread", read.stderr),
        ]
    return evidence


def _sharpness(sampling: SamplingError, batch_size: int | None) -> str:
    if not bool(sampling.reliable[0]):
        return (
            "; how far λmax is the luck of this data is not known: other data could have another "
            "sharpest direction"
        )
    held = sampling.interval(0)
    text = (
        f"; on other data like this the sharpest curvature (λmax) would lie between {held.low:.3g} "
        f"and {held.high:.3g} (95 %)"
    )
    if batch_size is None:
        return text
    if not _theory_holds(sampling, batch_size):
        return (
            f"{text}; on a batch of {batch_size} examples another direction would be the sharpest"
        )
    read = sampling.on_batches(batch_size)
    return (
        f"{text}; a batch of {batch_size} examples would show {read.value:.3g} ± {read.stderr:.2g}"
    )


def _theory_holds(sampling: SamplingError, batch_size: int) -> bool:
    """Whether the sharpest direction of a batch is still about that of the data."""
    return float(sampling.mixing[0]) * sampling.num_examples / batch_size <= 1
