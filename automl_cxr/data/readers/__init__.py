"""Readers of data set layouts, which are listed in ``data/layouts.py``."""
