"""Do gradients of a recurrent network reach the beginning of its sequences, and in what size?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hesscope.diagnosis import words
from hesscope.results.sanity import TimeSignal
from hesscope.results.verdict import Verdict, known

SOURCE = "Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013"
# The gradient at the first step over that at the last. At torch's initial weights RNN, LSTM and GRU
# are below 1 at 20 steps, and below 1e-5 from 40 to 80 steps on.
EXPLODES, VANISHES = 1e3, 1e-5


def through_time(signals: Sequence[TimeSignal]) -> Verdict:
    """The verdict "through time", of the recurrent layer that is worst.

    Exploding is a finding. Vanishing is none: LSTMs begin so, and learn from the near past first.

    >>> through_time([TimeSignal("a", 50, 1e5, 1.0, 1e5)]).claim
    'exploding through time: in layer "a" the gradient at the first of 50 steps is 100,000 ...'
    """
    ratios = [_ratio(s) for s in signals]
    i = max(range(len(ratios)), key=lambda i: abs(math.log10(max(ratios[i], 1e-300))))
    s, ratio = signals[i], ratios[i]
    claim, cause, advice = _judge(s, ratio)
    return Verdict(
        key="through_time",
        name="through time",
        claim=claim,
        **known(
            ("length", "steps", float(s.length)),
            ("first", "rms gradient at the first step", s.first),
            ("last", "rms gradient at the last step", s.last),
            ("first_over_last", "first / last", ratio),
        ),
        assumptions=("on the first batch",),
        advice=advice,
        source=SOURCE,
        finding=cause == "exploding_through_time",
        cause=cause,
    )


def _ratio(s: TimeSignal) -> float:
    if not (math.isfinite(s.first) and s.last > 0):
        return math.nan if s.first == s.last else math.inf
    return s.first / s.last


def _judge(s: TimeSignal, ratio: float) -> tuple[str, str, str]:
    where = f"in {words.layer(s.layer)} the gradient at the first of {s.length} steps"
    if ratio >= EXPLODES:
        return (
            f"exploding through time: {where} is {words.plain(ratio)} times the last",
            "exploding_through_time",
            "clip the gradient norm, draw the recurrent weights orthogonal or smaller, or cut the "
            "sequences shorter",
        )
    if ratio <= VANISHES:
        return (
            f"vanishing through time: {where} is {ratio:.1g} times the last, so what stands there "
            "is not learnt from yet",
            "vanishing_through_time",
            "no action needed if the near past is enough; else an LSTM or GRU with forget bias 1 "
            "or more, shorter sequences, or attention",
        )
    return f"gradients reach back: {where} is {ratio:.2g} times the last", "", ""
