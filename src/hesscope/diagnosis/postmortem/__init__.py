"""A history in, causes out: which signal came first before a spike, and what explains it."""
