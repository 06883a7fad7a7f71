"""Has training passed a saddle?"""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.diagnosis.course.trends import against, of_steps, smooth, stretches, together
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = (
    "Dauphin et al. 2014; the gradient's dip and growth: Saxe, McClelland and Ganguli 2014, and "
    "Jacot et al. 2021"
)
GROWN = 3.0  # the gradient norm at its peak over its dip
DROP = 0.1  # of the loss at the dip, which it has lost by now


def saddle(history: History) -> Verdict | None:
    """The verdict "saddle passage": the one with the largest growth, and how many there were.

    Over three checks or more the curvature along the gradient is negative, the gradient norm grows
    threefold or more, and the loss falls, then and after. That is what makes it a saddle: under
    gradient flow d‖g‖²/dt = -2 g·Hg, so gradients grow only where g·Hg < 0.

    >>> rows = {"gradient_norm": [1, 0.1, 0.1, 0.2, 0.5, 1, 1, 0.2]}
    >>> rows["gradient_curvature"] = [1, 1, -1, -1, -1, 1, 1, 1]
    >>> rows["loss"] = [9, 5, 5, 5, 4, 2, 1, 1]
    >>> saddle(History.of({k: dict(enumerate(v)) for k, v in rows.items()})).claim
    'passed a saddle: at step 1 the gradient was 0.1, then grew to 1 by step 5'
    """
    steps, norm, curvature, loss = together(history, "gradient_norm", "gradient_curvature", "loss")
    passed = []
    for start, end in stretches(smooth(curvature, 3) < 0):
        dip, peak = _dip_and_peak(norm, start, end)
        drop = float(loss[dip] - loss[-1])
        grown = float(norm[peak]) >= GROWN * float(norm[dip])
        fell = drop >= DROP * abs(float(loss[dip])) and loss[peak] < loss[dip]
        if peak - dip >= 2 and grown and fell:
            passed.append((dip, peak))
    if not passed:
        return None
    dip, peak = max(passed, key=lambda p: float(norm[p[1]] / norm[p[0]]))
    drop = float(loss[dip] - loss[-1]) / (abs(float(loss[dip])) or 1.0)
    return _verdict(history, steps[dip : peak + 1], norm[dip : peak + 1], len(passed), drop)


def _dip_and_peak(norm: Tensor, start: int, end: int) -> tuple[int, int]:
    """Where the gradient is least and then greatest, one check further than the stretch."""
    first = max(start - 1, 0)
    dip = first + int(norm[first : end + 1].argmin())
    return dip, dip + int(norm[dip : end + 2].argmax())


def _verdict(history: History, steps: Tensor, norm: Tensor, times: int, drop: float) -> Verdict:
    first, last = int(steps[0]), int(steps[-1])
    lowest = history.get("lambda_min").finite().between(first, last).values
    return Verdict(
        key="saddle_passage",
        name="saddle",
        claim=f"passed a saddle: at step {first} the gradient was {float(norm[0]):.2g}, then grew "
        f"to {float(norm[-1]):.2g} by step {last}",
        **known(
            *of_steps(steps),
            ("gradient_norm_first", "gradient norm at the dip", float(norm[0])),
            ("gradient_norm_last", "gradient norm at the peak", float(norm[-1])),
            ("passages", "passages in all", times),
            ("loss_drop", "share of the loss lost since", drop),
            ("lambda_min", "lowest λmin", float(lowest.min()) if len(lowest) else math.nan),
        ),
        assumptions=(
            "the gradient of the probe data; at the start of training it is the saddle at zero "
            "weights that small initial weights lie near",
            against("positive curvature along the gradient (g·Hg > 0) while it grows"),
        ),
        advice="no action needed now; at the next plateau hs.escape(problem) follows the negative "
        "curvature, and larger initial weights start further from the saddle at zero",
        source=SOURCE,
    )
