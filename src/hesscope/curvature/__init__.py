"""Curvature operators of a Problem: Hessian, Gauss-Newton, Fisher, tangent kernel."""
