"""Numerics on any symmetric operator; they know nothing of networks or processes."""
