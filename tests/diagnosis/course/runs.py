"""Histories written by hand: what each verdict is about, and what only looks like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hesscope as hs

Curve = Callable[[int], float]
EVERY = 10


def history(checks: int, *, adaptive: bool = False, **curves: Curve | float) -> hs.History:
    """Quantities as functions of the check, one check every ten steps."""
    numbers = {
        key: {EVERY * i: curve(i) if callable(curve) else curve for i in range(checks)}
        for key, curve in curves.items()
    }
    return hs.History.of(numbers, facts={"adaptive": adaptive})


def piecewise(*points: tuple[int, float]) -> Curve:
    """Straight lines between points (check, value), constant after the last."""

    def value(i: int) -> float:
        before = [p for p in points if p[0] <= i]
        after = [p for p in points if p[0] > i]
        if not after:
            return before[-1][1]
        (x0, y0), (x1, y1) = before[-1], after[0]
        return y0 + (y1 - y0) * (i - x0) / (x1 - x0)

    return value


def hover(i: int) -> float:
    return 1.02 + 0.06 * math.sin(1.7 * i)


def falling(i: int) -> float:
    return 2.0 * 0.95**i


def toothed(i: int) -> float:
    return 1.0 + 0.01 * (-1) ** i


ARRIVES = piecewise((0, 0.3), (12, 1.0))
FLAT: dict[str, Any] = {"loss": toothed, "gradient_norm": 0.5, "gradient_noise": 0.01, "lr": 0.1}
AT_A_SADDLE = {"gradient_norm": 1e-5, "gradient_noise": 1e-7, "lambda_max": 1.0, "lambda_min": -0.3}
UP_AND_DOWN = piecewise((0, 1.0), (1, 3.0), (3, 0.9), (12, 0.2))
DIPS = piecewise((0, 1.0), (3, 0.05), (6, 0.06), (9, 0.6), (13, 0.2))
BENT_DOWN = piecewise((0, 1.0), (2, 0.5), (4, -0.5), (9, -0.5), (11, 0.5))
RESTS = piecewise((0, 0.9), (5, 0.4))
STAIRS = piecewise((0, 2.0), (3, 1.5), (6, 1.49), (10, 0.8), (13, 0.3))

PLANTED: dict[str, list[hs.History]] = {
    "edge_of_stability": [
        history(30, lr=0.1, loss=falling, sharpness_over_limit=lambda i: min(ARRIVES(i), hover(i))),
        history(20, lr=0.1, loss=falling, sharpness_over_limit=hover),
        history(  # and left again, as the lr decays
            40,
            lr=piecewise((0, 0.1), (25, 0.1), (26, 0.01)),
            loss=falling,
            sharpness_over_limit=lambda i: min(ARRIVES(i), hover(i)) if i < 26 else 0.1,
        ),
        history(
            30,
            adaptive=True,
            lr=0.1,
            loss=falling,
            sharpness_over_limit=lambda i: 0.86 * min(ARRIVES(i), hover(i)),
        ),
    ],
    "progressive_sharpening": [
        history(20, loss=falling, lambda_max=lambda i: 2.0 + i),
        history(20, loss=falling, lambda_max=lambda i: 2.0 + i + 1.5 * (-1) ** i),
        history(20, loss=falling, lambda_max=piecewise((0, 30.0), (4, 3.0), (19, 12.0))),
        history(
            40,
            loss=falling,
            lambda_max=lambda i: 20 * min(ARRIVES(i), hover(i)),
            sharpness_over_limit=lambda i: min(ARRIVES(i), hover(i)),
        ),
    ],
    "flattening": [
        history(20, loss=falling, lambda_max=lambda i: 9.0 * 0.93**i),
        history(30, loss=falling, lambda_max=piecewise((0, 1.0), (10, 9.0), (29, 2.0))),
    ],
    "catapult": [
        history(
            12,
            loss=UP_AND_DOWN,
            lambda_max=piecewise((0, 30.0), (3, 12.0)),
            sharpness_over_limit=piecewise((0, 1.5), (3, 0.6)),
        ),
        history(
            24,  # in the midst of training
            loss=lambda i: falling(i) if i < 10 else falling(10) * UP_AND_DOWN(i - 10),
            lambda_max=piecewise((0, 10.0), (10, 26.0), (14, 10.0)),
            sharpness_over_limit=piecewise((0, 0.5), (10, 1.3), (14, 0.5)),
        ),
    ],
    "divergence": [
        history(  # the loss rises
            12,
            loss=piecewise((0, 2.0), (5, 1.0), (11, 8.0)),
            lambda_max=10.0,
            sharpness_over_limit=1.3,
        ),
        history(12, loss=piecewise((0, 2.0), (5, 1.0), (11, 8.0))),  # whatever the reason
        history(  # before the loss moves
            6,
            loss=falling,
            sharpness_over_limit=1.8,
            predicted_change=1e-3,
            update_curvature=10.0,
            update_norm=0.1,
        ),
        history(20, loss=piecewise((0, 2.0), (5, 0.5), (7, 1.9))),  # lost for good
    ],
    "saddle_passage": [
        history(16, gradient_norm=DIPS, gradient_curvature=BENT_DOWN, loss=STAIRS),
    ],
    "plateau": [
        history(30, **FLAT),
        history(30, **FLAT | AT_A_SADDLE),
        history(30, **FLAT, sharpness_over_limit=1.0, gradient_in_top=0.9),
        history(30, **FLAT, sharpness_over_limit=0.01),
        history(30, **FLAT, training_gradient_norm=0.6, measured_change=-1e-5),
        history(30, **FLAT, gradient_curvature=1.0),
    ],
    "noise_floor": [
        history(30, **FLAT, training_gradient_norm=5.0),
        history(30, **{**FLAT, "gradient_noise": 0.6}),
        history(30, **FLAT, training_gradient_norm=0.6, measured_change=lambda i: 0.1 * (-1) ** i),
    ],
    "warm_up": [
        history(
            30,
            lr=piecewise((0, 0.0), (6, 0.4)),
            loss=piecewise((0, 2.0), (5, 1.5), (8, 6.0), (29, 0.5)),
            sharpness_over_limit=piecewise((0, 0.0), (6, 2.5), (12, 0.7)),
        ),
        history(
            30,
            adaptive=True,
            lr=0.4,
            loss=piecewise((0, 2.0), (1, 6.0), (29, 0.5)),
            sharpness_over_limit=piecewise((0, 3.0), (6, 0.7)),
        ),
    ],
    "small_batch_edge": [
        history(
            20,
            loss=falling,
            sharpness_over_limit=RESTS,
            batch_sharpness_over_limit=lambda i: 0.55 + 0.1 * (-1) ** i,
        ),
    ],
}

NEAR: dict[str, list[hs.History]] = {
    "small_batch_edge": [
        history(20, loss=falling, sharpness_over_limit=0.4, batch_sharpness_over_limit=0.6),
        history(20, loss=falling, sharpness_over_limit=RESTS, batch_sharpness_over_limit=0.1),
        history(20, loss=1.0, sharpness_over_limit=RESTS, batch_sharpness_over_limit=0.6),
    ],
    "edge_of_stability": [
        history(30, lr=0.1, loss=falling, sharpness_over_limit=0.95),  # a quadratic, by luck
        history(  # a quadratic that a warm-up has brought there
            30, lr=piecewise((0, 0.01), (15, 0.1)), loss=falling,
            sharpness_over_limit=piecewise((0, 0.095), (15, 0.95)),
        ),
        history(30, lr=0.1, loss=falling, sharpness_over_limit=piecewise((0, 0.2), (29, 0.8))),
        history(30, lr=0.1, loss=falling, sharpness_over_limit=piecewise((0, 0.5), (29, 3.0))),
        history(30, lr=0.1, loss=lambda i: 1.0 + 0.1 * i, sharpness_over_limit=hover),
        history(30, lr=0.1, loss=falling, sharpness_over_limit=lambda i: 0.5 * hover(i)),
    ],
    "progressive_sharpening": [
        history(20, loss=falling, lambda_max=lambda i: 5.0 + 0.05 * i),
        history(20, loss=falling, lambda_max=lambda i: 5.0 + 3 * math.sin(2.1 * i)),
        history(20, loss=lambda i: 1.0 + 0.1 * i, lambda_max=lambda i: 2.0 + i),
        history(20, loss=falling, lambda_max=lambda i: 5.0 if i < 19 else 50.0),
    ],
    "flattening": [
        history(20, loss=falling, lambda_max=lambda i: 5.0 - 0.05 * i),
        history(20, loss=falling, lambda_max=lambda i: 5.0 + 3 * math.sin(2.1 * i)),
        history(20, loss=falling, lambda_max=lambda i: 2.0 + i),
        history(20, loss=lambda i: 1.0 + 0.1 * i, lambda_max=lambda i: 9.0 * 0.9**i),
    ],
    "catapult": [
        history(  # the same peak, but the steps were stable: a bad batch
            12, loss=UP_AND_DOWN, lambda_max=piecewise((0, 30.0), (3, 12.0)),
            sharpness_over_limit=0.5,
        ),
        history(  # too sharp, but the loss never rises
            12, loss=falling, lambda_max=piecewise((0, 30.0), (3, 12.0)),
            sharpness_over_limit=piecewise((0, 1.5), (3, 0.6)),
        ),
        history(  # the lr falls, not the sharpness
            12, loss=UP_AND_DOWN, lambda_max=30.0,
            sharpness_over_limit=piecewise((0, 1.5), (3, 0.6)),
        ),
        history(  # never down again
            12, loss=piecewise((0, 1.0), (1, 3.0)), lambda_max=piecewise((0, 30.0), (3, 12.0)),
            sharpness_over_limit=piecewise((0, 1.5), (3, 0.6)),
        ),
        history(40, loss=falling, lambda_max=hover, sharpness_over_limit=hover),
    ],
    "divergence": [
        history(30, loss=falling, lambda_max=10.0, sharpness_over_limit=hover),
        history(30, loss=lambda i: falling(i) * (1 + 0.3 * math.sin(0.5 * i))),
        history(12, loss=piecewise((0, 2.0), (6, 1e-9), (11, 5e-9))),  # ripples at the bottom
        history(12, loss=piecewise((0, 2.0), (6, 1.0), (8, 4.0), (11, 0.9))),
        history(  # above the limit, but every step goes down
            6, loss=falling, sharpness_over_limit=1.8, predicted_change=-1e-3,
            update_curvature=10.0, update_norm=0.1,
        ),
        history(  # noise points uphill: no curvature in it
            6, loss=falling, sharpness_over_limit=1.8, predicted_change=0.1,
            update_curvature=10.0, update_norm=0.1,
        ),
    ],
    "saddle_passage": [
        history(16, gradient_norm=DIPS, gradient_curvature=0.5, loss=STAIRS),
        history(16, gradient_norm=0.5, gradient_curvature=BENT_DOWN, loss=STAIRS),
        history(16, gradient_norm=DIPS, gradient_curvature=BENT_DOWN, loss=lambda i: 1 + 0.1 * i),
    ],
    "plateau": [
        history(30, loss=falling, gradient_norm=0.5),
        history(30, **{**FLAT, "gradient_norm": falling}),  # converging
        history(30, **{**FLAT, "gradient_norm": lambda i: 1.0 if i < 4 else 1e-5}),  # arrived
        history(30, **{**FLAT, "gradient_noise": 0.4}),
        history(30, **FLAT, training_gradient_norm=2.0),
        history(30, **{**FLAT, "loss": lambda i: 500.0 if i < 3 else toothed(i)}),  # learned
        history(30, **FLAT, gradient_curvature=100.0),  # nothing is left to be won
        history(30, **FLAT, training_gradient_norm=0.6, measured_change=lambda i: 0.1 * (-1) ** i),
        history(30, **{**FLAT, "lr": piecewise((0, 0.1), (29, 0.001))}),  # the schedule's end
    ],
    "noise_floor": [
        history(30, **{**FLAT, "loss": falling}, training_gradient_norm=5.0),
        history(30, **FLAT, training_gradient_norm=0.55, measured_change=-1e-5),
        history(30, **FLAT, training_gradient_norm=0.5, measured_change=lambda i: 0.1 * (-1) ** i),
        history(30, **{**FLAT, "lr": piecewise((0, 0.1), (29, 0.001))}, training_gradient_norm=5.0),
    ],
    "warm_up": [
        history(30, lr=piecewise((0, 0.0), (6, 0.4)), loss=falling,
                sharpness_over_limit=piecewise((0, 0.0), (6, 2.5), (12, 0.7))),
        history(30, lr=piecewise((0, 0.0), (6, 0.4)), sharpness_over_limit=0.6,
                loss=piecewise((0, 2.0), (5, 1.5), (8, 6.0), (29, 0.5))),
        history(30, lr=0.4, sharpness_over_limit=piecewise((0, 3.0), (6, 0.7)),
                loss=piecewise((0, 2.0), (1, 6.0), (29, 0.5))),
        history(60, lr=piecewise((0, 0.0), (6, 0.4)),  # long after it
                loss=piecewise((0, 2.0), (40, 1.5), (42, 6.0), (59, 0.5)),
                sharpness_over_limit=piecewise((0, 0.0), (6, 0.5), (40, 2.5), (44, 0.7))),
    ],
}  # fmt: skip


def without(run: hs.History, key: str) -> hs.History:
    return replace(run, series={k: s for k, s in run.series.items() if k != key})
