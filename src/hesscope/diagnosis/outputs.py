"""Do the outputs follow the inputs, and are they what the loss takes them for?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hesscope.diagnosis import words
from hesscope.results.sanity import Predictions
from hesscope.results.verdict import Verdict, known

SOURCE = "variation of the outputs over the examples; softmax: Bridle 1990"
# Spread over the examples relative to the size of the outputs. Networks at their initial weights:
# 0.05 to 1 with up to four layers, GPT-2 and LSTM included.
COLLAPSED, WEAK = 1e-3, 1e-2
UNSEEN = 0.05  # of a logit: its probabilities differ by a twentieth at most
FLAT = 0.01  # of the spread of the targets
FEWEST = 8  # examples


def outputs(p: Predictions, zero_weights: Sequence[str] = ()) -> Verdict:
    """The verdict "outputs".

    Collapsed is what varies over the examples by less than a thousandth of its size, and so little
    that the loss hardly sees it. Outputs that are zero because a layer starts at zero are none.

    Args:
        p: what the outputs do.
        zero_weights: the weights that are exactly zero.

    >>> p = Predictions(100, 2.0, 0.0, float("nan"), 0.1, 0.1, False)
    >>> outputs(p).claim
    'collapsed: the outputs of 100 examples are all alike, whatever the input'
    """
    relative = p.spread / p.size if p.size > 0 else 0.0
    claim, cause, advice, finding = _judge(p, relative, zero_weights)
    return Verdict(
        key="outputs",
        name="outputs",
        claim=claim,
        **known(
            ("spread", "spread of the outputs over the examples", p.spread),
            ("size", "size of the outputs", p.size),
            ("relative_spread", "spread / size", relative),
            ("target_spread", "spread of the targets", p.target_spread),
            ("examples", "examples looked at", float(p.num_examples)),
        ),
        assumptions=("on a sample of the data, at these weights",),
        confidence="measured" if p.num_examples >= FEWEST else "undecided",
        advice=advice,
        source=SOURCE,
        finding=finding,
        cause=cause,
    )


def _judge(p: Predictions, relative: float, zero: Sequence[str]) -> tuple[str, str, str, bool]:
    if p.probabilities:
        return (
            "softmax is applied twice: the outputs are probabilities (of a softmax or a sigmoid), "
            "and the loss takes them for logits, so its gradients are small and it stays above "
            "zero",
            "softmax_twice",
            "leave softmax and sigmoid out of the model; torch's cross_entropy makes its own",
            True,
        )
    if p.num_examples < FEWEST:
        return f"undecided: {p.num_examples} examples are too few to compare", "", "", False
    if relative < COLLAPSED and _loss_sees_nothing(p):
        if zero:
            claim = f"the same for every input, for {zero[0]} is exactly zero"
            return (
                claim,
                "",
                "usual for a last layer that starts at zero: the first step ends it",
                False,
            )
        alike = "all alike" if p.spread == 0 else f"alike to {relative:.1g} of their size"
        return (
            f"collapsed: the outputs of {p.num_examples} examples are {alike}, whatever the input",
            "collapse",
            "find the layer where inputs stop mattering (dead or saturated units, weights that are "
            "too small, an input that is cut off), start again from fresh weights, lower the "
            "learning rate",
            True,
        )
    if relative < WEAK:
        return (
            f"they depend on the inputs only weakly: over {p.num_examples} examples they vary by "
            f"{words.share(relative)} of their size",
            "",
            "usual for deep networks at their first weights; normalisation layers help",
            False,
        )
    return (
        f"they follow the inputs: over {p.num_examples} examples they vary by "
        f"{words.share(relative)} of their size",
        "",
        "",
        False,
    )


def _loss_sees_nothing(p: Predictions) -> bool:
    limit = UNSEEN if math.isnan(p.target_spread) else FLAT * p.target_spread
    return p.spread <= limit
