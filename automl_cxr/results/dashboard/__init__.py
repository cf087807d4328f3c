"""The Optuna dashboard over a studies' storage, with pictures and notes of this program's that stand in no storage."""

from automl_cxr.results.dashboard.serving import serve_dashboard

__all__ = ["serve_dashboard"]
