"""Every public call that computes, on the device and on the CPU, both in float64."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from rows import Row, Setting
from tests.public_calls import CALLS, Stage, differences
from torch import Tensor

RTOL = 1e-6
UNLIKE = {  # compared by nothing but that they run, and why
    "trace_penalty": "its signs are drawn on the device",
    "spectra": "counts on both sides of zero, where some eigenvalues are zero but for rounding",
    "escape": "its seed is fresh",
    "basin": "walks along directions that are flat but for rounding",
}
FEW = ("Hessian @ v", "eigsh", "trace", "suggest_lr", "save and load")


def check(setting: Setting) -> Iterator[Row]:
    names = FEW if setting.tiny else tuple(CALLS)
    here, there = (Stage(device, torch.float64) for device in ("cpu", str(setting.device)))
    for name in names:
        yield compared(name, here, there)


def compared(name: str, here: Stage, there: Stage) -> Row:
    """Whether both say the same; an error is told with its last line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same on both sides, and judged by the tests
        expected = on_cpu(CALLS[name](here))
        try:
            found = on_cpu(CALLS[name](there))
        except Exception as error:
            traceback.print_exc()
            return Row(name, f"{type(error).__name__}: {error}", holds=False)
    if name in UNLIKE:
        return Row(name, f"runs; {UNLIKE[name]}")
    wrong = differences(found, expected, RTOL)
    return Row(name, "; ".join(wrong[:3]) if wrong else "the same", not wrong)


def on_cpu(value: Any) -> Any:
    """All numbers of a value but its facts, with tensors on the CPU and eigenvectors turned."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: turned(key, on_cpu(v)) for key, v in value.items() if key != "facts"}
    if isinstance(value, (list, tuple)):
        return [on_cpu(item) for item in value]
    return value


def turned(name: Any, value: Any) -> Any:
    """Eigenvectors with their largest entry positive: their sign means nothing."""
    if name != "eigenvectors" or not isinstance(value, Tensor) or value.ndim != 2:
        return value
    largest = value.gather(0, value.abs().argmax(0, keepdim=True))
    return value * largest.sign()
