"""Faults planted where a check may not look, and healthy models that look suspicious."""
