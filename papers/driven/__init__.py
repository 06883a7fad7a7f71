"""Sagun, Bottou and LeCun's networks, wider and further: what papers/critical.py is made of."""
