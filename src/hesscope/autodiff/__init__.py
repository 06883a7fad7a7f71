"""Products with second derivatives, from graphs of automatic differentiation."""
