"""Has the loss stopped falling, and how much of the training gradient is signal by then?"""

from __future__ import annotations

from torch import Tensor

from hesscope.diagnosis.course.trends import median, together, trend
from hesscope.results.history import History

CHECKS = 8  # of the last half of the run
LITTLE = 0.02  # of the loss, by which it falls over these
NO_TREND = 0.2  # Kendall's tau, below which a fall is chance
SAME = 1e-2  # of the gradient of the probe data, by which that of a step differs on its own batch
LR_GONE = 0.05  # of the largest lr: below, a schedule has ended


def stalled(history: History) -> Tensor:
    """The steps of the last half of the run, if the loss does not fall over them; else none.

    Not if the learning rate is near zero there, for then a schedule has come to its end.
    """
    steps, loss = together(history, "loss")
    here = slice(len(steps) // 2, None)
    if len(steps[here]) < CHECKS or _lr_has_gone(history):
        return steps[:0]
    found = trend(steps[here], loss[here])
    size = abs(found.middle) or 1.0
    falls = found.change < -LITTLE * size and found.tau < -NO_TREND
    rises = found.change > LITTLE * size and found.tau > NO_TREND
    return steps[:0] if falls or rises else steps[here]


def _lr_has_gone(history: History) -> bool:
    lr = history.get("lr").finite()
    return len(lr) > 0 and lr.last <= LR_GONE * float(lr.values.max())


def signal_share(history: History, steps: Tensor) -> float:
    """The median of |g|²/|g_B|², the share of signal in the training gradient; 1 if not known.

    g is the gradient of the probe data, g_B the one that the step is made with.
    """
    ratio = _signal_over_step(history, steps)
    return median(ratio.square()) if len(ratio) else 1.0


def climbing_share(history: History, steps: Tensor) -> float:
    """The share of steps that raise the loss of the probe data, where batches are drawn; else 0.

    Batches are drawn where the gradient of the step is not that of the probe data. Where the loss
    rests because of them, about as many steps raise it as lower it, whatever the share of signal:
    by then the gradient of the data is what the last batches have left.
    """
    ratio = _signal_over_step(history, steps)
    changes = _within(history, steps).get("measured_change").finite().values
    if not len(ratio) or not len(changes) or median((ratio - 1).abs()) < SAME:
        return 0.0
    return float((changes > 0).double().mean())


def _signal_over_step(history: History, steps: Tensor) -> Tensor:
    found = _within(history, steps)
    _, g, of_step = together(found, "gradient_norm", "training_gradient_norm")
    return (g / of_step)[of_step > 0]


def _within(history: History, steps: Tensor) -> History:
    found: History = history[int(steps[0]) : int(steps[-1]) + 1]
    return found


def over_noise(history: History, steps: Tensor) -> float:
    """The median of the gradient norm over its standard error; infinite where that is not known."""
    found = _within(history, steps)
    _, g, noise = together(found, "gradient_norm", "gradient_noise")
    return median(g / noise) if len(g) and bool((noise > 0).all()) else float("inf")
