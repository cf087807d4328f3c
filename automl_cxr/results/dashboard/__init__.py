"""The Optuna dashboard for the storage of studies, with computed notes, figures and trial pages."""

from automl_cxr.results.dashboard.serving import serve_dashboard

__all__ = ["serve_dashboard"]
