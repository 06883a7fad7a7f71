"""How many eigenvalues leave the bulk, and whether that is as many as classes suggest."""

from __future__ import annotations

import math

from hesscope.results.outliers import Outliers
from hesscope.results.verdict import Verdict, known

SOURCE = "Sagun, Bottou and LeCun 2016; Papyan 2019, 2020, on classes and outliers"


def outliers(found: Outliers) -> Verdict:
    """The verdict "outliers"; never a finding.

    >>> import torch, hesscope as hs
    >>> outliers(hs.outliers(torch.tensor([9.0, 8.0, 1.0, 0.9, 0.8]))).claim
    '2 eigenvalues stand apart: the next is 8 times smaller'
    """
    if found.considered == 0:
        claim = "no two positive eigenvalues are known: nothing can be counted"
    elif found.clear:
        noun = "eigenvalue stands" if found.count == 1 else "eigenvalues stand"
        claim = f"{found.count} {noun} apart: the next is {found.gap_ratio:.3g} times smaller"
    else:
        claim = (
            f"no eigenvalues stand clearly apart: the largest gap is a factor "
            f"{found.gap_ratio:.3g}, after the first {found.count}"
        )
    return Verdict(
        key="outliers",
        name="outliers",
        claim=claim,
        **known(
            ("gap_ratio", "gap ratio", found.gap_ratio),
            ("runner_up_ratio", "runner-up ratio", found.runner_up_ratio),
            ("classes", "classes", _number(found.num_classes)),
            ("class_count", "of them in the class means", _number(found.class_count)),
        ),
        assumptions=(found.scope, *found.reasons),
        confidence="measured" if found.clear else "undecided",
        advice="" if found.clear else "no action needed",
        source=SOURCE,
    )


def _number(count: int | None) -> float:
    return math.nan if count is None else float(count)
