"""Quantities of the loss and its gradient."""

from __future__ import annotations

import math

from torch import Tensor

from hesscope.examination.look import Look
from hesscope.sampling.gradient import gradient_with_noise


def loss(look: Look) -> float:
    """The mean loss."""
    look.spend(gradients=0.5)
    return look.problem.loss()


def noisy_gradient(look: Look) -> tuple[Tensor, float]:
    """The mean gradient and its standard error over the data."""
    look.spend(gradients=1.0)
    return gradient_with_noise(look.problem)


def gradient(look: Look) -> Tensor:
    """The mean gradient, (n,)."""
    found: Tensor = look.of(noisy_gradient)[0]
    return found


def gradient_noise(look: Look) -> float:
    """Its standard error over the data; NaN where that is not known."""
    return float(look.of(noisy_gradient)[1])


def along_gradient(look: Look) -> tuple[float, float, Tensor]:
    """g·g, g·Hg and Hg."""
    g = look.of(gradient)
    curvature, product = look.along(g)
    return look.dot(g, g), curvature, product


def gradient_curvature(look: Look) -> float:
    """g·Hg/g·g, the curvature along the gradient; NaN without a gradient."""
    squared, curvature, _ = look.of(along_gradient)
    return curvature / squared if squared > 0 else math.nan
