"""What is the luck of the data in a gradient, an eigenvalue, an example's share."""
