"""Explanations of predictions: Grad-CAM, activation maps and SHAP values."""
