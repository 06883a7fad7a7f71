"""Landscapes: one file a question, and the networks and data that they share."""
