"""AutoML and hyperparameter search for chest X-ray classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automl_cxr.api import (
        SearchOptions,
        SpliceOptions,
        Study,
        apply_ensemble,
        audit,
        combine_predictions,
        copy_study,
        delete_study,
        describe,
        inspect,
        list_studies,
        open_study,
        predict,
        search,
        splice,
    )
    from automl_cxr.api.estimator import AutoChestXrayClassifier

from automl_cxr.version import __version__ as __version__

__all__ = [
    "AutoChestXrayClassifier",
    "SearchOptions",
    "SpliceOptions",
    "Study",
    "apply_ensemble",
    "audit",
    "combine_predictions",
    "copy_study",
    "delete_study",
    "describe",
    "inspect",
    "list_studies",
    "open_study",
    "predict",
    "search",
    "splice",
]


def __getattr__(name: str) -> Any:
    """Import the public functions on first use, so that `automl-cxr --help` does not import pandas and Optuna."""
    if name not in __all__:
        raise AttributeError(f"module 'automl_cxr' has no attribute '{name}'")
    if name == "AutoChestXrayClassifier":
        from automl_cxr.api.estimator import AutoChestXrayClassifier  # importing scikit-learn takes a second

        return AutoChestXrayClassifier
    from automl_cxr import api

    return getattr(api, name)
