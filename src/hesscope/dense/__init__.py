"""All eigenvalues, from a matrix: in memory, in place, or kept on disk."""
