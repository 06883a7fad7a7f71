"""Is the loss of a batch the same each time, and if not, what makes it another?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from hesscope.checks.draws import what_draws
from hesscope.checks.state import State
from hesscope.problem.evaluation import Evaluation
from hesscope.results.check import Finding


def loss_is_repeatable(state: State) -> Finding | None:
    """One batch has one loss, under one random seed and under another."""
    with state.problem.evaluation() as e:
        once, again, other = _losses(state, e)
    if once != again and not close(once, again, state.tolerance):
        return Finding(
            "stateful_loss",
            f"two evaluations of one batch under one random seed differ ({once:.8g}, {again:.8g}): "
            "the model or the loss keeps state between calls, or writes into its inputs.",
            "reset that state in forward(), or register it with register_buffer; replace in-place "
            "operations on inputs, such as x.mul_(2), by x * 2.",
        )
    if once == other or close(once, other, state.tolerance):
        return None
    return _why_random(state, f"two evaluations of one batch differ ({once:.8g}, {other:.8g})")


def _losses(state: State, e: Evaluation) -> tuple[float, float, float]:
    """The losses of the first batch under one seed, the same, and another."""
    batch = state.first_batch()
    once, again, other = (float(e.finite_loss(batch, seed=s).detach()) for s in (1, 1, 2))
    return once, again, other


def _why_random(state: State, numbers: str) -> Finding:
    """Tried out: is it gone without the active dropout layers, or in evaluation mode?"""
    problem = state.problem
    with problem.evaluation() as e:
        active = named(state.modules(), lambda m: m.training and "Dropout" in type(m).__name__)
        with switched_off([module for _, module in active]):
            by_layers = bool(active) and _is_settled(state, e)
        with switched_off([module for _, module in state.modules()]):
            by_mode = _is_settled(state, e)
    names = ", ".join(name for name, _ in active[:3])
    if by_layers and problem.training:
        return Finding(
            "dropout",
            f"{numbers}: dropout is active in {names}, for training=True asks for training mode; "
            "every evaluation is another network.",
            "measure in evaluation mode: leave out training=True.",
        )
    if by_layers:
        return Finding(
            "dropout",
            f"{numbers}: dropout is active in {names}, though hesscope puts the model into "
            "evaluation mode; every evaluation is another network.",
            "call .eval() on it, if it stands outside the model; else let train() and .eval() of "
            "the model reach it.",
        )
    if by_mode and problem.training:
        return Finding(
            "random_loss",
            f"{numbers}: in training mode the model draws random numbers{_where(state)}, in "
            "evaluation mode not.",
            "measure in evaluation mode: leave out training=True.",
        )
    return Finding(
        "random_loss",
        f"{numbers}, in evaluation mode, too: the model or the loss draws random numbers"
        f"{_where(state)}, such as masks, noise, or F.dropout without training=self.training.",
        "pass training=self.training to F.dropout, switch the noise off while measuring, or hand "
        "the random numbers over with the batch, if the model takes them (noise=...).",
    )


def _where(state: State) -> str:
    """The operations that draw, in brackets."""
    found = what_draws(state)
    return f" ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})" if found else ""


def _is_settled(state: State, e: Evaluation) -> bool:
    once, _, other = _losses(state, e)
    return once == other or close(once, other, state.tolerance)


@contextmanager
def switched_off(modules: list[nn.Module]) -> Iterator[None]:
    """Inside, these modules believe that they are in evaluation mode."""
    flags = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def named(
    modules: list[tuple[str, nn.Module]], test: Callable[[nn.Module], bool]
) -> list[tuple[str, nn.Module]]:
    """The modules that pass a test, with their names."""
    return [(name, module) for name, module in modules if test(module)]


def close(a: float, b: float, tolerance: float) -> bool:
    """Whether two losses agree up to rounding; NaN agrees with nothing."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-30)
