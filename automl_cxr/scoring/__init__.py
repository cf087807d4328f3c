"""Metrics, predictions and confidence intervals."""
