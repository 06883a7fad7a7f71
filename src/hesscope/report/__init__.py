"""Results, runs and surfaces, as one HTML page each: no network, readable on paper and phone."""

from hesscope.report.page import write as write
from hesscope.report.run import write_run as write_run
from hesscope.report.surface import write_surface as write_surface
