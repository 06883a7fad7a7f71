"""The page: what was measured, in tables. Nothing on it is typed."""

from __future__ import annotations

from typing import Any

import torch
from common.claims import spread
from common.keeping import Arrays
from common.study import table
from torch import Tensor

from acting import autoencoder, million, saddles
from acting.courses import ITERATIONS
from acting.settings import Settings


def plane(found: Arrays, s: Settings) -> str:
    """The saddle in three dimensions."""
    rows = [
        [name, *(_passed(found["steps"][k, i], found["losses"][k, i]) for k in (0, 1))]
        for i, name in enumerate(saddles.METHODS)
    ]
    start, slope = saddles.line(s.radii, found["noisy"])
    left = [int((row >= 0).sum()) for row in found["noisy"]]
    medians = [
        f"{radius:g}: {n} of {s.escapes} leave, {spread(row.double())} steps"
        for radius, row, n in zip(s.radii, found["noisy"], left, strict=True)
    ]
    return "\n\n".join(
        [
            "f = (x0² - 1)²/4 + (x1² + x2²)/2 from (x0, .7, -.4), lr = 0.1, momentum 0.9, noise of "
            f"radius 0.01 in every step; steps to f < 0.01, {s.plane_steps:,} at most. With x0 = 0 "
            "the start is exactly on the saddle's stable manifold, where no gradient knows of the "
            "way out.",
            table(["method", "x0 = 0", f"x0 = {saddles.OFF:g}"], rows),
            f"PerturbedSGD from x0 = 0, {s.escapes} seeds, by radius: " + "; ".join(medians) + ". "
            f"Medians by least squares: {start:.1f} + {slope:.2f} log(1/radius); 1/log(1 + lr) is "
            "10.49.",
        ]
    )


def own(found: Arrays, s: Settings) -> str:
    """The saddle of a linear network."""
    rows = []
    for i, name in enumerate(saddles.METHODS):
        cells = [_several(found["steps"][k, i]) for k in (0, 1)]
        rows.append([name, *cells])
    return "\n\n".join(
        [
            "A linear network of three layers, 6-6-6-6, learns a map of singular values 2 and 1 "
            "from a start that no permutation of its hidden units changes: first to the best map "
            f"of rank one, a saddle. Steps to half of its loss, lr = {saddles.LINEAR_LR}; noise of "
            f"radius 0.001 in every step; {s.linear_steps:,} at most. In the first column only "
            "rounding breaks the symmetry.",
            table(["method", "symmetric", f"{saddles.OFF:g} off"], rows),
            "A step of SaddleFreeNewton costs a gradient and at most 20 products, of 2 each.",
        ]
    )


def deep(found: dict[str, Any], best: float, constant: float, s: Settings) -> str:
    """The autoencoder."""
    courses = found["courses"]
    by_gradients = autoencoder.lowest(courses, "gradients", s.gradients)
    by_seconds = autoencoder.lowest(courses, "seconds", s.seconds)
    rows = [
        [
            name,
            _rate(found["rates"].get(name)),
            spread(by_gradients[name]),
            spread(by_seconds[name]),
        ]
        for name in autoencoder.METHODS
    ]
    grid = _grid(autoencoder.GRID)
    return "\n\n".join(
        [
            f"{'-'.join(map(str, s.widths))}, sigmoid units, Martens' sparse start, {s.examples} "
            "digits of 14 x 14 pixels, cross-entropy per pixel. The mean image has "
            f"{constant:.4f}, perfect images {best:.4f}. Gradients of all examples are the unit of "
            f"cost: a Gauss-Newton product is {found['product']:.2f} (measured), a loss 1/3. "
            "NewtonCG takes gradients of all examples and curvature of a share of them, drawn anew "
            f"for every step; batches are of {autoencoder.BATCH}; momentum is 0.9. Learning rates "
            "(of NewtonCG the products of a step, at most, and the share) are the best on seed 0 "
            f"of: {grid}. The grids were moved until the best lay inside; of NewtonCG 6 to 50 "
            "products and shares of 1/20 to 1/4 were looked at before, on seed 0.",
            table(
                [
                    "method",
                    "chosen",
                    f"loss at {s.gradients:g} gradients",
                    f"loss at {s.seconds:g} s",
                ],
                rows,
            ),
        ]
    )


def large(found: dict[str, Any], s: Settings) -> str:
    """Steps to the loss of Adam."""
    courses, rows = found["courses"], []
    for name in courses:
        counts = [million.to_adams(courses, name, u) for u in ("steps", "gradients", "seconds")]
        rows.append(
            [
                name,
                _rate(found["rates"].get(name)),
                *(spread(torch.tensor(c).double()) for c in counts),
            ]
        )
    ends = torch.tensor([float(c["loss"][-1]) for c in courses["Adam"]])
    share = torch.tensor(million.to_adams(courses, "NewtonCG", "steps")) / s.steps
    grid = _grid({name: million.GRID[name] for name in found["rates"]})
    soap = "" if "SOAP" in courses else " SOAP (pytorch_optimizer) was not installed."
    return "\n\n".join(
        [
            f"{'-'.join(map(str, s.million))}, tanh units, {million.size(s):,} parameters, "
            f"{s.images} digits of 28 x 28 pixels, all in every step. Adam with the best learning "
            f"rate ends after {s.steps} steps at a loss of {spread(ends)}; what others need for "
            f"the same on the same seed (inf: not in {s.steps} steps). NewtonCG: damping "
            f"{million.DAMPING}, at most {million.PRODUCTS} products a step, each counted as "
            f"{million.PRODUCT} gradients. L-BFGS is torch's own, seen every {ITERATIONS} "
            "iterations, which may take several gradients each. Learning rates are the best on "
            f"seed 0 of: {grid}.{soap}",
            table(["method", "chosen", "steps", "gradients", "seconds"], rows),
            f"NewtonCG needs {spread(share)} of Adam's steps, and more gradients and time.",
        ]
    )


def _passed(steps: Tensor, loss: Tensor) -> str:
    return f"{int(steps)} steps" if steps >= 0 else f"never: {float(loss):.4f}"


def _several(steps: Tensor) -> str:
    there = steps[steps >= 0].double()
    text = spread(there) if len(there) else "never"
    return text if len(there) == len(steps) else f"{text} ({len(there)} of {len(steps)})"


def _grid(rates: dict[str, tuple[Any, ...]]) -> str:
    return "; ".join(f"{n}: {', '.join(map(_rate, grid))}" for n, grid in rates.items())


def _rate(value: Any) -> str:
    """A learning rate, or the products and the share of NewtonCG."""
    if isinstance(value, tuple):
        return f"{value[0]} and 1/{value[1]}"
    return "" if value is None else f"{value:g}"
