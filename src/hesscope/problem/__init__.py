"""What is minimised: a model, a loss and data, averaged in one place."""
