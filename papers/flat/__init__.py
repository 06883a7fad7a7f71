"""Flat minima by six ways of training, compared at equal training loss."""
