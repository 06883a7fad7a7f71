"""Does training hover at the edge of stability?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesscope.diagnosis.course.trends import (
    against,
    is_adaptive,
    median,
    of_steps,
    smooth,
    stretches,
    together,
    trend,
)
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = (
    "Cohen, Kaur, Li, Kolter and Talwalkar 2021; adaptive optimisers: Cohen, Ghorbani, Krishnan "
    "et al. 2022; why it holds itself there: Damian, Nichani and Lee 2023"
)
# lr·sharpness over its limit. No quadratic bears 1.5 for as long as this: its steps grow twofold
# each. Tanh networks with MSE hovered at 1.0 to 1.4 in their first hundreds of steps, then at 1.0.
LOW, LOW_ADAPTIVE, HIGH = 0.9, 0.8, 1.5
HOVERS = 8  # checks in the band, at least
MOVED = 1.25  # by this factor the sharpness changed by itself: it was not put at its limit by luck
AWAY = 0.01  # from 1, for a check to lie on one side of it
GROWN = 1.1  # of the loss over the stretch: above, nothing holds itself


def edge(history: History) -> Verdict | None:
    """The verdict "edge of stability".

    lr·sharpness over its limit stays within 0.9 to 1.5 (from 0.8 for adaptive optimisers, whose
    sharpness is that of P⁻¹H) over eight checks or more, in the running median, while the loss does
    not rise. That alone may be luck: it must also have come there by the sharpness's own movement,
    or cross 1 back and forth, as no quadratic can.

    >>> there = {t: 1.0 + 0.05 * (-1) ** t for t in range(12)}
    >>> falls = {t: 1.0 - 0.01 * t for t in range(12)}
    >>> edge(History.of({"sharpness_over_limit": there, "loss": falls})).claim
    'at the edge of stability since step 0: the curvature hovers at what this learning rate can
    bear (1 of it), and the loss still falls'
    """
    steps, over, loss = together(history, "sharpness_over_limit", "loss")
    found = stretches(_inside_the_band(history, over))
    first, last = max(found, key=lambda s: s[1] - s[0], default=(0, -1))
    here = slice(first, last + 1)
    if last - first + 1 < HOVERS or trend(steps[here], loss[here]).ratio > GROWN:
        return None
    own = _per_lr(history, steps, over)[: last + 1]
    if not (_has_moved(own) or _crosses(over[here])):
        return None
    return _verdict(history, steps[here], over[here], ends=last == len(steps) - 1)


def _inside_the_band(history: History, over: Tensor) -> Tensor:
    """(m,) the checks at which lr·sharpness is about its limit, in the running median."""
    level = smooth(over)
    return (level >= _low(history)) & (level <= HIGH)


def arrival(history: History) -> float:
    """The first step at which lr·sharpness has come near its limit; infinite if there is none."""
    steps, over = together(history, "sharpness_over_limit")
    near = steps[smooth(over) >= _low(history)] if len(over) else steps
    return float(near[0]) if len(near) else math.inf


def _low(history: History) -> float:
    return LOW_ADAPTIVE if is_adaptive(history) else LOW


def _per_lr(history: History, steps: Tensor, over: Tensor) -> Tensor:
    """What of lr·sharpness is the sharpness: a schedule of the lr is no movement of its own."""
    lr = torch.tensor([history.get("lr").at(int(step)) for step in steps], dtype=over.dtype)
    return over / lr.where(lr > 0, torch.ones_like(lr))


def _has_moved(own: Tensor) -> bool:
    level = smooth(own)
    return bool(level.max() >= MOVED * level.min())


def _crosses(over: Tensor) -> bool:
    sides = (over[(over - 1).abs() > AWAY] - 1).sign()
    return int((sides[1:] != sides[:-1]).sum()) >= 2


def _verdict(history: History, steps: Tensor, over: Tensor, *, ends: bool) -> Verdict:
    adaptive = is_adaptive(history)
    level, lr = median(over), history.get("lr").between(int(steps[0]), int(steps[-1])).finite()
    first, last = int(steps[0]), int(steps[-1])
    when = f"since step {first}" if ends else f"from step {first} to {last}"
    kind = "adaptive edge of stability" if adaptive else "edge of stability"
    start = "at the" if ends else "was at the"
    return Verdict(
        key="edge_of_stability",
        name="edge of stability",
        claim=f"{start} {kind} {when}: the curvature hovers at what this learning rate "
        f"can bear ({level:.3g} of it), and the loss still falls",
        **known(
            *of_steps(steps),
            ("sharpness_over_limit", "lr over its limit", level),
            ("lowest", "lowest", float(over.min())),
            ("highest", "highest", float(over.max())),
            ("lr", "lr", lr.last),
        ),
        assumptions=(
            "the probe data stands for what is trained on; steps on small batches settle below",
            against(
                "a sharpness that stays away from the limit of another lr: change lr by a third, "
                "and at the edge it follows within a few hundred steps"
            ),
        ),
        advice=(
            "no action needed while the loss falls over tens of steps: the curvature adapts to the "
            "learning rate here; a lower one makes the loss smoother and the place it ends in "
            "sharper"
        ),
        source=SOURCE,
    )
