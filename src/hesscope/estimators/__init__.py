"""Densities, traces and other functions of a spectrum, from products, with their errors."""
