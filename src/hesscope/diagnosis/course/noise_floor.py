"""Has training come to rest because its gradients are mostly the luck of the batches?"""

from __future__ import annotations

from torch import Tensor

from hesscope.diagnosis.course.stall import over_noise, signal_share, stalled
from hesscope.diagnosis.course.trends import against, of_steps
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "McCandlish, Kaplan, Amodei et al. 2018; Smith, Kindermans, Ying and Le 2018"
SIGNAL = 0.5  # of the squared training gradient: below, most of it is noise
LUCK = 1.0  # the gradient of the probe data over its standard error: below, it may be luck itself


def noise_floor(history: History) -> Verdict | None:
    """The verdict "noise floor".

    The loss does not fall over the last half of the run, and less than half of the squared training
    gradient is signal, or the gradient of the probe data is within its own standard error. Never a
    finding: a constant lr ends here.

    >>> flat, g = {t: 1.0 for t in range(20)}, {t: 0.1 for t in range(20)}
    >>> rows = {"loss": flat, "gradient_norm": g, "training_gradient_norm": flat}
    >>> noise_floor(History.of(rows)).claim
    'gradient noise dominates since step 10: the loss rests, and 1 % of a step is signal'
    """
    steps = stalled(history)
    if not len(steps):
        return None
    share, over = signal_share(history, steps), over_noise(history, steps)
    if share >= SIGNAL and over > LUCK:
        return None
    return _verdict(steps, share, over)


def _verdict(steps: Tensor, share: float, over: float) -> Verdict:
    start = f"gradient noise dominates since step {int(steps[0])}: the loss rests, and "
    if share < SIGNAL:
        claim = f"{start}{100 * share:.2g} % of a step is signal"
        advice = (
            "a lower lr (or its decay), an average of the weights, or larger batches bring the "
            "loss down from here; more steps like these do not"
        )
    else:
        claim = f"{start}the gradient of the data is {over:.2g} times its own noise"
        advice = "further descent fits these examples, not what they were drawn from"
    return Verdict(
        key="noise_floor",
        name="noise floor",
        claim=claim,
        **known(
            *of_steps(steps),
            ("signal_share", "signal in the squared training gradient", share),
            ("gradient_over_noise", "gradient of the probe data over its noise", over),
        ),
        assumptions=(
            "the probe data are draws from what is trained on",
            against("a loss that does not fall when lr is lowered"),
        ),
        advice=advice,
        source=SOURCE,
    )
