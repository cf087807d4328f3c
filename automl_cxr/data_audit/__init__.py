"""The audit of a data set: duplicates, leaks between parts, and non-anatomical differences between classes."""
