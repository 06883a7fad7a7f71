"""Methods that act on curvature, run beside those that do not."""
