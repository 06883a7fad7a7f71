"""Exact Hessians of multilayer perceptrons, assembled without products."""
