"""Weights over saved predictions."""
