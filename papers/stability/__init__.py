"""Training at the edge of stability: what papers/edge_of_stability.py measures."""
