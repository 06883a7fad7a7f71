"""Results, and runs, as one self-contained HTML page: no network, readable on paper and phone."""

from hesscope.report.page import write as write
from hesscope.report.run import write_run as write_run
