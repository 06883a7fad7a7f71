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
    wrong = differences(found, expected, RTOL)
    return Row(name, "; ".join(wrong[:3]) if wrong else "the same", not wrong)


def on_cpu(value: Any) -> Any:
    """All numbers of a value, with tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: on_cpu(getattr(value, f.name)) for f in fields(value) if f.name != "facts"}
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [on_cpu(item) for item in value]
    return value
