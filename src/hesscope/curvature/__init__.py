"""Curvature operators of a Problem, and the checks that say whether to trust them."""
