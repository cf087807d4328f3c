"""One file for each way to lay out a data set; ``data/layouts.py`` has the table of them."""
