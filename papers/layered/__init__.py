"""Layers and blocks: their spectra, how they are coupled, and what differs between them."""
