"""The Hessian as a sum, H = G + R: along training, in wide networks, in deep linear ones."""
