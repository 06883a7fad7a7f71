"""Sagun, Bottou and LeCun (2016): one module for each figure, and what they share."""
