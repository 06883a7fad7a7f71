"""Curvature as a tool for finding what is wrong: what papers/debugging.py measures."""
