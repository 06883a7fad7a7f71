"""The machine: memory, progress, processes."""
