"""Data only: frozen dataclasses that print well, know their error and cost, and can be saved."""
