"""Colour scales that all figures share: signs, counts and the order of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hesscope.plots.style import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

LINE = "#3d4249"  # thin lines and marks on a coloured ground
_DARK_NEGATIVE, _MIDDLE, _DARK_POSITIVE = "#862813", "#ffffff", "#123a70"
LIGHTEST = 0.85  # of cividis: what is lighter cannot be read on white


def diverging() -> Colormap:
    """From the colour of negative values through white to that of positive ones, darker outside."""
    from matplotlib.colors import LinearSegmentedColormap  # an optional dependency

    stops = [_DARK_NEGATIVE, NEGATIVE, _MIDDLE, POSITIVE, _DARK_POSITIVE]
    places = [0.0, 0.22, 0.5, 0.78, 1.0]
    return LinearSegmentedColormap.from_list("signed", list(zip(places, stops, strict=True)))


def sequence(num: int) -> list[tuple[float, float, float, float]]:
    """Colours for things in an order, from dark to light; safe for the colour-blind (cividis)."""
    from matplotlib import colormaps  # an optional dependency

    return [tuple(colour) for colour in colormaps["cividis"](np.linspace(0, LIGHTEST, num))]
