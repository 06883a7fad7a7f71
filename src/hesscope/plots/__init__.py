"""Results in, Axes out: drawing never measures, and redraws from a saved file."""

from hesscope.plots.layers import layer_map as layer_map
from hesscope.plots.spectra import eigenvalues as eigenvalues
from hesscope.plots.spectra import spectrum_histogram as spectrum_histogram
