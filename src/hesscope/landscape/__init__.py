"""The loss away from the point where a model stands: along lines between two of its states."""
