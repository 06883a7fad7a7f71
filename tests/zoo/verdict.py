"""From what was measured to one word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

RIGHT, RIGHTLY, WRONGLY = "right", "refused rightly", "refused wrongly"
ALARM, SILENT, ABSENT = "false alarm", "silent", "not buildable here"
VERDICTS = (RIGHT, RIGHTLY, WRONGLY, ALARM, SILENT, ABSENT)
GOOD = (RIGHT, RIGHTLY, ABSENT)
TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-3}


@dataclass(frozen=True)
class Measured:
    """What hesscope said of one model in one mode, beside the reference.

    Args:
        fault: the first fault of `check_problem`, or what it raised; empty if it passed.
        failure: what the product raised; empty if there is one.
        error: the product's relative distance from the reference's.
        rounding: the same distance for plain double backward in the model's own precision.
        unsound: why the reference itself has no Hessian to serve; empty if it has.
    """

    dtype: torch.dtype
    fault: str
    failure: str
    error: float
    rounding: float
    unsound: str


def accurate(measured: Measured) -> bool:
    """Within the tolerance of the precision, or within what that precision does to plain torch."""
    return measured.error <= max(TOLERANCE[measured.dtype], 2 * measured.rounding)


def verdict(measured: Measured) -> str:
    refused = measured.fault or measured.failure
    if refused and measured.unsound:
        return RIGHTLY
    if refused:
        return ALARM if not measured.failure and accurate(measured) else WRONGLY
    return RIGHT if accurate(measured) else SILENT


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a row of the zoo asks for a repair."""
    return row["verdict"] not in GOOD or bool(row.get("left_changed"))


def cause(row: dict[str, Any]) -> str:
    """What a row that asks for a repair complains of."""
    off = "" if row["fault"] else f"product off by {row['error']:.0e}"
    left = [f"left changed: {', '.join(row['left_changed'])}"] if row["left_changed"] else []
    refused = f"{row['fault']} {off}".strip() if row["verdict"] not in GOOD else ""
    return "; ".join([*filter(None, [refused]), *left])


def mode(row: dict[str, Any]) -> str:
    """The weights, the precision and the batches of a row."""
    if "dtype" not in row:
        return "no package"
    return f"{row['weights']} {row['dtype']} x{row['batches']}"
