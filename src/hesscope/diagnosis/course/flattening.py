"""Does the sharpness fall over training?"""

from __future__ import annotations

from torch import Tensor

from hesscope.diagnosis.course.sharpening import STEADY
from hesscope.diagnosis.course.trends import (
    SHORTEST,
    Trend,
    against,
    of_steps,
    smooth,
    together,
    trend,
)
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = (
    "late in training with cross-entropy: Cohen et al. 2021, appendix C; early, at a high lr: "
    "Kalra and Barkeshli 2023"
)
FALL = 1.5  # of the median of the first third of the checks over that of the last


def flattening(history: History) -> Verdict | None:
    """The verdict "flattening".

    From its highest value to now λmax falls by a third or more, steadily (Kendall's tau at most
    -0.6), while the loss falls.

    >>> falls = {t: 9.0 - t for t in range(9)}
    >>> flattening(History.of({"lambda_max": falls, "loss": falls})).claim
    'the curvature falls with the loss: λmax from 8 to 2, steps 0 to 8'
    """
    steps, sharpness, loss = together(history, "lambda_max", "loss")
    highest = int(smooth(sharpness).argmax())
    steps, sharpness, loss = steps[highest:], sharpness[highest:], loss[highest:]
    if len(steps) < SHORTEST:
        return None
    fall, with_it = trend(steps, sharpness), trend(steps, loss)
    if fall.tau > -STEADY or fall.first < FALL * fall.last or with_it.last >= with_it.first:
        return None
    return _verdict(steps, fall)


def _verdict(steps: Tensor, fall: Trend) -> Verdict:
    first, last = int(steps[0]), int(steps[-1])
    return Verdict(
        key="flattening",
        name="flattening",
        claim=f"the curvature falls with the loss: λmax from {fall.first:.3g} to {fall.last:.3g}, "
        f"steps {first} to {last}",
        **known(
            *of_steps(steps),
            ("lambda_max_first", "λmax at first", fall.first),
            ("lambda_max_last", "λmax at last", fall.last),
            ("tau", "Kendall's tau", fall.tau),
        ),
        assumptions=(
            "λmax of the probe data; with cross-entropy it falls because outputs grow certain, "
            "which is no flatter minimum",
            against("λmax that rises again once lr is lowered: then the steps kept it down"),
        ),
        advice="no action needed; the largest stable lr grows as λmax falls",
        source=SOURCE,
    )
