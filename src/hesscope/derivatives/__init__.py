"""Derivatives of activations in their inputs and of losses in the outputs, each written once."""
