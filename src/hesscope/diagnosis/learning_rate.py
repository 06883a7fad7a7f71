"""Which learning rate to try: half of what is stable, or less where batches are noisy."""

from __future__ import annotations

import math

from hesscope.diagnosis.step_size import NOISY
from hesscope.results.batch_stability import BatchStability
from hesscope.results.learning_rate import LearningRate
from hesscope.results.step import Step

# Gradient descent at half of its limit takes the sharpest direction to its minimum in one step;
# losses that bend more than their quadratic model have room there.
SHARE = 0.5
SHARPEST, NOISE, SLOPE = (
    "the sharpest direction",
    "the noise of batches",
    "the curvature along the gradient",
)


def below_the_limit(limit: float) -> float:
    """The learning rate to try where steps grow above `limit`.

    >>> below_the_limit(0.4)
    0.2
    """
    return SHARE * limit


def learning_rate(
    step: Step,
    gradient_noise: float = math.nan,
    num_examples: float = math.nan,
    batch_size: int | None = None,
    batches: BatchStability | None = None,
) -> LearningRate:
    """The smaller one of half the stability limit and the best single step on batches.

    On a quadratic a step -lr g_b of a batch changes the loss by -lr |g|² + ½ lr² E g_b·H g_b on
    average, least at (McCandlish, Kaplan, Amodei et al. 2018, equation 2.7)

        lr = (g·g/g·Hg) / (1 + B/b'),    B = tr(HΣ)/g·Hg

    With their simplification that H is alike in all directions of the noise (2.9), B is
    tr Σ/|g|² = N s²/|g|² for the standard error s of the gradient over N examples, and 1/b' is
    1/b - 1/N for batches drawn without replacement: on all data there is no noise. An optimiser
    whose momentum moves θ by c lr g in all for one gradient g (1/(1 - β) for SGD) gets lr/c.

    >>> step = Step(g_dot_g=1.0, g_dot_Hg=2.0, lambda_max=10.0, lambda_max_error=0.0)
    >>> learning_rate(step).lr, learning_rate(step).limited_by
    (0.1, 'the sharpest direction')
    >>> noisy = learning_rate(step, gradient_noise=0.5, num_examples=101, batch_size=1)
    >>> noisy.lr, noisy.noise_scale  # ½/(1 + 25.25 (1 - 1/101))
    (0.0192..., 25.25)
    """
    factor = 1.0 if batches is None else batches.noise_factor
    limit = step.stable / factor
    best = _best_along(step)
    scale = num_examples * gradient_noise**2 / step.g_dot_g if step.g_dot_g > 0 else math.nan
    share = _noise_share(scale, num_examples, batch_size)
    on_batches = best if math.isnan(share) else best / (1 + share)
    allowed = [
        (below_the_limit(limit), NOISE if factor > NOISY else SHARPEST),
        (on_batches, NOISE if share > 1 else SLOPE),
    ]
    lr, why = min((one for one in allowed if math.isfinite(one[0])), default=(math.nan, ""))
    return LearningRate(
        lr=lr,
        limited_by=why,
        stability_limit=limit,
        best_along=best,
        best_on_batches=on_batches,
        optimizer=step.optimizer,
        batch_size=batch_size,
        noise_scale=scale,
        assumptions=_assumptions(step, share, batch_size),
    )


def _best_along(step: Step) -> float:
    """The lr of the best single step on all data, to second order; infinite without curvature."""
    follows = step.adaptive or step.fixed_length or math.isnan(step.factor)
    if follows and step.lr:
        return step.lr * step.scale / 2 if step.scale > 0 else math.nan  # uphill: none
    return step.limit / 2 / step.accumulation


def _noise_share(scale: float, num: float, batch_size: int | None) -> float:
    """E|g_b - g|²/|g|² for batches drawn without replacement."""
    if batch_size is None:
        return math.nan
    return scale * max(1 / batch_size - 1 / num, 0.0)


def _assumptions(step: Step, share: float, batch_size: int | None) -> tuple[str, ...]:
    said = ["the quadratic model here, and one lr for all parameters (groups keep their ratios)"]
    if math.isnan(step.factor):
        said.append("what repeated steps can bear is not known: only this step counts")
    if batch_size is None:
        said.append("steps on all data")
    elif math.isnan(share):
        said.append("the noise of batches is not known and left out")
    else:
        said.append("batches drawn without replacement; curvature is alike where their noise is")
    if step.running_statistics:
        said.append("batch normalisation by its running statistics, unlike in training")
    return tuple(said)
