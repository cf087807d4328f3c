"""Where the wings meet: a study's description, its record, and the search that fills it."""
