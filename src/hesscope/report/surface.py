"""Fills the page of a loss on a plane: a surface to turn, and the plane from above."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesscope import plots
from hesscope.plots.style import detached
from hesscope.report.sections import shown
from hesscope.report.stills import svg
from hesscope.report.template import plain, rendered, written
from hesscope.results.slices import Slice
from hesscope.results.tables import tables

MOST = 121  # points of an axis that are drawn
MOST_STEPS = 500  # of a trajectory
MOST_ROWS = 200  # of a table; the button above the surface copies all that is drawn


def write_surface(path: str | Path, title: str, result: Slice) -> Path:
    """Writes the page of a slice in two directions and returns its path.

    One file below a megabyte that asks for nothing: a surface to turn and to read values from,
    with θ and the trajectory on it; without scripts, contours are there.

    Args:
        path: of the page.
        title: its heading.
        result: of `hs.loss_slice` in two directions.

    Raises:
        ValueError: if the slice has one direction, or no loss is finite.
        RuntimeError: if the file cannot be written or jinja2 and matplotlib are missing.
    """
    with detached():
        contours = plots.contour(result, log=_is_wide(result.losses))
    page = rendered(
        "surface.html",
        title=title,
        cost=f"{result.num_evaluations:,} losses, {result.num_matvecs} matvecs",
        contours=svg(contours, "contours"),
        tables=[shown(table, MOST_ROWS) for table in tables(result, "Loss on the plane")],
        data=json.dumps(_data(result), separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        ),
        facts={key: plain(value) for key, value in result.facts.items() if key != "provenance"},
        provenance=result.facts.get("provenance", {}),
    )
    return written(path, page)


def _is_wide(losses: Tensor) -> bool:
    """Whether a logarithm shows more: all positive, and the largest a hundred times the least."""
    finite = losses[losses.isfinite()]
    return bool(len(finite)) and 0 < 100 * float(finite.min()) < float(finite.max())


def _data(result: Slice) -> dict[str, Any]:
    """What the script draws; null where a loss is not finite."""
    rows, columns = (_few(len(axis)) for axis in result.axes)
    losses = result.losses[rows][:, columns]
    path = result.directions.trajectory
    if path is not None:
        path = path[torch.linspace(0, len(path) - 1, min(len(path), MOST_STEPS)).long()]
    return {
        "axes": [_short(result.axes[0][rows]), _short(result.axes[1][columns])],
        "losses": [_short(row) for row in losses],
        "names": list(result.directions.names),
        "unit": result.directions.unit,
        "theta": _short(torch.tensor([result.loss]))[0],
        "log": _is_wide(result.losses),
        "path": [] if path is None or path.shape[1] != 2 else [_short(p) for p in path],
    }


def _few(num: int) -> Tensor:
    """Indices of points that are drawn, both ends and the middle among them."""
    return torch.linspace(0, num - 1, min(num, MOST)).round().long()


def _short(values: Tensor) -> list[float | None]:
    """Six digits of each; None where it is not finite.

    >>> _short(torch.tensor([1 / 3, float("nan")]).double())
    [0.333333, None]
    """
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
