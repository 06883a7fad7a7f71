"""Has training come to rest because its gradients are mostly the luck of the batches?"""

from __future__ import annotations

from torch import Tensor

from hesscope.diagnosis import words
from hesscope.diagnosis.course.stall import climbing_share, over_noise, signal_share, stalled
from hesscope.diagnosis.course.trends import against, of_steps
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "McCandlish, Kaplan, Amodei et al. 2018; Smith, Kindermans, Ying and Le 2018"
SIGNAL = 0.5  # of the squared training gradient: below, most of it is noise
CLIMBING = 0.25  # of the steps raise the loss, and batches are drawn: then they undo each other
LUCK = 1.0  # the gradient of the probe data over its standard error: below, it may be luck itself


def noise_floor(history: History) -> Verdict | None:
    """The verdict "noise floor".

    The loss does not fall over the last half of the run; and less than half of the squared training
    gradient is signal, or a quarter of the steps on batches raise the loss, or the gradient of the
    probe data is within its own standard error. Never a finding: a constant lr ends here.

    >>> flat, g = {t: 1.0 for t in range(20)}, {t: 0.1 for t in range(20)}
    >>> rows = {"loss": flat, "gradient_norm": g, "training_gradient_norm": flat}
    >>> noise_floor(History.of(rows)).claim
    'gradient noise dominates since step 10: the loss rests, and only 1% of a
    step is signal, the rest is the luck of its batch'
    """
    steps = stalled(history)
    if not len(steps):
        return None
    over = over_noise(history, steps)
    if over > LUCK and not is_of_batches(history, steps):
        return None
    share, climbing = signal_share(history, steps), climbing_share(history, steps)
    return _verdict(steps, share, climbing, over)


def is_of_batches(history: History, steps: Tensor) -> bool:
    """Whether the steps are mostly the luck of their batches."""
    little = signal_share(history, steps) < SIGNAL
    return little or climbing_share(history, steps) >= CLIMBING


def _verdict(steps: Tensor, share: float, climbing: float, over: float) -> Verdict:
    claim = f"gradient noise dominates since step {int(steps[0])}: the loss rests, and "
    advice = (
        "lower lr (or let it decay), average the weights, or take larger batches: that brings the "
        "loss down from here; more steps like these do not"
    )
    if share < SIGNAL:
        claim += f"only {words.share(share)} of a step is signal, the rest is the luck of its batch"
    elif climbing >= CLIMBING:
        claim += f"{words.share(climbing)} of the steps raise it"
    else:
        claim += f"the gradient of all data is {over:.2g} times its sampling noise"
        advice = "stop here or get more data: further descent fits these examples by their luck"
    return Verdict(
        key="noise_floor",
        name="noise floor",
        claim=claim,
        **known(
            *of_steps(steps),
            ("signal_share", "signal in the squared training gradient", share),
            ("climbing_share", "steps that raise the loss", climbing),
            ("gradient_over_noise", "gradient of the probe data over its noise", over),
        ),
        assumptions=(
            "the probe data are draws from what is trained on",
            against("a loss that does not fall when lr is lowered"),
        ),
        advice=advice,
        source=SOURCE,
    )
