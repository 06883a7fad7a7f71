"""Do signals keep their size on the way through the layers, and which weights would see to it?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hesscope.results.verdict import Verdict, known

SOURCE = (
    "variance of activations and gradients: Glorot and Bengio 2010, equations 5 and 6; ReLU: He, "
    "Zhang, Ren and Sun 2015, equations 10 and 14"
)
# Over all hidden layers, either way. He's and Glorot's weights: 1 on average. Torch's default with
# ReLU loses √6 a layer, ten over three of them, and networks of that depth still train.
KEPT = 10.0
FEWEST = 3  # matrix layers: the last one's output is in the units of the targets

Signals = Mapping[str, tuple[float, float, float]]


def initialisation(signals: Signals) -> Verdict:
    """The verdict "initialisation" from the sizes of outputs and of their gradients by layer.

    With f the geometric mean of rms(z_l)/rms(z_{l-1}) over the hidden matrix layers, weights that
    are larger by 1/f keep the outputs' size, as He's initialisation does for ReLU (gain √2) and
    Glorot's for tanh (gain 1). The factor of the gradients per layer, towards the input, is told
    beside it: one factor cannot always keep both.

    Never a finding: a network with normalisation or skip connections trains with signals of any
    size, and the verdict "layers" calls for action where gradients vanish or explode. It is about
    the start: training settles scales of its own.

    Args:
        signals: layer -> (rms output, rms gradient with respect to it, gain ‖W‖_F/√outputs), in
            the order of the forward pass.

    >>> sizes = {"a": (1.0, 0.01, 1.0), "b": (0.1, 0.1, 0.2), "c": (0.01, 1.0, 0.2), "d": (9, 9, 1)}
    >>> initialisation(sizes).advice
    'weights larger by a factor 10 keep the signals: a gain (std times √inputs) of 2, not 0.2'
    """
    hidden = list(signals.values())[:-1]
    forward = _per_layer([size for size, _, _ in hidden])
    backward = _per_layer([gradient for _, gradient, _ in hidden][::-1])
    gain = _geometric_mean([gain for _, _, gain in hidden[1:]])
    claim, advice = _judge(len(hidden), forward, backward, gain)
    return Verdict(
        key="initialisation",
        name="initialisation",
        claim=claim,
        **known(
            ("forward_factor", "output, per layer", forward),
            ("backward_factor", "gradient, per layer towards the input", backward),
            ("gain", "gain of the weights", gain),
            ("kept_gain", "gain that keeps the outputs", gain / forward if forward else math.nan),
            ("layers", "layers", float(len(hidden))),
        ),
        assumptions=("at the initial weights, on the first batch",),
        confidence="measured" if len(hidden) >= FEWEST - 1 else "undecided",
        advice=advice,
        source=SOURCE,
    )


def _judge(num: int, forward: float, backward: float, gain: float) -> tuple[str, str]:
    if num < FEWEST - 1:
        return f"undecided: {num} hidden layers are too few to compare", ""
    if forward == 0 or math.isnan(forward):
        return "no signal arrives: an output in between is zero for all examples", _REDRAW
    over = [forward ** (num - 1), backward ** (num - 1)]
    sizes = f"each layer multiplies outputs by {forward:.2g} and gradients by {backward:.2g}"
    if all(1 / KEPT <= factor <= KEPT for factor in over):
        return f"signals keep their size: {sizes}", ""
    claim = f"signals do not keep their size over {num} hidden layers: {sizes}"
    if not 1 / KEPT <= over[0] <= KEPT:
        word, factor = ("larger", 1 / forward) if forward < 1 else ("smaller", forward)
        return claim, (
            f"weights {word} by a factor {factor:.2g} keep the signals: a gain (std times √inputs) "
            f"of {gain / forward:.2g}, not {gain:.2g}"
        )
    return claim, "a normalisation layer or skip connections keep gradients where weights cannot"


_REDRAW = "draw the weights at random, with a gain of √2 for ReLU (He) or 1 for tanh (Glorot)"


def _per_layer(sizes: list[float]) -> float:
    """The geometric mean of the ratio of neighbours; NaN where there are none, 0 after a zero."""
    if len(sizes) < 2 or sizes[0] == 0:
        return math.nan
    return (sizes[-1] / sizes[0]) ** (1 / (len(sizes) - 1))


def _geometric_mean(values: list[float]) -> float:
    positive = [value for value in values if value > 0]
    return math.exp(sum(map(math.log, positive)) / len(positive)) if positive else math.nan
