"""Is the loss the one that is meant, or that of mixed precision, which a GradScaler has scaled?"""

from __future__ import annotations

from typing import Any

from torch.amp import GradScaler

from hesscope.checks.state import State
from hesscope.problem.behind import reached_by
from hesscope.results.check import Finding


def scaled_loss(state: State) -> Finding | None:
    """What a loss is multiplied with by the scaler that it reaches, which is taken out to see.

    Costs a loss of one batch, and only where a scaler is reached.
    """
    for scaler in reached_by(state.problem.closure):
        if not isinstance(scaler, GradScaler):
            continue
        here = _loss(state)
        scaler.scale = _as_it_is  # type: ignore[method-assign]
        try:
            plain = _loss(state)
        finally:
            del scaler.scale
        if abs(here - plain) > state.usual_tolerance * abs(here):
            return Finding(
                "scaled_loss",
                f"the loss is {here:.6g} where it is {plain:.6g} without the GradScaler that it "
                f"calls: loss, gradient and Hessian are {here / plain:.6g} times too large."
                if plain
                else "the loss is multiplied by a GradScaler.",
                "leave the scaler out of the loss: loss_fn=criterion, not scaler.scale(criterion).",
            )
    return None


def _as_it_is(outputs: Any) -> Any:
    return outputs


def _loss(state: State) -> float:
    with state.problem.evaluation() as e:
        return float(e.loss(state.first_batch()).detach())
