"""Mirrors finished trials of a study to MLflow, Weights & Biases or TensorBoard."""
