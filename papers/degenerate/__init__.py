"""Degenerate minima: how singular, how wide, how long training takes; for papers/singular.py."""
