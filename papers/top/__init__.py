"""The largest eigenvalues: where they come from, and what may be done with their directions."""
