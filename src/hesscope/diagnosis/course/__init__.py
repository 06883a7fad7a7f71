"""A history in, verdicts out: what a run has been through, and what it is heading for."""
