"""Eigenpairs from products: Lanczos, certificates, the search for the wanted ones."""
