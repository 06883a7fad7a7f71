"""The loss away from the point where a model stands: between two states, and down from saddles."""
