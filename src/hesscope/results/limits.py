"""What a run says about the limit of its steps: read out of a history, measured by nobody here."""

from __future__ import annotations

from collections.abc import Callable

from hesscope.results.history import History, Series


def factor(history: History) -> Series:
    """What the optimiser bears: the step sharpness, λmax(lr P⁻¹(H + weight decay)), may be this.

    >>> run = History.of({"step_sharpness": {0: 1.5}, "sharpness_over_limit": {0: 0.75}})
    >>> factor(run).values.tolist()
    [2.0]
    """
    return _at_common_steps(
        history,
        ("step_sharpness", "sharpness_over_limit"),
        lambda sharpness, ratio: sharpness / ratio,
    )


def lambda_max_limit(history: History) -> Series:
    """The λmax beyond which steps grow, where one learning rate and no preconditioner is at work.

    It is (factor - step sharpness)/lr above λmax, whatever the weight decay. No values for adaptive
    optimisers: theirs is a limit of the step sharpness, which is followed by itself.

    >>> sgd = {"lambda_max": {0: 3.0}, "lr": {0: 0.5}}  # 2/lr, of plain gradient descent
    >>> ratio = {"step_sharpness": {0: 1.5}, "sharpness_over_limit": {0: 0.75}}
    >>> lambda_max_limit(History.of({**sgd, **ratio})).values.tolist()
    [4.0]
    """
    if is_adaptive(history):
        return history.get("")
    return _at_common_steps(
        history,
        ("step_sharpness", "sharpness_over_limit", "lambda_max", "lr"),
        lambda sharpness, ratio, top, lr: top + (sharpness / ratio - sharpness) / lr,
    )


def is_adaptive(history: History) -> bool:
    """Whether the step sharpness is an eigenvalue of its own, not λmax times a number."""
    return "step_sharpness_age" in history


def _at_common_steps(
    history: History, keys: tuple[str, ...], formula: Callable[..., float]
) -> Series:
    """A formula of several series, at the steps where all are known and it is finite."""
    parts = [dict(_pairs(history.get(key))) for key in keys]
    steps = sorted(set.intersection(*(set(part) for part in parts)))
    known = {step: [part[step] for part in parts] for step in steps}
    usable = {step: numbers for step, numbers in known.items() if all(numbers)}
    found = {step: formula(*numbers) for step, numbers in usable.items()}
    return History.of({"found": found})["found"].finite()


def _pairs(series: Series) -> zip[tuple[int, float]]:
    return zip(series.steps.tolist(), series.values.tolist(), strict=True)
