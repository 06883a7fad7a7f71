"""The user's optimiser: its state, its next step, its preconditioner, what it can bear."""
