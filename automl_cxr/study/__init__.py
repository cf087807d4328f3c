"""Studies: their specification, record and files, and the search that runs their trials."""
