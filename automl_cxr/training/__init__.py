"""Training of one configuration, from pixels to predictions."""
