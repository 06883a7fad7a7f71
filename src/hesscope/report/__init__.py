"""Results as one self-contained HTML page: no script, no network, readable on paper and phone."""

from hesscope.report.page import write as write
