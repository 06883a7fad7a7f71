"""Do small batches hold the sharpness where it is?"""

from __future__ import annotations

from torch import Tensor

from hesscope.diagnosis.course.edge import HOVERS, LOW, MOVED
from hesscope.diagnosis.course.trends import against, median, of_steps, smooth, together, trend
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "Andreyev and Beneventano 2024, 'Edge of stochastic stability'"
# Tanh networks with MSE on 100 and 150 digits, batches of 1, 2 and 8: λmax rested within a tenth
# for thousands of steps at 0.17 to 0.78 of 2/lr while the loss fell fivefold, and batch sharpness
# came to 0.4 to 0.75 of 2/lr. The paper has it at 1, for larger networks.
LEAST, MOST = 0.4, 1.5  # batch sharpness over 2/lr
RESTS = 1.2  # largest over smallest λmax of the stretch, in the running median
FALLEN = 0.8  # of the loss over the stretch, at most


def batch_edge(history: History) -> Verdict | None:
    """The verdict "small-batch edge".

    λmax rests well below its limit although the loss goes on falling, after it has moved by itself,
    and the curvature of batches along their own gradients is of the order of 2/lr: their noise
    throws steps out of what is sharper.

    >>> import torch
    >>> over = {t: 0.8 - 0.1 * min(t, 4) for t in range(16)}  # 0.4 in the end
    >>> batches, loss = {t: 0.7 for t in range(16)}, {t: 2.0**-t for t in range(16)}
    >>> run = {"sharpness_over_limit": over, "batch_sharpness_over_limit": batches, "loss": loss}
    >>> print(batch_edge(History.of(run)).claim.partition(":")[2])
     λmax of all data rests at 0.4 of 2/lr, while single batches are at 0.7 of it
    """
    steps, over, batches, loss = together(
        history, "sharpness_over_limit", "batch_sharpness_over_limit", "loss"
    )
    first = _rests_since(smooth(over))
    here = slice(first, None)
    if len(over) - first < HOVERS or not LEAST <= median(batches[here]) <= MOST:
        return None
    fell = trend(steps[here], loss[here])
    moved = float(over.max()) >= MOVED * float(over.min())
    if median(over[here]) >= LOW or fell.ratio > FALLEN or not moved:
        return None
    return _verdict(steps[here], over[here], batches[here])


def _rests_since(level: Tensor) -> int:
    """The first check from which on to the last the level stays within a factor."""
    first = len(level)
    low = high = float(level[-1])
    while first > 0:
        low, high = min(low, float(level[first - 1])), max(high, float(level[first - 1]))
        if not 0 < high <= RESTS * low:
            break
        first -= 1
    return first


def _verdict(steps: Tensor, over: Tensor, batches: Tensor) -> Verdict:
    level, own = median(over), median(batches)
    return Verdict(
        key="small_batch_edge",
        name="small-batch edge",
        claim=(
            f"small batches hold the curvature down since step {int(steps[0])}: λmax of all data "
            f"rests at {level:.2g} of 2/lr, while single batches are at {own:.2g} of it"
        ),
        **known(
            *of_steps(steps),
            ("sharpness_over_limit", "lr·λmax/2", level),
            ("batch_sharpness_over_limit", "lr·batch sharpness/2", own),
            ("lowest", "lowest batch sharpness", float(batches.min())),
            ("highest", "highest", float(batches.max())),
        ),
        assumptions=(
            "plain SGD; batches like those of the probe data",
            against("a λmax that stays where it is with batches eight times as large"),
        ),
        advice=(
            "no action needed: with full batches the same lr would end in a sharper place; larger "
            "batches, or a lower lr, let λmax rise"
        ),
        source=SOURCE,
    )
