"""How many eigenvalues leave the bulk, and whether that is as many as classes suggest."""

from __future__ import annotations

from hesscope.results.outliers import Outliers
from hesscope.results.verdict import Verdict

SOURCE = "Sagun, Bottou and LeCun 2016; Papyan 2019, 2020, on classes and outliers"


def outliers(found: Outliers) -> Verdict:
    """The verdict "outliers"; never a finding.

    >>> import torch, hesscope as hs
    >>> outliers(hs.outliers(torch.tensor([9.0, 8.0, 1.0, 0.9, 0.8]))).claim
    '2 eigenvalues stand apart, clear: the gap below them is a factor of 8'
    """
    evidence = {"gap ratio": found.gap_ratio, "runner-up ratio": found.runner_up_ratio}
    if found.num_classes is not None:
        evidence["classes"] = float(found.num_classes)
    if found.class_count is not None:
        evidence["of them in the class means"] = float(found.class_count)
    evidence = {name: value for name, value in evidence.items() if value == value}
    if found.considered == 0:
        claim = "no two positive eigenvalues are known: nothing can be counted"
    elif found.clear:
        noun = "eigenvalue stands" if found.count == 1 else "eigenvalues stand"
        claim = (
            f"{found.count} {noun} apart, clear: the gap below them is a factor of "
            f"{found.gap_ratio:.3g}"
        )
    else:
        claim = (
            f"no clear gap: the largest factor between neighbours is {found.gap_ratio:.3g}, after "
            f"eigenvalue {found.count}"
        )
    return Verdict(
        name="outliers",
        claim=claim,
        evidence=evidence,
        assumptions=(found.scope, *found.reasons),
        confidence="measured" if found.clear else "undecided",
        advice="" if found.clear else "nothing, unless you count on a number of outliers",
        source=SOURCE,
    )
