"""Checks of a data set for duplicates, leaks between parts, and differences between classes that are not anatomical."""
