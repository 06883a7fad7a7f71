"""Results in, verdicts out; nothing here measures."""
