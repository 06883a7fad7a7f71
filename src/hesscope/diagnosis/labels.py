"""How many labels are wrong, as far as the labels of near examples tell?"""

from __future__ import annotations

import math

from hesscope.results.layers import listed
from hesscope.results.sanity import Neighbours
from hesscope.results.verdict import Verdict, known

SOURCE = (
    "nearest neighbours: Cover and Hart 1967; edited labels: Wilson 1972; interval: Wilson 1927"
)
FEWEST, LEAST = 30, 0.2  # examples, and the share of all, whose neighbours agree
# Lower end of the interval from which on it is a finding. Clean digits: 0.5 to 3 % contradicted;
# two classes with a tenth of the labels flipped: 6 to 13 %.
NOISY, TOLD = 0.12, 0.05
Z = 1.96  # standard normal quantile of 95 %


def labels(n: Neighbours) -> Verdict:
    """The verdict "labels": the share that contradicts the nearest examples, with 95 % of luck.

    It is label noise, or classes that overlap, or inputs whose distance means nothing: the claim
    says so. Undecided where the neighbours of less than a fifth of the examples agree.

    >>> labels(Neighbours(500, 400, tuple(range(80)))).claim
    'label noise: about 20 % of the labels (16 to 24 %) contradict those of the nearest examples'
    """
    rate = len(n.contradicted) / n.decided if n.decided else math.nan
    low, high = interval(len(n.contradicted), n.decided)
    decided = n.decided >= max(FEWEST, LEAST * n.num_examples)
    noisy = decided and low >= NOISY
    return Verdict(
        key="labels",
        name="labels",
        claim=_claim(rate, (low, high)) if decided else _undecided(n),
        **known(
            ("contradicted", "share of labels unlike their neighbours'", rate),
            ("contradicted_low", "at least", low),
            ("contradicted_high", "at most", high),
            ("decided", "examples whose neighbours agree", float(n.decided)),
            ("examples", "examples looked at", float(n.num_examples)),
        ),
        assumptions=(
            "examples that are near (plain distance of standardised inputs) have the same label: "
            "true of small images and tables, not of photographs",
        ),
        confidence="measured" if decided else "undecided",
        advice=_advice(n) if decided and low >= TOLD else "",
        source=SOURCE,
        finding=noisy,
        cause="label_noise" if noisy else "",
    )


def interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's interval for a share, 95 %.

    >>> [round(end, 3) for end in interval(0, 100)]
    [0.0, 0.037]
    """
    if total == 0:
        return math.nan, math.nan
    p, z2 = count / total, Z * Z / total
    centre, half = p + z2 / 2, Z * math.sqrt(p * (1 - p) / total + z2 / (4 * total))
    return max((centre - half) / (1 + z2), 0.0), min((centre + half) / (1 + z2), 1.0)


def _claim(rate: float, ends: tuple[float, float]) -> str:
    low, high = ends
    share = f"{100 * rate:.0f} % of the labels ({100 * low:.0f} to {100 * high:.0f} %)"
    if low >= NOISY:
        return f"label noise: about {share} contradict those of the nearest examples"
    if low >= TOLD:
        return (
            f"some may be wrong: about {share} contradict those of the nearest examples, by noise "
            "or because the classes overlap"
        )
    return f"no sign of wrong labels: {share} contradict those of the nearest examples"


def _undecided(n: Neighbours) -> str:
    return (
        f"undecided: the nearest examples agree on a label for {n.decided} of {n.num_examples}, "
        "too few to tell wrong labels from right ones"
    )


def _advice(n: Neighbours) -> str:
    return (
        f"look at examples {listed(n.contradicted)}: if their labels are wrong, mend them, or stop "
        "before the network learns them by heart (held-out loss tells when); if they are right, "
        "the classes overlap, and no network gets them all"
    )
