"""Was training thrown out of a place too sharp for its steps, to land in a flatter one?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from hesscope.diagnosis.course.trends import against, of_steps, smooth, together
from hesscope.results.history import History
from hesscope.results.verdict import Verdict, known

SOURCE = "Lewkowycz, Bahri, Dyer, Sohl-Dickstein and Gur-Ari 2020"
OVER = 1.05  # of its limit, for lr·sharpness where it begins
THROWN = 1.5  # the loss at its peak over the one before
SOFTER = 0.8  # λmax after it over the one before
REGAINED = 0.1  # of all the loss won by then: a lower peak is a ripple


@dataclass(frozen=True)
class _Flight:
    """From the check at which it begins to the one at which the loss is down again."""

    steps: Tensor
    over: float
    sharpness: tuple[float, float]  # before and after
    loss: tuple[float, float]  # before, and at the peak

    @property
    def height(self) -> float:
        before, peak = self.loss
        return peak / before if before > 0 else 1.0


def catapult(history: History) -> Verdict | None:
    """The verdict "catapult": the highest there was.

    lr·sharpness is over its limit, the loss rises by half or more, and then λmax has fallen by a
    fifth or more, lr·sharpness is below its limit and the loss below where it began. Between checks
    the peak is seen in the training loss, where the monitor is told it.

    >>> numbers = {"loss": [1, 5, 2, 0.5], "lambda_max": [30, 20, 10, 10]}
    >>> numbers["sharpness_over_limit"] = [1.5, 1.0, 0.5, 0.5]
    >>> catapult(History.of({k: dict(enumerate(v)) for k, v in numbers.items()})).claim
    'a spike that mended itself: steps too long threw the run out of a sharp place at step 0, and
    by step 3 it was in a flatter one (λmax from 30 to 10)'
    """
    flights = [flight for flight in _flights(history) if _is_catapult(flight)]
    return _verdict(max(flights, key=lambda f: f.height)) if flights else None


def _flights(history: History) -> Iterator[_Flight]:
    steps, over, sharpness, loss = together(history, "sharpness_over_limit", "lambda_max", "loss")
    top = float(loss[:1].max()) if len(loss) else math.nan
    for i in range(len(steps)):
        begins = over[i] > OVER and (i == 0 or over[i - 1] <= OVER)
        landed = ((loss[i + 1 :] <= loss[i]) & (over[i + 1 :] < 1)).nonzero().flatten()
        if not begins or not len(landed):
            continue
        k = i + 1 + int(landed[0])
        here = steps[i : k + 1]
        peak = max(float(loss[i : k + 1].max()), float(loss[i]) * _peak_between(history, here))
        if peak - float(loss[i]) >= REGAINED * max(top - float(loss[i]), 0.0):
            yield _Flight(
                here,
                float(over[i]),
                (float(sharpness[i]), float(sharpness[k])),
                (float(loss[i]), peak),
            )


def _peak_between(history: History, steps: Tensor) -> float:
    """The highest training loss among these steps over the first of them; 1 if not known."""
    told = history.get("train_loss").finite().between(int(steps[0]), int(steps[-1]))
    if len(told) < len(steps):
        return 1.0
    level = smooth(told.values, 3)
    return float(level.max() / level[0]) if level[0] > 0 else 1.0


def _is_catapult(flight: _Flight) -> bool:
    before, after = flight.sharpness
    return flight.height >= THROWN and after <= SOFTER * before


def _verdict(flight: _Flight) -> Verdict:
    (before, after), (loss, peak) = flight.sharpness, flight.loss
    first, last = int(flight.steps[0]), int(flight.steps[-1])
    return Verdict(
        key="catapult",
        name="catapult",
        claim=f"a spike that mended itself: steps too long threw the run out of a sharp place at "
        f"step {first}, and by step {last} it was in a flatter one (λmax from {before:.3g} to "
        f"{after:.3g})",
        **known(
            *of_steps(flight.steps),
            ("sharpness_over_limit", "lr over its limit, before", flight.over),
            ("lambda_max_first", "λmax before", before),
            ("lambda_max_last", "λmax after", after),
            ("loss_first", "loss before", loss),
            ("loss_peak", "loss at its peak", peak),
        ),
        assumptions=(
            "lr went over its limit because of its size, not because of one bad batch",
            against("the same peak of the loss at half the lr"),
        ),
        advice="no action needed: training went on from there; a warm-up of the lr gets there "
        "without the spike",
        source=SOURCE,
    )
