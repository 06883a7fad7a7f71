"""Results in, Axes out: drawing never measures, and redraws from a saved file."""

from hesscope.plots.basin import basin as basin
from hesscope.plots.density import density as density
from hesscope.plots.heatmap import heatmap as heatmap
from hesscope.plots.landscapes import interpolation as interpolation
from hesscope.plots.landscapes import path as path
from hesscope.plots.layers import layer_map as layer_map
from hesscope.plots.series import eigenvalues_over_checkpoints as eigenvalues_over_checkpoints
from hesscope.plots.sharpness import sharpness as sharpness
from hesscope.plots.slices import contour as contour
from hesscope.plots.slices import line as line
from hesscope.plots.slices import surface as surface
from hesscope.plots.spectra import eigenvalues as eigenvalues
from hesscope.plots.spectra import spectrum_histogram as spectrum_histogram
from hesscope.plots.style import paper_style as paper_style
from hesscope.plots.training import spectra_over_training as spectra_over_training
