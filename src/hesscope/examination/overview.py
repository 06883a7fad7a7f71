"""What was looked at, in a few words for the top of a page."""

from __future__ import annotations

import math
from datetime import datetime

from hesscope.results.measurements import Measurements


def overview(look: Measurements) -> dict[str, str]:
    """Model, optimiser, loss, accuracy, batches and date, as far as the look knows them.

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
    moved = [str(optimiser)] if optimiser else ["gradient descent"] if lr is not None else []
    moved += [f"lr {lr:.4g}"] if lr is not None else []
    if moved:
        found["optimiser"] = ", ".join(moved)
    if look.asked.get("batch_size") is not None:
        found["batches"] = f"{look.asked['batch_size']:,} examples each"
    if "loss" in look:
        on = f" on {facts['items']:,.6g} items" if "items" in facts else ""
        found["loss"] = f"{look['loss']:.4g}{on}"
    predictions = look.get("predictions")
    if predictions is not None and math.isfinite(predictions.accuracy):
        num = predictions.num_examples
        found["accuracy"] = f"{predictions.accuracy:.1%} of {num:,} examples that were looked at"
    if isinstance(look.get("held_out_loss"), float):
        found["held-out loss"] = f"{look['held_out_loss']:.4g}"
    created = facts.get("provenance", {}).get("created")
    return found | ({"date": _day(created)} if created else {})


def _day(created: str) -> str:
    """A moment as it is read.

    >>> _day("2026-11-26T23:12:47+00:00")
    '26 November 2026, 23:12 UTC'
    """
    at = datetime.fromisoformat(created)
    months = "January February March April May June July August September October November December"
    return f"{at.day} {months.split()[at.month - 1]} {at.year}, {at:%H:%M} {at.tzname()}"
