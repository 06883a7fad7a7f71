"""Quantities of the network itself: its layers, units and input features."""

from __future__ import annotations

from hesscope.anatomy.feature_scales import feature_ratio as feature_ratio_of
from hesscope.anatomy.layer_statistics import layer_statistics
from hesscope.examination.gradients import gradient
from hesscope.examination.look import Look
from hesscope.examination.spectral import eigenpairs
from hesscope.results.layers import LayerStatistics

LAYERS, FEATURES = 2 / 3, 1 / 3  # gradients: a forward pass each, with extremes or moments


def layers(look: Look) -> LayerStatistics:
    """Norms of weights and gradient layer by layer, and the units that are idle."""
    pairs = look.maybe(eigenpairs)
    top = None if pairs is None else pairs.eigenvectors[:, 0]
    look.spend(gradients=LAYERS)
    return layer_statistics(look.problem, look.of(gradient), top)


def feature_ratio(look: Look) -> float:
    """The largest over the smallest scale of the input features; NaN if not known."""
    look.spend(gradients=FEATURES)
    return feature_ratio_of(look.problem)
