"""What a curvature is made of: classes, layers, units, the two halves H = G + R."""
