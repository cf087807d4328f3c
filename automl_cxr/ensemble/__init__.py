"""Ensembles: weights and combiners for saved predictions."""
