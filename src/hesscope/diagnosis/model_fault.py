"""A model whose derivatives cannot be trusted: then no other verdict is worth anything."""

from __future__ import annotations

from hesscope.results.check import Check
from hesscope.results.verdict import Verdict


def model_fault(check: Check) -> Verdict:
    """The verdict "model fault", always a finding, from the first fault of a check that has one.

    >>> from hesscope.results.check import Finding
    >>> model_fault(Check((Finding("sum_reduction", "a sum", "divide"),))).claim
    'sum_reduction: a sum'
    """
    fault = check.faults[0]
    return Verdict(
        key="model_fault",
        name="model fault",
        claim=f"{fault.name}: {fault.cause}",
        advice=fault.cure,
        source="hesscope.check_problem",
        finding=True,
    )
