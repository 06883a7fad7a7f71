"""What was looked at, in a few words for the top of a page."""

from __future__ import annotations

import math

from hesscope.results.measurements import Measurements


def overview(look: Measurements) -> dict[str, str]:
    """Model, optimiser, loss and accuracy, as far as the look knows them.

    >>> look = Measurements({"loss": 0.25}, facts={"model": "MLP", "n": 1930, "items": 700.0})
    >>> overview(look)
    {'model': 'MLP, 1,930 parameters', 'loss': '0.25 on 700 items'}
    """
    facts, found = look.facts, {}
    trained = look.get("trained")
    parts = [str(facts["model"])] if "model" in facts else []
    if trained is not None and trained.num_layers:
        parts.append(f"{trained.num_layers:,} layer{'s' if trained.num_layers > 1 else ''}")
    if "n" in facts:
        parts.append(f"{facts['n']:,} parameters")
    if parts:
        found["model"] = ", ".join(parts)
    optimiser, step = look.asked.get("optimizer"), look.get("step")
    lr = look.asked.get("lr") if step is None or step.lr is None else step.lr
    moved = [str(optimiser)] if optimiser else []
    moved += [f"lr {lr:.4g}"] if lr is not None else []
    if moved:
        found["optimiser"] = ", ".join(moved)
    if "loss" in look:
        on = f" on {facts['items']:,.6g} items" if "items" in facts else ""
        found["loss"] = f"{look['loss']:.4g}{on}"
    predictions = look.get("predictions")
    if predictions is not None and math.isfinite(predictions.accuracy):
        num = predictions.num_examples
        found["accuracy"] = f"{predictions.accuracy:.1%} of {num:,} examples that were looked at"
    return found
