"""Figures where scripts do not run: matplotlib's, in the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hesscope import plots
from hesscope.plots.style import detached
from hesscope.report.figures import Figure
from hesscope.results import html
from hesscope.results.density import SpectralDensity
from hesscope.results.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOTS = 60  # that are drawn one by one, with their intervals
_INK = "#010203"  # stands for the colour of the page's text until the figure is in the page


@detached()
def still(figure: Figure, results: Mapping[str, Any]) -> str:
    """The same figure, standing still."""
    few = len(figure.series[0].x) <= MOST_DOTS
    if figure.key.startswith("pairs-") and few:
        return svg(plots.eigenvalues(results[figure.key.removeprefix("pairs-")]), figure.key)
    if figure.key == "spectrum":
        return svg(plots.spectrum_histogram(_first(results, Spectrum)), "spectrum")
    if figure.key == "density":
        return svg(plots.density(_first(results, SpectralDensity)), "density")
    seen = figure.series[0]
    ends = f"{figure.y.label} at {seen.x[0]:.3g}", f"at {seen.x[-1]:.3g} {figure.x.label}"
    return html.line(seen.x, seen.y, ends)


def svg(ax: Axes, name: str = "still") -> str:
    """The figure as SVG that inherits the page's text colour and holds no outside reference.

    Its own addresses begin with the name, so that two figures on a page have none in common.
    """
    import matplotlib as mpl  # an optional dependency
    from matplotlib.text import Text

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hesscope"}):
        legends = [part.get_legend() for part in ax.figure.axes]
        framed = [one for one in legends if one is not None and one.get_frame_on()]
        kept = {id(text) for one in framed for text in one.findobj(Text)}  # they stand on a box
        for text in ax.figure.findobj(Text):
            if id(text) not in kept:
                text.set(color=_INK)
        for part in ax.figure.axes:
            for spine in part.spines.values():
                spine.set_edgecolor(_INK)
            part.tick_params(colors=_INK)
        buffer = io.StringIO()
        ax.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})  # type: ignore[union-attr]
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    own = re.sub(r"\W+", "-", name)
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}-", drawn)
    shown = rf'<svg viewBox="\1" role="img" aria-label="{own}">'
    return re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', shown, drawn, count=1)


def _first(results: Mapping[str, Any], kind: type) -> Any:
    return next((result for result in results.values() if isinstance(result, kind)), None)
