"""Where else the numbers of a check go: loggers of all kinds, told apart by what they can do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

PREFIX = "hesscope/"

Sink = Callable[[dict[str, float], int], object]


def sink(logger: Any) -> Sink:
    """What writes numbers to a logger, under names such as `hesscope/lambda_max`.

    Any object with `.log(dict, step=)` (W&B, trackio), with `.log_metrics(dict, step)` (MLflow, the
    loggers of Lightning), with `.add_scalar(name, value, step)` (TensorBoard), or a function of
    (dict, step). What is not finite is left out: not all of them can hold it.

    Raises:
        ValueError: if it has none of these.

    >>> seen = []
    >>> sink(lambda numbers, step: seen.append((numbers, step)))({"loss": 0.5}, 3)
    >>> seen
    [({'hesscope/loss': 0.5}, 3)]
    """
    write = _writer(logger)

    def told(numbers: Mapping[str, float], step: int) -> None:
        finite = {PREFIX + key: x for key, x in numbers.items() if math.isfinite(x)}
        if finite:
            write(finite, step)

    return told


def _writer(logger: Any) -> Sink:
    if callable(getattr(logger, "add_scalar", None)):

        def add(numbers: dict[str, float], step: int) -> None:
            for name, value in numbers.items():
                logger.add_scalar(name, value, step)

        return add
    for method in ("log_metrics", "log"):
        if callable(getattr(logger, method, None)):
            log = getattr(logger, method)
            return lambda numbers, step: log(numbers, step=step)
    if callable(logger):
        called: Sink = logger
        return called
    msg = (
        f"log: a {type(logger).__name__} has none of .log(dict, step=), .log_metrics(dict, step), "
        ".add_scalar(name, value, step), and is no function (dict, step)."
    )
    raise ValueError(msg)
